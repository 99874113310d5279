use sidelane::define_connection;
use sidelane::routing::General;

define_connection!(Partners, number = 2, lanes = [General],);

fn main() {}
