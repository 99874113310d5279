use std::borrow::Cow;

use sidelane::define_service_routing;
use sidelane::routing::{Balancing, General, Internal};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = ConsistentHash,
    balancing = Balancing {
        hash_header: Some(Cow::Borrowed("sidelane-hash")),
        ..Balancing::NONE
    },
);

fn main() {}
