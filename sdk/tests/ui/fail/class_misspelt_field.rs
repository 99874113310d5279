use sidelane::define_connection;
use sidelane::routing::General;

define_connection!(Partners, id = 16, lanes = [General],);

fn main() {}
