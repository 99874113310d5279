use sidelane::define_connection;
use sidelane::routing::General;

define_connection!(Partners, lanes = [General],);

fn main() {}
