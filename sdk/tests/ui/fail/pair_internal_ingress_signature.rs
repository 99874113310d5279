use sidelane::routing::{IngressData, Internal, RoutingConfig};

fn takes(_: RoutingConfig<Internal, IngressData>) {}

fn main() {}
