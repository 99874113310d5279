use sidelane::routing::{
    Gossip, GossipServiceRouting, Internal, TypedConnection, WorkerServiceRouting,
};
use sidelane::sender::Bound;

// As the build writes it: a client of one service, over what is bound to its rule.
struct WorkerClient(tonic::client::Grpc<Bound<WorkerServiceRouting>>);

impl WorkerClient {
    fn new(bound: Bound<WorkerServiceRouting>) -> Self {
        Self(tonic::client::Grpc::new(bound))
    }
}

fn wrong(heartbeats: &TypedConnection<Internal, Gossip>) {
    let _ = WorkerClient::new(heartbeats.bind::<GossipServiceRouting>()).0;
}

fn main() {}
