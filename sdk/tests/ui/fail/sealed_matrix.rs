use sidelane::routing::{IngressData, Internal, ValidRoutingMatrix};

impl ValidRoutingMatrix<IngressData> for Internal {}

fn main() {}
