//! The call matrix: every kind of gRPC call, each case a function that makes calls and says what
//! must come of them. The same cases run directly, from client to server, which shows that the
//! cases are right, and through two sidecars, which shows that the mesh is. The clients in other
//! languages have the same cases by the same names.

pub mod cancellation;
pub mod compression;
pub mod crowd;
pub mod deadline;
pub mod metadata;
pub mod status;
pub mod streams;
pub mod unary;

use std::fmt::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tonic::transport::Channel;

use crate::client::{self, RawClient};
use crate::languages::Language;
use crate::upstream::MESSAGE_LIMIT;
use crate::wire::v1::echo_client::EchoClient;
use crate::wire::v1::witness_client::WitnessClient;
use crate::wire::v1::{Behaviour, CountCallsRequest, CountCallsResponse, Moment, ObserveRequest};

/// No case takes longer, on a machine that is busy with other things.
pub const CASE_LIMIT: Duration = Duration::from_secs(60);
/// How long a server may take until it has seen what it must see.
pub const SOON: Duration = Duration::from_secs(10);

/// Where a case takes place.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Whom the client calls: the server itself, or the sidecar beside the client.
    pub target: SocketAddr,
    /// The server itself, to be asked what it saw.
    pub server: SocketAddr,
    /// How calls get there.
    pub way: Way,
    /// What the server is made of.
    pub server_kind: Language,
}

/// How a call gets to its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The client dials the server.
    Direct,
    /// The client dials the sidecar of this node, which is not the server's.
    Mesh {
        /// The caller's node.
        caller: String,
    },
}

/// The cases that measure time. One of them may fail because the machine did something else for a
/// moment, so where hundreds run, one that failed is run once more; the others never are.
pub const TIMED: &[&str] = &[
    "early_answer",
    "early_refusal_of_a_busy_sender",
    "server_sees_cancelled_unary",
    "server_sees_cancelled_client_stream",
    "server_sees_cancelled_server_stream",
    "server_sees_cancelled_conversation",
    "client_sees_cancelling_server",
    "deadline_of_unary",
    "deadline_of_stream",
    "thousand_tiny_replies",
    "ten_thousand_cancelled",
];

type Outcome = Pin<Box<dyn Future<Output = Result<()>>>>;

/// One case.
pub struct Case {
    /// Its name, the same in every language.
    pub name: &'static str,
    run: fn(Ground) -> Outcome,
}

macro_rules! cases {
    ($($module:ident::$case:ident,)*) => {
        /// All cases.
        pub static CASES: &[Case] = &[$(Case {
            name: stringify!($case),
            run: |ground| Box::pin($module::$case(ground)),
        }),*];
    };
}

cases! {
    unary::unary_is_given_back,
    unary::empty_messages,
    unary::unary_of_4_mib,
    metadata::metadata_of_unary,
    metadata::metadata_of_streams,
    metadata::metadata_of_errors,
    metadata::user_agent_is_kept,
    compression::gzip_unary,
    compression::gzip_streams,
    streams::client_stream,
    streams::server_stream,
    streams::conversation,
    streams::client_stream_of_64_mib,
    streams::server_stream_of_64_mib,
    streams::conversation_of_64_mib,
    streams::half_close,
    streams::early_answer,
    streams::early_refusal_of_a_busy_sender,
    status::every_status,
    status::every_status_after_messages,
    status::errors_are_trailers_only,
    cancellation::server_sees_cancelled_unary,
    cancellation::server_sees_cancelled_client_stream,
    cancellation::server_sees_cancelled_server_stream,
    cancellation::server_sees_cancelled_conversation,
    cancellation::client_sees_cancelling_server,
    deadline::deadline_of_unary,
    deadline::deadline_of_stream,
    deadline::remaining_time_is_passed_on,
    deadline::expired_on_arrival,
    crowd::thousand_tiny_replies,
    crowd::ten_thousand_cancelled,
}

/// Runs all cases.
///
/// # Panics
/// If one fails, after all have run: with each failure.
pub async fn run_all(ground: &Ground) {
    let all: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    run(ground, &all).await.conclude(&format!("{ground:?}"));
}

/// Runs these cases, one after the other, since some measure time.
pub async fn run(ground: &Ground, cases: &[&str]) -> Report {
    let mut report = Report::default();
    for case in CASES.iter().filter(|case| cases.contains(&case.name)) {
        let start = Instant::now();
        let ended = tokio::time::timeout(CASE_LIMIT, (case.run)(ground.clone())).await;
        let result = ended
            .with_context(|| format!("not done after {CASE_LIMIT:?}"))
            .and_then(|result| result)
            .map_err(|error| format!("{error:#}"));
        report.add(case.name, start.elapsed(), result);
    }
    report
}

/// What came of the cases.
#[derive(Debug, Default)]
pub struct Report {
    failures: Vec<(String, String)>,
    passed: usize,
}

impl Report {
    /// Notes one case, and prints its line.
    pub fn add(&mut self, name: &str, took: Duration, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok     {name} ({} ms)", took.as_millis());
            }
            Err(error) => {
                println!("FAILED {name} ({} ms): {error}", took.as_millis());
                self.failures.push((name.to_owned(), error));
            }
        }
    }

    /// How many cases passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// Each failure, a line or more; empty if there is none.
    #[must_use]
    pub fn failures(&self) -> String {
        let mut text = String::new();
        for (name, error) in &self.failures {
            // Writing to a string does not fail.
            let _ = writeln!(text, "- {name}: {error}");
        }
        text
    }

    /// The failed cases, if all that failed measure time.
    #[must_use]
    pub fn only_timed(&self) -> Option<Vec<&str>> {
        let failed = self.failures.iter().map(|(name, _)| name.as_str());
        let timed = failed.map(|name| TIMED.contains(&name).then_some(name));
        timed.collect()
    }

    /// The end.
    ///
    /// # Panics
    /// If a case failed, or none has run.
    pub fn conclude(self, ground: &str) {
        let (failures, failed, passed) = (self.failures(), self.failures.len(), self.passed);
        assert!(
            failed == 0,
            "{failed} of {} cases failed at {ground}:\n{failures}",
            failed + passed
        );
        assert!(passed > 0, "no case has run at {ground}");
    }
}

impl Ground {
    /// Calls go through the mesh.
    #[must_use]
    pub fn is_mesh(&self) -> bool {
        self.way != Way::Direct
    }

    /// A client on a connection of its own.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn echo(&self) -> Result<EchoClient<Channel>> {
        let channel = client::channel(self.target).await?;
        Ok(EchoClient::new(channel)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT))
    }

    /// A client that speaks frames, on a connection of its own.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn raw(&self) -> Result<RawClient> {
        RawClient::connect(self.target).await
    }

    /// One who asks the server itself.
    ///
    /// # Errors
    /// The server is gone.
    pub async fn witness(&self) -> Result<Witness> {
        let channel = client::channel(self.server).await?;
        Ok(Witness(WitnessClient::new(channel)))
    }
}

/// Asks the server what it saw.
#[derive(Debug, Clone)]
pub struct Witness(WitnessClient<Channel>);

/// What the server saw of one call.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// When, by the clock that all processes of this machine share.
    pub when: SystemTime,
    /// The deadline that the call had when it arrived.
    pub remaining: Option<Duration>,
}

impl Witness {
    /// Waits until the call with this key has come so far.
    ///
    /// # Errors
    /// It has not after 10 s.
    pub async fn sees(&mut self, key: &str, moment: Moment) -> Result<Seen> {
        let request = ObserveRequest {
            key: key.to_owned(),
            moment: moment.into(),
            timeout_ms: u32::try_from(SOON.as_millis())?,
        };
        let seen = self.0.observe(request).await;
        let seen = seen
            .with_context(|| format!("the server does not see {moment:?}"))?
            .into_inner();
        Ok(Seen {
            when: UNIX_EPOCH + Duration::from_nanos(u64::try_from(seen.unix_nanos)?),
            remaining: u64::try_from(seen.remaining_ms)
                .ok()
                .map(Duration::from_millis),
        })
    }

    /// How many calls with this key came how far.
    ///
    /// # Errors
    /// The server is gone.
    pub async fn count(&mut self, key: &str) -> Result<CountCallsResponse> {
        let key = key.to_owned();
        Ok(self
            .0
            .count_calls(CountCallsRequest { key })
            .await?
            .into_inner())
    }
}

/// A key that no other call has.
#[must_use]
pub fn fresh_key(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{number}", std::process::id())
}

/// A behaviour of which only the key is said.
#[must_use]
pub fn keyed(key: &str) -> Behaviour {
    Behaviour {
        ledger_key: key.to_owned(),
        ..Behaviour::default()
    }
}

/// Bytes that do not repeat and do not compress well, the same for the same length.
#[must_use]
pub fn noise(length: usize) -> bytes::Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// The middle one.
///
/// # Panics
/// Of nothing.
#[must_use]
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timed_cases_are_cases() {
        for timed in TIMED {
            assert!(CASES.iter().any(|case| case.name == *timed), "{timed}");
        }
    }

    #[test]
    fn only_failures_of_timed_cases_have_another_go() {
        let fails = |names: &[&str]| {
            let mut report = Report::default();
            report.add("unary_is_given_back", Duration::ZERO, Ok(()));
            for name in names {
                report.add(name, Duration::ZERO, Err("late".to_owned()));
            }
            report
        };
        assert_eq!(fails(&[]).only_timed(), Some(vec![]));
        let timed = ["deadline_of_unary", "deadline_of_stream"];
        assert_eq!(fails(&timed).only_timed(), Some(timed.to_vec()));
        let mixed = ["deadline_of_unary", "half_close"];
        assert_eq!(fails(&mixed).only_timed(), None);
        // A client that did not end is no case.
        assert_eq!(fails(&["(the client itself)"]).only_timed(), None);
    }
}
