use sidelane::define_service_routing;
use sidelane::routing::{Adaptive, Admission, Concurrency, General, Internal};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
    admission = Admission {
        concurrency: Some(Concurrency::adaptive(Adaptive::between(0, 100))),
        ..Admission::NONE
    },
);

fn main() {}
