use sidelane::define_service_routing;
use sidelane::routing::{General, Internal, Split, SplitPart};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
    split = Split::by_version(const { &[SplitPart::of("v1", 90), SplitPart::of("v2", 20)] }),
);

fn main() {}
