use sidelane::routing::{Lane, LaneMarker};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Mine;

impl LaneMarker for Mine {
    const LANE: Lane = Lane::GOSSIP;
}

fn main() {}
