use sidelane::define_connection;
use sidelane::routing::{ConnectionClass, ConnectionMarker, General, RouteTable};

define_connection!(Partners, number = 16, lanes = [General]);
define_connection!(Suppliers, number = 16, lanes = [General]);

static CLASSES: &[ConnectionClass] = &[Partners::CLASS, Suppliers::CLASS];
pub static ROUTES: RouteTable = RouteTable::new(&[]).with_classes(CLASSES);

fn main() {}
