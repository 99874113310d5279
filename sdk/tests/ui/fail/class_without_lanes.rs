use sidelane::define_connection;

define_connection!(Partners, number = 16,);

fn main() {}
