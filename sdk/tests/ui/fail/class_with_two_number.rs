use sidelane::define_connection;
use sidelane::routing::General;

define_connection!(Partners, number = 16, lanes = [General], number = 17,);

fn main() {}
