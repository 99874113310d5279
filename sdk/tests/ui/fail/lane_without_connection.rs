use sidelane::define_swimlane;

define_swimlane!(Audit, id = 16, window = 65_536, max_streams = 100,);

fn main() {}
