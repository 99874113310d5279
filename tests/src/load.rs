//! A steady load: so many unary calls a second, each with a key of its own and made exactly once,
//! whether the mesh keeps up or not (an open loop). What came of every call is kept, so that a test
//! can say which calls failed, when they were sent, and with which reason.

mod report;

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::cases::fresh_key;
use crate::client;
use crate::machine::Busy;
use crate::wire::v1::echo_client::EchoClient;
use crate::wire::v1::{Behaviour, UnaryRequest};

pub use report::Report;

/// Calls open at once, at most. A node that stands still holds a third of a thousand calls a
/// second for the five seconds that a call may take; with this many open, the load waits.
const OPEN_LIMIT: usize = 4_096;
/// A call that is open for so long hangs: everything that could end it should have done so.
const HANGS: Duration = Duration::from_secs(30);

/// A load under way. It ends with this value.
#[derive(Debug)]
pub struct Load {
    rate: u32,
    started: Instant,
    shared: Arc<Shared>,
    marks: Vec<(String, Instant)>,
    busy: Busy,
    pacer: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
}

/// What the calls are like.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Calls a second.
    pub rate: u32,
    /// The server takes from nothing to this long for a call, in milliseconds, one after the
    /// other, so that some are always open.
    pub longest_ms: u32,
}

#[derive(Debug)]
struct Shared {
    key: String,
    stopped: AtomicBool,
    open: Semaphore,
    calls: Mutex<Vec<Call>>,
}

/// One call, from beginning to end.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its key in the servers' ledgers.
    pub key: String,
    /// When it was due. It was sent then or later.
    pub due: Instant,
    /// When it was given to the channel.
    pub sent: Instant,
    /// When it was over.
    pub ended: Instant,
    /// Who answered, or what went wrong.
    pub result: Result<String, Failed>,
}

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failed {
    /// The gRPC status, by name.
    pub code: String,
    /// `sidelane-error`; empty if there was none.
    pub error: String,
    /// The reason in the status' details; empty if there was none.
    pub reason: String,
    /// Whether it may have run, as the details say; empty if they do not.
    pub processed: String,
    /// The text for people.
    pub message: String,
}

impl Plan {
    /// What one caller brings, of 0 to 40 ms.
    pub const THOUSAND: Self = Self {
        rate: 1_000,
        longest_ms: 40,
    };
    /// Half of them, for each of two callers.
    pub const HALF: Self = Self {
        rate: 500,
        longest_ms: 40,
    };
}

impl Load {
    /// Begins to call `Echo.Unary` over one channel to the sidecar that listens there.
    ///
    /// # Panics
    /// If nobody listens there.
    pub async fn start(target: SocketAddr, plan: Plan) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("load")
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let connecting = runtime.spawn(client::channel(target));
        let channel = connecting.await.expect("connecting does not panic");
        let client = EchoClient::new(channel.expect("the caller's sidecar listens"));
        let shared = Arc::new(Shared {
            key: fresh_key("load"),
            stopped: AtomicBool::new(false),
            open: Semaphore::new(OPEN_LIMIT),
            calls: Mutex::default(),
        });
        let started = Instant::now();
        let pacer = runtime.spawn(pace(Arc::clone(&shared), client, plan, started));
        Self {
            rate: plan.rate,
            started,
            shared,
            marks: vec![("undisturbed".to_owned(), started)],
            busy: Busy::since_now(),
            pacer: Some(pacer),
            runtime: Some(runtime),
        }
    }

    /// From now on something is different; the report tells what came of the calls since.
    pub fn mark(&mut self, what: &str) -> Instant {
        let now = Instant::now();
        self.marks.push((what.to_owned(), now));
        now
    }

    /// Goes on for a while.
    pub async fn run_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Calls that are over.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.shared.calls().len()
    }

    /// Ends: no new calls, and those that are open are waited for.
    ///
    /// # Panics
    /// If a call hangs, or the generator broke.
    pub async fn stop(mut self) -> Report {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let pacer = self.pacer.take().expect("a load is stopped once");
        pacer.await.expect("the pacer does not panic");
        let stopped = Instant::now();
        let all = u32::try_from(OPEN_LIMIT).expect("a small number");
        let ended = tokio::time::timeout(HANGS + HANGS, self.shared.open.acquire_many(all)).await;
        assert!(ended.is_ok(), "calls are open for ever");
        let mut calls = std::mem::take(&mut *self.shared.calls());
        calls.sort_by_key(|call| call.due);
        Report {
            calls,
            rate: self.rate,
            started: self.started,
            stopped,
            marks: std::mem::take(&mut self.marks),
            spare: self.busy.spare(),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts each call when it is due. A pacer that comes late makes up for it: the schedule is
/// absolute.
async fn pace(
    shared: Arc<Shared>,
    client: EchoClient<tonic::transport::Channel>,
    plan: Plan,
    start: Instant,
) {
    let interval = Duration::from_secs(1) / plan.rate;
    for number in 0_u32.. {
        let due = start + interval * number;
        tokio::time::sleep_until(due.into()).await;
        if shared.stopped.load(Ordering::Relaxed) {
            return;
        }
        let place = shared.open.acquire().await.expect("it is never closed");
        place.forget();
        let behaviour = Behaviour {
            ledger_key: format!("{}-{number}", shared.key),
            // Seven and 41 have no common factor: all times come in turn, neighbours differ.
            delay_ms: (number * 7) % (plan.longest_ms + 1),
            ..Behaviour::default()
        };
        let (shared, client) = (Arc::clone(&shared), client.clone());
        tokio::spawn(async move {
            let call = call(client, behaviour, due).await;
            shared.calls().push(call);
            shared.open.add_permits(1);
        });
    }
}

async fn call(
    mut client: EchoClient<tonic::transport::Channel>,
    behaviour: Behaviour,
    due: Instant,
) -> Call {
    let key = behaviour.ledger_key.clone();
    let request = UnaryRequest {
        payload: bytes::Bytes::from_static(&[7; 128]),
        behaviour: Some(behaviour),
    };
    let sent = Instant::now();
    let answer = tokio::time::timeout(HANGS, client.unary(request)).await;
    let result = match answer {
        Ok(Ok(answer)) => Ok(answer.into_inner().node),
        Ok(Err(status)) => Err(Failed::from(&status)),
        Err(_) => Err(Failed::hanging()),
    };
    Call {
        key,
        due,
        sent,
        ended: Instant::now(),
        result,
    }
}

impl Failed {
    fn hanging() -> Self {
        Self {
            code: format!("hangs for {HANGS:?}"),
            error: String::new(),
            reason: String::new(),
            processed: String::new(),
            message: String::new(),
        }
    }
}

impl From<&Status> for Failed {
    fn from(status: &Status) -> Self {
        use tonic_types::StatusExt;
        let error = status.metadata().get("sidelane-error");
        let error = error.and_then(|value| value.to_str().ok());
        let info = status.get_details_error_info();
        let info = info.filter(|info| info.domain == "sidelane.dev");
        let (reason, processed) = info.map_or_else(Default::default, |mut info| {
            (info.reason, info.metadata.remove("processed"))
        });
        Self {
            code: format!("{:?}", status.code()),
            error: error.unwrap_or_default().to_owned(),
            reason,
            processed: processed.unwrap_or_default(),
            message: status.message().to_owned(),
        }
    }
}

impl Display for Failed {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            error,
            reason,
            processed,
            ..
        } = self;
        write!(
            formatter,
            "{code}, sidelane-error {error:?}, reason {reason:?}, processed {processed:?}"
        )
    }
}

impl Failed {
    /// The mesh ended it with this reason, in the header and in the details, and says that it may
    /// have run.
    #[must_use]
    pub fn may_have_run(&self, reason: &str) -> bool {
        self.error == reason && self.reason == reason && self.processed == "maybe"
    }

    /// The status' code.
    #[must_use]
    pub fn is(&self, code: Code) -> bool {
        self.code == format!("{code:?}")
    }
}
