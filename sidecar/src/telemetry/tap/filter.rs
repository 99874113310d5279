//! Which calls a tap is about. Pure: what can be said of a call when it comes, and what only when it
//! has ended, are asked apart, so that nothing is kept of calls that are out of the question.

use std::time::Duration;

use sidelane_process::settings::{nearest, value};
use sidelane_proto::model::{ConnectionClass, Lane};
use tonic::Code;

use crate::reason::Reason;
use crate::telemetry::Direction;
use crate::telemetry::trace::name_of;

/// Values of all filters of a tap together.
pub const VALUES_LIMIT: usize = 64;

/// The names of filters, as they are asked for.
pub const NAMES: [&str; 9] = [
    "service",
    "method",
    "path",
    "connection",
    "lane",
    "direction",
    "peer",
    "status",
    "above",
];

/// Of the values of one kind one has to fit, and each kind that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    services: Vec<Pattern>,
    methods: Vec<Pattern>,
    paths: Vec<Pattern>,
    connections: Vec<Pattern>,
    lanes: Vec<Pattern>,
    directions: Vec<Direction>,
    peers: Vec<Pattern>,
    statuses: Vec<Wanted>,
    above: Option<Duration>,
}

/// A filter that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// There is no such filter.
    #[error("there is no filter `{given}`; the nearest one is `{nearest}`")]
    Unknown {
        /// As it was asked for.
        given: String,
        /// What was probably meant.
        nearest: String,
    },
    /// Its value cannot be.
    #[error("{name}={given}: {why}")]
    Value {
        /// The filter.
        name: &'static str,
        /// As it was asked for.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// More than are taken.
    #[error("more than {VALUES_LIMIT} values of filters")]
    TooMany,
}

/// A whole text, or one that begins so: `shop.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Whole(String),
    Begins(String),
}

/// How a call must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Not with OK.
    Error,
    /// With this gRPC status, whoever said it.
    Status(u16),
    /// With this reason, which the mesh gives.
    Because(Reason),
}

/// What is known of a call when it comes.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// From where.
    pub direction: Direction,
    /// The path, which may be none of gRPC's.
    pub path: &'a str,
    /// Class and lane; `None` where it was refused before they were known.
    pub way: Option<(&'a str, &'a str)>,
}

/// What is known of a call when it has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// The gRPC status; 17 is none.
    pub status: u16,
    /// Where the mesh failed it.
    pub reason: Option<Reason>,
    /// Who was at the other end.
    pub peer: Option<&'a str>,
    /// The address of the user who calls.
    pub user: Option<&'a str>,
    /// Whose certificate that has shown.
    pub identity: Option<&'a str>,
    /// How long it took.
    pub took: Duration,
}

impl Filter {
    /// Reads filters, as they stand in a query.
    ///
    /// # Errors
    /// The first that means nothing.
    pub fn read<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, BadFilter> {
        let mut filter = Self::default();
        for (number, (name, given)) in pairs.into_iter().enumerate() {
            if number >= VALUES_LIMIT {
                return Err(BadFilter::TooMany);
            }
            filter.add(name, given)?;
        }
        Ok(filter)
    }

    fn add(&mut self, name: &str, given: &str) -> Result<(), BadFilter> {
        let Some(name) = NAMES.into_iter().find(|known| *known == name) else {
            return Err(BadFilter::Unknown {
                given: name.to_owned(),
                nearest: nearest(name, NAMES).unwrap_or_default().to_owned(),
            });
        };
        let bad = |why: String| BadFilter::Value {
            name,
            given: given.to_owned(),
            why,
        };
        match name {
            "service" => self.services.push(Pattern::read(given)),
            "method" => self.methods.push(Pattern::read(given)),
            "path" => self.paths.push(Pattern::read(given)),
            "connection" => self.connections.push(class(given).map_err(bad)?),
            "lane" => self.lanes.push(lane(given).map_err(bad)?),
            "peer" => self.peers.push(Pattern::read(given)),
            "direction" => {
                let known = [Direction::Inbound, Direction::Outbound];
                let found = known.into_iter().find(|known| known.name() == given);
                let found = found.ok_or_else(|| bad("it is inbound or outbound".to_owned()))?;
                self.directions.push(found);
            }
            "status" => self.statuses.push(Wanted::read(given).map_err(bad)?),
            // The last of several counts, and there is no other that is left.
            _ => {
                let above = value::duration(given).map_err(|error| bad(error.to_string()))?;
                self.above = Some(above);
            }
        }
        Ok(())
    }

    /// May a call that comes so be one of those that are meant?
    #[must_use]
    pub fn may_fit(&self, seen: &Seen<'_>) -> bool {
        let (service, method) = parts(seen.path);
        let (class, lane) = seen.way.unzip();
        (self.directions.is_empty() || self.directions.contains(&seen.direction))
            && any(&self.services, [Some(service)])
            && any(&self.methods, [Some(method)])
            && any(&self.paths, [Some(seen.path)])
            && any(&self.connections, [class])
            && any(&self.lanes, [lane])
    }

    /// Is one of those that are meant that might be, now that it has ended so?
    #[must_use]
    pub fn fits(&self, ended: &Ended<'_>) -> bool {
        let status = |wanted: &Wanted| match wanted {
            Wanted::Error => ended.status != 0,
            Wanted::Status(status) => ended.status == *status,
            Wanted::Because(reason) => ended.reason == Some(*reason),
        };
        any(&self.peers, [ended.peer, ended.user, ended.identity])
            && (self.statuses.is_empty() || self.statuses.iter().any(status))
            && self.above.is_none_or(|above| ended.took > above)
    }
}

/// Service and method of a path; of what is no path of gRPC, all of it and nothing.
pub(super) fn parts(path: &str) -> (&str, &str) {
    let rest = path.strip_prefix('/').unwrap_or(path);
    rest.rsplit_once('/').unwrap_or((rest, ""))
}

fn any<const N: usize>(patterns: &[Pattern], texts: [Option<&str>; N]) -> bool {
    patterns.is_empty()
        || texts
            .into_iter()
            .flatten()
            .any(|text| patterns.iter().any(|pattern| pattern.fits(text)))
}

impl Pattern {
    fn read(given: &str) -> Self {
        match given.strip_suffix('*') {
            Some(begins) => Self::Begins(begins.to_owned()),
            None => Self::Whole(given.to_owned()),
        }
    }

    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Whole(whole) => text == whole,
            Self::Begins(begins) => text.starts_with(begins),
        }
    }
}

/// A class by its name, as rules write it or as tables do. No call is ever of one that is not known, and
/// a tap that waits for such calls looks as if nobody called.
fn class(given: &str) -> Result<Pattern, String> {
    match (Pattern::read(given), ConnectionClass::from_name(given)) {
        (begins @ Pattern::Begins(_), _) => Ok(begins),
        (Pattern::Whole(_), Some(class)) => Ok(Pattern::Whole(class.name().to_owned())),
        (Pattern::Whole(_), None) => {
            let known = ConnectionClass::known();
            Err(unknown(given, "class", known.iter().map(|it| it.name())))
        }
    }
}

/// The same for a lane.
fn lane(given: &str) -> Result<Pattern, String> {
    match Pattern::read(given) {
        Pattern::Whole(name) if Lane::from_name(&name).is_none() => {
            let known = Lane::known();
            Err(unknown(given, "lane", known.iter().map(|it| it.name())))
        }
        pattern => Ok(pattern),
    }
}

fn unknown<'a>(given: &str, what: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    let nearest = nearest(given, known.iter().copied()).unwrap_or_default();
    let known = known.join(", ");
    format!("no such {what} is known here; the nearest one is `{nearest}` (known are {known})")
}

impl Wanted {
    fn read(given: &str) -> Result<Self, String> {
        let upper = given.to_ascii_uppercase();
        if upper == "ERROR" {
            return Ok(Self::Error);
        }
        if let Some(reason) = Reason::ALL.into_iter().find(|it| it.name() == upper) {
            return Ok(Self::Because(reason));
        }
        let mut codes = (0..=16_u16).map(|code| (code, name_of(Code::from_i32(code.into()))));
        let found = codes.find(|(code, name)| upper == *name || upper == code.to_string());
        found.map(|(code, _)| Self::Status(code)).ok_or_else(|| {
            "it is `error`, a gRPC status such as UNAVAILABLE or 14, or a reason of the mesh such as \
             NO_ENDPOINT"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALL: Seen<'static> = Seen {
        direction: Direction::Outbound,
        path: "/shop.v1.Orders/Get",
        way: Some(("Internal", "general")),
    };
    const FAILED: Ended<'static> = Ended {
        status: 14,
        reason: Some(Reason::NoEndpoint),
        peer: Some("orders-1"),
        user: Some("192.0.2.7"),
        identity: Some("spiffe://mesh.example/ns/shop/sa/orders"),
        took: Duration::from_millis(20),
    };

    fn takes(query: &[(&str, &str)], seen: &Seen<'_>, ended: &Ended<'_>) -> bool {
        let filter = Filter::read(query.iter().copied()).unwrap();
        filter.may_fit(seen) && filter.fits(ended)
    }

    #[test]
    fn each_filter_takes_what_it_names_and_nothing_else() {
        for (name, fits, does_not) in [
            (
                "service",
                &["shop.v1.Orders", "shop.*", "*"] as &[_],
                &["shop.v1.Order", "Orders", "x*"] as &[_],
            ),
            ("method", &["Get", "G*"], &["get", "GetAll"]),
            (
                "path",
                &["/shop.v1.Orders/Get", "/shop.v1.Orders/*"],
                &["shop.v1.Orders/Get", "/shop"],
            ),
            (
                "connection",
                &["Internal", "INTERNAL", "internal", "Int*"],
                &["External", "external"],
            ),
            ("lane", &["general", "gen*"], &["gossip", "gos*"]),
            ("direction", &["outbound"], &["inbound"]),
            (
                "peer",
                &[
                    "orders-1",
                    "orders-*",
                    "192.0.2.7",
                    "spiffe://mesh.example/ns/shop/*",
                ],
                &["orders-2", "spiffe://other*"],
            ),
            (
                "status",
                &["error", "UNAVAILABLE", "unavailable", "14", "NO_ENDPOINT"],
                &["ok", "0", "13", "DEADLINE"],
            ),
            ("above", &["19ms", "0s"], &["20ms", "1s"]),
        ] {
            for value in fits {
                assert!(takes(&[(name, value)], &CALL, &FAILED), "{name}={value}");
            }
            for value in does_not {
                assert!(!takes(&[(name, value)], &CALL, &FAILED), "{name}={value}");
            }
        }
    }

    #[test]
    fn what_is_not_known_of_a_call_fits_no_filter_of_it() {
        let seen = Seen { way: None, ..CALL };
        let ended = Ended {
            peer: None,
            user: None,
            identity: None,
            ..FAILED
        };
        for (name, value) in [("lane", "*"), ("connection", "*"), ("peer", "*")] {
            assert!(!takes(&[(name, value)], &seen, &ended), "{name}");
        }
        assert!(takes(&[("service", "*")], &seen, &ended));
    }

    #[test]
    fn what_means_nothing_is_told() {
        let error = |name, value| Filter::read([(name, value)]).unwrap_err().to_string();
        assert_eq!(
            error("servic", "x"),
            "there is no filter `servic`; the nearest one is `service`"
        );
        assert_eq!(
            error("direction", "up"),
            "direction=up: it is inbound or outbound"
        );
        // Other tests may make more of them known.
        assert!(error("lane", "genral").starts_with(
            "lane=genral: no such lane is known here; the nearest one is `general` (known are general, \
             gossip, bifrost_data, ingress_data"
        ));
        assert!(error("connection", "intern").starts_with(
            "connection=intern: no such class is known here; the nearest one is `Internal` (known are \
             Internal, External"
        ));
        assert!(error("status", "bad").starts_with("status=bad: it is `error`, a gRPC status"));
        assert!(error("above", "soon").starts_with("above=soon: "));
        let many = |number| Filter::read(std::iter::repeat_n(("service", "a"), number));
        assert!(many(VALUES_LIMIT).is_ok());
        assert_eq!(many(VALUES_LIMIT + 1), Err(BadFilter::TooMany));
    }

    /// One value that may fit a call and one that may not, for each kind.
    const VALUES: [(&str, &str); 18] = [
        ("service", "shop.*"),
        ("service", "other.Service"),
        ("method", "Get"),
        ("method", "Put"),
        ("path", "/shop*"),
        ("path", "/x"),
        ("connection", "Internal"),
        ("connection", "External"),
        ("lane", "general"),
        ("lane", "gossip"),
        ("direction", "outbound"),
        ("direction", "inbound"),
        ("peer", "orders-1"),
        ("peer", "spiffe://other/*"),
        ("status", "NO_ENDPOINT"),
        ("status", "ok"),
        ("above", "5ms"),
        ("above", "50ms"),
    ];

    proptest! {
        /// What a filter takes is what each of its kinds takes alone; within a kind, what any of its
        /// values takes (of `above`, the last).
        #[test]
        fn kinds_narrow_and_values_of_one_kind_widen(
            chosen in prop::collection::vec(0..VALUES.len(), 0..12),
        ) {
            let query: Vec<_> = chosen.iter().map(|at| VALUES[*at]).collect();
            let expected = NAMES.iter().all(|name| {
                let mut of_kind = query.iter().filter(|(kind, _)| kind == name).peekable();
                if of_kind.peek().is_none() {
                    return true;
                }
                match *name {
                    "above" => of_kind.next_back().is_some_and(|one| takes(&[*one], &CALL, &FAILED)),
                    _ => of_kind.any(|one| takes(&[*one], &CALL, &FAILED)),
                }
            });
            prop_assert_eq!(takes(&query, &CALL, &FAILED), expected);
        }

        /// Whatever is asked for and whatever comes: nothing panics, and what is no filter is told.
        #[test]
        fn nothing_breaks_it(name in ".{0,12}", value in ".{0,24}", path in ".{0,40}") {
            let read = Filter::read([(name.as_str(), value.as_str())]);
            prop_assert!(read.is_err() || NAMES.contains(&name.as_str()));
            for known in NAMES {
                if let Ok(filter) = Filter::read([(known, value.as_str())]) {
                    let _ = filter.may_fit(&Seen { path: &path, ..CALL });
                    let _ = filter.fits(&FAILED);
                }
            }
            let (service, method) = parts(&path);
            prop_assert!(service.len() + method.len() <= path.len());
        }
    }
}
