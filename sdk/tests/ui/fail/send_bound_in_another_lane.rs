use sidelane::routing::{Gossip, Internal, MetadataServiceRouting, TypedConnection};

fn wrong(heartbeats: &TypedConnection<Internal, Gossip>) {
    let _ = heartbeats.bind::<MetadataServiceRouting>();
}

fn main() {}
