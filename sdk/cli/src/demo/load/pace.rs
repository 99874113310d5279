//! When calls are made: each kind at its own steady rate, whether the calls before have been
//! answered or not, as users do. The rates leave a machine with two cores room for the thirteen
//! other processes of the demo; what is shown is that nothing fails, not how much fits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::call;
use super::clients::Clients;
use super::record::Recorder;
use crate::demo::message::Kind;

/// Calls of one kind that may be open at once. A call that would be one more is not made, and is
/// counted: a mesh that stands still must not be buried.
const OPEN_LIMIT: usize = 256;
/// Calls a second, by kind. Bulk has no rate: there is always exactly one stream.
const RATES: [(Kind, u32); 6] = [
    (Kind::Direct, 150),
    (Kind::Unary, 300),
    (Kind::ClientStream, 10),
    (Kind::ServerStream, 10),
    (Kind::Bidirectional, 10),
    (Kind::Heartbeat, 20),
];

/// The load in one sentence, for people.
pub(in crate::demo) fn sentence() -> String {
    let rate = |wanted| {
        let found = RATES.iter().find(|(kind, _)| *kind == wanted);
        found.map_or(0, |(_, rate)| *rate)
    };
    format!(
        "every second {} unary calls, {} client-, {} server- and {} bidirectional streams and {} \
         heartbeats, and one bulk stream all the time",
        rate(Kind::Unary),
        rate(Kind::ClientStream),
        rate(Kind::ServerStream),
        rate(Kind::Bidirectional),
        rate(Kind::Heartbeat),
    )
}

/// Starts and stops the load.
pub(super) struct Pace {
    state: watch::Sender<State>,
}

#[derive(Clone, Copy)]
struct State {
    mesh: bool,
    direct: bool,
}

impl State {
    fn wants(self, kind: Kind) -> bool {
        if kind == Kind::Direct {
            self.direct
        } else {
            self.mesh
        }
    }
}

impl Pace {
    /// Gets everything ready; [`Pace::go`] begins.
    pub(super) fn start(clients: &Clients, recorder: &Arc<Recorder>) -> Self {
        let stopped = State {
            mesh: false,
            direct: false,
        };
        let state = watch::Sender::new(stopped);
        for (kind, rate) in RATES {
            let (clients, recorder) = (clients.clone(), Arc::clone(recorder));
            tokio::spawn(at_rate(kind, rate, clients, recorder, state.subscribe()));
        }
        let (clients, recorder) = (clients.clone(), Arc::clone(recorder));
        tokio::spawn(one_at_a_time(
            Kind::Bulk,
            clients,
            recorder,
            state.subscribe(),
        ));
        Self { state }
    }

    /// Calls are made from now on; `direct` says whether also past the mesh.
    pub(super) fn go(&self, direct: bool) {
        self.state.send_replace(State { mesh: true, direct });
    }

    /// No more calls are made.
    pub(super) fn stop(&self) {
        self.state.send_replace(State {
            mesh: false,
            direct: false,
        });
    }
}

async fn at_rate(
    kind: Kind,
    rate: u32,
    clients: Clients,
    recorder: Arc<Recorder>,
    mut state: watch::Receiver<State>,
) {
    let open = Arc::new(Semaphore::new(OPEN_LIMIT));
    let mut ticks = interval(Duration::from_secs(1) / rate);
    // After a stall the rate goes on; what was missed is not made up for in a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0_u64;
    // An error means that the load generator ends.
    while state.wait_for(|state| state.wants(kind)).await.is_ok() {
        ticks.tick().await;
        number += 1;
        let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
            recorder.held_back();
            continue;
        };
        let clients = clients.clone();
        let call = recorder.begun(kind);
        tokio::spawn(async move {
            let began = Instant::now();
            let outcome = call::make(kind, clients, number).await;
            call.ended(outcome, began.elapsed());
            drop(permit);
        });
    }
}

async fn one_at_a_time(
    kind: Kind,
    clients: Clients,
    recorder: Arc<Recorder>,
    mut state: watch::Receiver<State>,
) {
    let mut number = 0_u64;
    while state.wait_for(|state| state.wants(kind)).await.is_ok() {
        number += 1;
        let call = recorder.begun(kind);
        let began = Instant::now();
        let outcome = call::make(kind, clients.clone(), number).await;
        let failed = outcome.is_err();
        call.ended(outcome, began.elapsed());
        if failed {
            // A stream that fails at once, again and again, is not to become a storm.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
