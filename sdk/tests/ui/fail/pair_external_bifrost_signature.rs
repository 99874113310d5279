use sidelane::routing::{BifrostData, External, RoutingConfig};

fn takes(_: RoutingConfig<External, BifrostData>) {}

fn main() {}
