//! What follows a stream of bytes: users' HTTP/2 frames, and the messages of a request. It must not
//! matter in which pieces the bytes come. The first two bytes say where they are cut.

use std::time::Instant;

use sidelane_sidecar::edge::calm::{Bound, Budget, Watch};
use sidelane_sidecar::forward::follow;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "frames",
    run,
    seeds,
};

const FEW: Bound = Bound {
    burst: 3.0,
    each_second: 1.0,
    bytes_each: 64.0,
};
const LIMIT: u32 = 1024;

fn run(data: &[u8]) {
    let Some(([first, second], rest)) = data.split_first_chunk() else {
        return;
    };
    let [first, second] = [*first, *second].map(|cut| usize::from(cut).min(rest.len()));
    let [first, second] = [first.min(second), first.max(second)];
    let pieces = [&rest[..first], &rest[first..second], &rest[second..]];
    let budget = Budget {
        resets: FEW,
        windows: FEW,
        talk: FEW,
    };
    let now = Instant::now();
    let watched = |pieces: &[&[u8]]| {
        let mut watch = Watch::new(budget, now);
        pieces
            .iter()
            .try_for_each(|piece| watch.read(piece, now, |_| {}))
    };
    assert_eq!(watched(&[rest]), watched(&pieces));
    let whole = follow(LIMIT, &[rest]);
    assert_eq!(whole, follow(LIMIT, &pieces));
    assert_eq!(whole.err(), first_too_large(rest), "as read by hand");
}

/// The same, with all bytes at hand.
fn first_too_large(mut rest: &[u8]) -> Option<sidelane_sidecar::forward::TooLarge> {
    while let Some(([_, length @ ..], after)) = rest.split_first_chunk::<5>() {
        let size = u32::from_be_bytes(*length);
        if size > LIMIT {
            return Some(sidelane_sidecar::forward::TooLarge { size, limit: LIMIT });
        }
        rest = after.get(size as usize..)?;
    }
    None
}

fn seeds() -> Vec<Vec<u8>> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    let window = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 255, 255];
    let frames = [&preface[..], &settings, &ping, &ping, &reset, &window].concat();
    let many = [&preface[..], &settings, &reset, &reset, &reset, &reset].concat();
    let message = [0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0];
    vec![
        [&[9, 40][..], &frames].concat(),
        [&[24, 33][..], &many].concat(),
        [&[3, 7][..], &message].concat(),
        [&[0, 2][..], &[0, 0, 0, 4, 1]].concat(),
    ]
}
