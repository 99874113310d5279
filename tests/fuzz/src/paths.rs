//! The path of a call, and the look-up of its rule: the index must say what parsing and searching say.

use std::sync::LazyLock;

use sidelane::routing::{MethodRule, PathIndex};
use sidelane_proto::model::CallPath;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "paths",
    run,
    seeds,
};

static ORDERS: [MethodRule; 3] = [
    MethodRule::unary("Get"),
    MethodRule::streaming("Watch", false, true),
    MethodRule::unary("Put"),
];
const SERVICES: [(&str, &[MethodRule]); 4] = [
    ("shop.v1.Orders", &ORDERS),
    ("shop.v1.Log", &[]),
    ("Plain", ORDERS.first_chunk::<1>().unwrap()),
    ("a.b", ORDERS.first_chunk::<2>().unwrap()),
];

/// Knows a few services, as a sidecar does.
pub(crate) static INDEX: LazyLock<PathIndex> = LazyLock::new(|| PathIndex::new(SERVICES));

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let parsed = CallPath::parse(text);
    let found = INDEX.find(text);
    let path = match (parsed, found) {
        (Ok(path), Ok(found)) => {
            assert_eq!(found.split(text), path);
            let service = SERVICES.iter().position(|(name, _)| *name == path.service);
            assert_eq!(found.service, service);
            let methods = service.map_or(&[][..], |at| SERVICES[at].1);
            let method = methods.iter().position(|known| known.name == path.method);
            assert_eq!(found.method, method);
            path
        }
        (parsed, found) => {
            assert_eq!(parsed.err(), found.err(), "both say what is wrong");
            return;
        }
    };
    assert_eq!(format!("/{}/{}", path.service, path.method), text);
    assert!(CallPath::is_method(path.method));
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "/shop.v1.Orders/Get",
        "/shop.v1.Orders/Watch",
        "/shop.v1.Orders/Delete",
        "/shop.v1.Log/Write",
        "/Plain/Get",
        "/a.b/Put",
        "/grpc.health.v1.Health/Check",
        "//Get",
        "/shop.v1.Orders/Get/",
        "/shop.v1.Orders/%47et",
        "shop.v1.Orders/Get",
        "*",
        "/.a/b",
        "/a..b/c",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
