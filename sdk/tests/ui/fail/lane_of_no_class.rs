use sidelane::define_swimlane;

define_swimlane!(
    Audit,
    id = 16,
    connection = [],
    window = 65_536,
    max_streams = 100,
);

fn main() {}
