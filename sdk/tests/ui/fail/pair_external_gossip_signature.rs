use sidelane::routing::{External, Gossip, RoutingConfig};

fn takes(_: RoutingConfig<External, Gossip>) {}

fn main() {}
