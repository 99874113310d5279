//! The names that generated code has in Rust. Packages and services are named as prost and tonic
//! name them, since their code stands beside ours.

use sidelane_proto::model::{ConnectionClass, Lane};

use crate::rules::RuleSet;

/// Where the code of packages is: here, or in another crate.
pub(super) struct Places<'a> {
    /// `.shop.v1` and `::shop_protos::shop::v1`, the longest packages first.
    elsewhere: Vec<(&'a str, &'a str)>,
}

impl<'a> Places<'a> {
    pub(super) fn new(extern_paths: &'a [(String, String)]) -> Self {
        let paths = extern_paths.iter();
        let mut elsewhere: Vec<_> = paths
            .map(|(one, other)| (one.as_str(), other.as_str()))
            .collect();
        elsewhere.sort_by_key(|(package, _)| std::cmp::Reverse(package.len()));
        Self { elsewhere }
    }

    /// Is the code of this package generated here?
    pub(super) fn is_here(&self, package: &str) -> bool {
        self.abroad(package).is_none()
    }

    /// The path of something in package `to`, as seen from package `from`.
    pub(super) fn path(&self, from: &str, to: &str, name: &str) -> String {
        let mut path = match self.abroad(to) {
            Some(path) => path,
            None if from == to => Vec::new(),
            None => {
                let mut path = vec!["super".to_owned(); modules(from).len()];
                path.extend(modules(to));
                path
            }
        };
        path.push(name.to_owned());
        path.join("::")
    }

    /// The module of a package that another crate generates.
    fn abroad(&self, package: &str) -> Option<Vec<String>> {
        let package = format!(".{package}");
        self.elsewhere.iter().find_map(|(prefix, path)| {
            let rest = package.strip_prefix(prefix)?;
            let rest = match (rest, *prefix) {
                ("", _) => "",
                (rest, ".") => rest,
                (rest, _) => rest.strip_prefix('.')?,
            };
            Some([vec![(*path).to_owned()], modules(rest)].concat())
        })
    }

    /// The type of a message, as seen from package `from`.
    pub(super) fn message(&self, from: &str, package: &str, full: &str) -> String {
        let typed = |names: &str| {
            let (outer, own) = names.rsplit_once('.').unwrap_or(("", names));
            let own = identifier(&camel(own));
            [modules(outer), vec![own]].concat().join("::")
        };
        // A single message may be elsewhere too.
        let dotted = format!(".{full}");
        for (prefix, path) in &self.elsewhere {
            match dotted.strip_prefix(prefix) {
                Some("") => return (*path).to_owned(),
                Some(rest) if *prefix == "." || rest.starts_with('.') => {
                    return format!("{path}::{}", typed(rest.trim_start_matches('.')));
                }
                _ => {}
            }
        }
        let inner = full.strip_prefix(package).unwrap_or(full);
        self.path(from, package, &typed(inner.trim_start_matches('.')))
    }

    /// The type of a lane, as seen from package `from`.
    pub(super) fn lane(&self, rules: &RuleSet, from: &str, lane: Lane) -> String {
        if Lane::BUILT_IN.contains(&lane) {
            return built_in(lane);
        }
        let mut known = rules.lanes.iter().filter(|known| known.what == lane);
        let package = known.next().map_or("", |known| &known.package);
        self.path(from, package, &lane_type(lane.name()))
    }

    /// The type of a class, as seen from package `from`.
    pub(super) fn class(&self, rules: &RuleSet, from: &str, class: ConnectionClass) -> String {
        let ConnectionClass::Own(own) = class else {
            return format!("::sidelane::routing::{}", class.name());
        };
        let mut known = rules.classes.iter().filter(|known| known.what == own);
        let package = known.next().map_or("", |known| &known.package);
        self.path(from, package, &class_type(class.name()))
    }
}

/// The type of one of Sidelane's own lanes.
pub(super) fn built_in(lane: Lane) -> String {
    format!("::sidelane::routing::{}", camel(lane.name()))
}

/// The package of a service.
pub(super) fn package(service: &str) -> &str {
    service.rsplit_once('.').map_or("", |(package, _)| package)
}

/// The type that stands for a service's rule.
pub(super) fn service_type(service: &str) -> String {
    let name = service.rsplit('.').next().unwrap_or(service);
    format!("{}ServiceRouting", camel(name))
}

/// The type that stands for a lane.
pub(super) fn lane_type(name: &str) -> String {
    format!("{}Lane", camel(name))
}

/// The type that stands for a connection class.
pub(super) fn class_type(name: &str) -> String {
    format!("{}Class", camel(name))
}

/// The modules that a package is, outermost first.
pub(super) fn modules(package: &str) -> Vec<String> {
    let parts = package.split('.').filter(|part| !part.is_empty());
    parts
        .map(|part| identifier(&words(part).join("_")))
        .collect()
}

/// The name of a package's file, without its ending.
pub(super) fn file(package: &str) -> String {
    match modules(package).join(".") {
        name if name.is_empty() => "_".to_owned(),
        name => name,
    }
}

/// The name of a field or a method.
pub(super) fn field(name: &str) -> String {
    identifier(&words(name).join("_"))
}

/// The words of a name in lower case, as the crate `heck` splits them: at all that is no letter or
/// digit, before a capital that follows a small letter, and before the last of several capitals
/// if a small letter follows.
pub(super) fn words(name: &str) -> Vec<String> {
    /// The case of the last letter.
    #[derive(Clone, Copy, PartialEq)]
    enum Mode {
        Start,
        Small,
        Capital,
    }
    let mut words = Vec::new();
    for part in name.split(|it: char| !it.is_ascii_alphanumeric()) {
        let letters = part.as_bytes();
        let (mut start, mut mode) = (0, Mode::Start);
        for (index, pair) in letters.windows(2).enumerate() {
            let (this, next) = (pair[0], pair[1]);
            let next_mode = match this {
                it if it.is_ascii_lowercase() => Mode::Small,
                it if it.is_ascii_uppercase() => Mode::Capital,
                // A digit belongs to the letter before it.
                _ => mode,
            };
            let cut = if next_mode == Mode::Small && next.is_ascii_uppercase() {
                Some(index + 1)
            } else if mode == Mode::Capital
                && this.is_ascii_uppercase()
                && next.is_ascii_lowercase()
            {
                Some(index)
            } else {
                None
            };
            mode = next_mode;
            if let Some(cut) = cut {
                words.push(part[start..cut].to_ascii_lowercase());
                (start, mode) = (cut, Mode::Start);
            }
        }
        if start < part.len() {
            words.push(part[start..].to_ascii_lowercase());
        }
    }
    words
}

/// The name of a type.
pub(super) fn camel(name: &str) -> String {
    let mut camel = String::new();
    for word in words(name) {
        let (first, rest) = word.split_at(1);
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    camel
}

/// As prost escapes what Rust has taken.
fn identifier(name: &str) -> String {
    const RAW: [&str; 47] = [
        "as", "break", "const", "continue", "else", "enum", "false", "fn", "for", "if", "impl",
        "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "static",
        "struct", "trait", "true", "type", "unsafe", "use", "where", "while", "dyn", "abstract",
        "become", "box", "do", "final", "macro", "override", "priv", "typeof", "unsized",
        "virtual", "yield", "async", "await", "try", "gen",
    ];
    match name {
        "_" | "super" | "self" | "Self" | "extern" | "crate" => format!("{name}_"),
        name if RAW.contains(&name) => format!("r#{name}"),
        name if name.starts_with(|it: char| it.is_ascii_digit()) => format!("_{name}"),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_modules_as_prost_has_them() {
        for (package, expected) in [
            ("shop.v1", "shop.v1"),
            ("Shop.OrderBook.V1", "shop.order_book.v1"),
            ("a.type.self", "a.r#type.self_"),
            ("a.v1beta1", "a.v1beta1"),
            ("HTTPServer", "http_server"),
            ("a1B.A1Bc.orderID2x", "a1_b.a1_bc.order_id2x"),
            ("", "_"),
        ] {
            assert_eq!(file(package), expected);
        }
        assert_eq!(
            service_type("shop.v1.HTTPOrders"),
            "HttpOrdersServiceRouting"
        );
        assert_eq!(service_type("orders"), "OrdersServiceRouting");
        assert_eq!(lane_type("bulk_load"), "BulkLoadLane");
    }

    #[test]
    fn paths_lead_from_package_to_package() {
        let paths = [
            (".shop".to_owned(), "::other::shop".to_owned()),
            (".shop.v2".to_owned(), "::newer".to_owned()),
        ];
        let places = Places::new(&paths);
        assert_eq!(places.path("a.v1", "b.c", "X"), "super::super::b::c::X");
        assert_eq!(places.path("", "b", "X"), "b::X");
        assert_eq!(places.path("a.v1", "a.v1", "X"), "X");
        assert_eq!(places.message("a", "a", "a.Out.in_it"), "out::InIt");
        assert_eq!(places.message("a", "", "Own"), "super::Own");
        assert_eq!(
            places.message("a", "shop.v2", "shop.v2.A.B"),
            "::newer::a::B"
        );
        assert_eq!(places.path("a", "shop.v1", "X"), "::other::shop::v1::X");
        assert_eq!(places.path("a", "shop.v2", "X"), "::newer::X");
        assert!(places.is_here("shopping") && !places.is_here("shop"));
    }
}
