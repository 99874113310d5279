use sidelane::routing::{External, Gossip, TypedConnection};

fn wrong(_: &TypedConnection<External, Gossip>) {}

fn main() {}
