use sidelane::define_connection;
use sidelane::routing::General;

define_connection!(number = 16, lanes = [General],);

fn main() {}
