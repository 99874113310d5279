//! Finds the service and the method that a path names, `/pkg.Service/Method`, among those that
//! rules know. It is built off a call's way, whenever the set of services and methods changes, and
//! then read by every call: without a lock, without an allocation, and in the same time whatever
//! is asked for.
//!
//! ```
//! use sidelane::routing::{MethodRule, PathIndex};
//!
//! let methods = [MethodRule::unary("Get"), MethodRule::unary("Put")];
//! let index = PathIndex::new([("shop.v1.Orders", &methods[..]), ("shop.v1.Log", &[])]);
//! let put = index.find("/shop.v1.Orders/Put")?;
//! assert_eq!((put.service, put.method), (Some(0), Some(1)));
//! let unheard = index.find("/shop.v1.Log/Append")?;
//! assert_eq!((unheard.service, unheard.method), (Some(1), None));
//! assert!(index.find("/shop.v1.Orders//Put").is_err());
//! # Ok::<(), sidelane::routing::PathError>(())
//! ```

mod perfect;

use sidelane_proto::model::{CallPath, MethodRule, PathError};

use perfect::{Names, Perfect};

/// The most paths of known methods that an index holds: about 25 MB of them. Methods of services
/// that come later in the list are found by their service alone.
pub const PATHS_LIMIT: usize = 1 << 18;

/// What a path leads to. `S` is the service: its place in the list that the index was made from,
/// or whatever stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<S> {
    /// The service; `None` where it is not among those that the index knows.
    pub service: Option<S>,
    /// The place of the method in its rule; `None` where the rule does not know it.
    pub method: Option<usize>,
    /// Where the service's name ends in the path. It begins at 1.
    pub service_end: usize,
}

/// Services and methods by their paths.
#[derive(Debug, Clone, Default)]
pub struct PathIndex {
    /// Every path that is known to the letter. What equals one of them is well-formed, so most
    /// calls need no other check.
    paths: Perfect<Place>,
    /// For methods that no rule names.
    services: Perfect<u32>,
    whole: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    service: u32,
    method: u16,
    service_end: u16,
}

impl<S> Found<S> {
    /// A well-formed path of which nothing is known.
    ///
    /// # Errors
    /// What is wrong with its form.
    pub fn unknown(path: &str) -> Result<Self, PathError> {
        let path = CallPath::parse(path)?;
        Ok(Self {
            service: None,
            method: None,
            service_end: 1 + path.service.len(),
        })
    }

    /// The path that was looked up, taken apart.
    #[must_use]
    pub fn split<'a>(&self, path: &'a str) -> CallPath<'a> {
        CallPath {
            service: path.get(1..self.service_end).unwrap_or_default(),
            method: path.get(self.service_end + 1..).unwrap_or_default(),
        }
    }

    /// The same, with what stands at the service's place.
    pub fn map<T>(self, service: impl FnOnce(S) -> Option<T>) -> Found<T> {
        Found {
            service: self.service.and_then(service),
            method: self.method,
            service_end: self.service_end,
        }
    }
}

impl PathIndex {
    /// An index of these services, in this order, each with its methods in their order. Names are
    /// those of rules that were checked; the first of two services or methods of one name counts.
    #[must_use]
    pub fn new<'a>(services: impl IntoIterator<Item = (&'a str, &'a [MethodRule])>) -> Self {
        Self::bounded(services, PATHS_LIMIT)
    }

    fn bounded<'a>(
        services: impl IntoIterator<Item = (&'a str, &'a [MethodRule])>,
        limit: usize,
    ) -> Self {
        let (mut names, mut paths) = (Names::new(), Names::new());
        let mut path = String::new();
        let mut whole = true;
        for (service, (name, methods)) in (0_u32..).zip(services) {
            names.add(name, service);
            let Ok(service_end) = u16::try_from(name.len() + 1) else {
                continue;
            };
            whole &= paths.len() + methods.len() <= limit;
            if !whole {
                continue;
            }
            for (method, rule) in (0_u16..).zip(methods) {
                path.clear();
                for part in ["/", name, "/", &*rule.name] {
                    path.push_str(part);
                }
                let place = Place {
                    service,
                    method,
                    service_end,
                };
                paths.add(&path, place);
            }
        }
        Self {
            paths: Perfect::new(paths),
            services: Perfect::new(names),
            whole,
        }
    }

    /// Looks a path up.
    ///
    /// # Errors
    /// What is wrong with its form. A well-formed path of an unknown service is no error here.
    #[inline]
    pub fn find(&self, path: &str) -> Result<Found<usize>, PathError> {
        match self.paths.find(path.as_bytes()) {
            Some(place) => Ok(Found {
                service: usize::try_from(place.service).ok(),
                method: Some(usize::from(place.method)),
                service_end: usize::from(place.service_end),
            }),
            None => self.find_service(path),
        }
    }

    /// A method that no rule names, of a service that may be known.
    fn find_service(&self, path: &str) -> Result<Found<usize>, PathError> {
        // A service that is known has no slash in it, so the last one is where it ends.
        let parts = path
            .strip_prefix('/')
            .and_then(|rest| rest.rsplit_once('/'));
        if let Some((name, method)) = parts
            && let Some(service) = self.service(name)
            && CallPath::is_method(method)
        {
            return Ok(Found {
                service: Some(service),
                method: None,
                service_end: 1 + name.len(),
            });
        }
        Found::unknown(path)
    }

    /// The place of a service.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<usize> {
        let service = self.services.find(name.as_bytes())?;
        usize::try_from(service).ok()
    }

    /// Does it know every method of every service? Where it does not ([`PATHS_LIMIT`]), one that
    /// it does not find may be in the service's rule all the same.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ORDERS: [MethodRule; 3] = [
        MethodRule::unary("Get"),
        MethodRule::streaming("Watch", false, true),
        MethodRule::unary("Put"),
    ];

    fn index() -> PathIndex {
        PathIndex::new([
            ("shop.v1.Orders", &ORDERS[..]),
            ("shop.v1.Log", &[]),
            ("Plain", &ORDERS[..1]),
        ])
    }

    fn found(path: &str) -> (Option<usize>, Option<usize>) {
        let found = index().find(path).unwrap();
        let split = found.split(path);
        assert_eq!(Ok(split), CallPath::parse(path));
        (found.service, found.method)
    }

    #[test]
    fn paths_lead_to_their_service_and_method() {
        assert_eq!(found("/shop.v1.Orders/Get"), (Some(0), Some(0)));
        assert_eq!(found("/shop.v1.Orders/Put"), (Some(0), Some(2)));
        assert_eq!(found("/Plain/Get"), (Some(2), Some(0)));
        assert_eq!(found("/shop.v1.Orders/Delete"), (Some(0), None));
        assert_eq!(found("/shop.v1.Log/Get"), (Some(1), None));
        assert_eq!(found("/shop.v1.Order/Get"), (None, None));
        assert_eq!(found("/Orders/Get"), (None, None));
    }

    #[test]
    fn malformed_paths_are_refused_as_the_parser_refuses_them() {
        for path in [
            "",
            "/",
            "*",
            "shop.v1.Orders/Get",
            "//shop.v1.Orders/Get",
            "/shop.v1.Orders//Get",
            "/shop.v1.Orders/Get/",
            "/shop.v1.Orders/Get?x=1",
            "/shop.v1.Orders/Ge%74",
            "/shop.v1.Orders/9",
            "/shop.v1.Orders/",
            "/shop.v1.Orders",
            "/shop.v1.Log/Gét",
            &format!("/shop.v1.Log/{}", "G".repeat(256)),
            &format!("/shop.v1.Log/{}", "G".repeat(5_000)),
        ] {
            let refused = index().find(path).unwrap_err();
            assert_eq!(Err(refused), CallPath::parse(path), "{path}");
        }
        let longest = format!("/shop.v1.Log/{}", "G".repeat(255));
        assert_eq!(found(&longest), (Some(1), None));
    }

    #[test]
    fn past_the_bound_methods_are_found_by_their_service_alone() {
        assert!(index().is_whole());
        let services = [
            ("a.A", &ORDERS[..2]),
            ("b.B", &ORDERS[..]),
            ("c.C", &ORDERS[..1]),
        ];
        let index = PathIndex::bounded(services, 4);
        assert!(!index.is_whole());
        let place = |path| {
            let found = index.find(path).unwrap();
            (found.service, found.method)
        };
        assert_eq!(place("/a.A/Watch"), (Some(0), Some(1)));
        assert_eq!(place("/b.B/Get"), (Some(1), None));
        assert_eq!(place("/c.C/Get"), (Some(2), None));
        assert!(PathIndex::bounded(services, 6).is_whole());
    }

    #[test]
    fn an_empty_index_knows_nothing_and_says_so() {
        let index = PathIndex::default();
        assert_eq!(index.find("/a.B/C").unwrap().service, None);
        assert!(index.find("/a.B").is_err());
        assert_eq!(index.service("a.B"), None);
    }
}
