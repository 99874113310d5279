use sidelane::routing::Internal;
use sidelane::{define_connection, define_swimlane};

define_swimlane!(
    Audit,
    id = 16,
    connection = [Internal],
    window = 65_536,
    max_streams = 100
);
define_connection!(Partners, number = 16, lanes = [Audit]);

fn main() {}
