//! Servers whose way of answering a test changes while calls come, frame by frame, and which count
//! what came; and a mesh of them, into which no rule was compiled.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use h2::Reason;
use http::StatusCode;
use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::admin::Answer;
use crate::applied::{applied, rule, with};
use crate::ask::ECHO_UNARY;
use crate::client::RawClient;
use crate::cluster::{Cluster, ClusterBuilder, Node};
use crate::services;
use crate::upstream::raw::{RawRequest, RawUpstream};
use crate::wire::v1::UnaryRequest;

/// How long a call may take: long, so that only a call that hangs is too late.
pub const LIMIT: Duration = Duration::from_secs(10);

/// How a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With a message.
    Well,
    /// The same, after this time.
    Slow(Duration),
    /// UNAVAILABLE, as a whole answer of a head.
    Unavailable,
    /// The same, and the next attempt is to come after this many milliseconds.
    Pushback(&'static str),
    /// `REFUSED_STREAM`.
    Refuse,
    /// `NOT_FOUND`: an answer like any other.
    NotFound,
    /// A message first, then UNAVAILABLE.
    Begun,
    /// Not before the test names another way.
    Held,
}

/// A server whose way of answering a test changes, and which counts.
pub struct Server {
    upstream: RawUpstream,
    way: Arc<Mutex<Way>>,
    seen: Arc<Seen>,
}

/// What came to a server.
#[derive(Default)]
struct Seen {
    /// When each attempt came, and how many it said were before it.
    arrivals: Mutex<Vec<(Instant, Option<String>)>>,
    cancelled: AtomicUsize,
}

impl Server {
    async fn start(way: Way) -> Self {
        let way = Arc::new(Mutex::new(way));
        let seen = Arc::<Seen>::default();
        let (how, noted) = (Arc::clone(&way), Arc::clone(&seen));
        let upstream = RawUpstream::start(move |request: RawRequest| {
            // The sidecar asks for the app's health on the same port.
            if request.head.uri().path() == ECHO_UNARY {
                let before = request.head.headers().get("grpc-previous-rpc-attempts");
                let before = before.map(|value| value.to_str().unwrap().to_owned());
                let mut arrivals = noted.arrivals.lock().unwrap();
                arrivals.push((Instant::now(), before));
            }
            answer(request, Arc::clone(&how), Arc::clone(&noted))
        });
        Self {
            upstream: upstream.await,
            way,
            seen,
        }
    }

    /// Answers so from now on.
    ///
    /// # Panics
    /// If a test that shares it has.
    pub fn now(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    /// When attempts came.
    ///
    /// # Panics
    /// As [`Server::now`].
    #[must_use]
    pub fn arrivals(&self) -> Vec<Instant> {
        let arrivals = self.seen.arrivals.lock().unwrap();
        arrivals.iter().map(|(at, _)| *at).collect()
    }

    /// How many attempts each of them said were before it.
    ///
    /// # Panics
    /// As [`Server::now`].
    #[must_use]
    pub fn attempts_before(&self) -> Vec<Option<String>> {
        let arrivals = self.seen.arrivals.lock().unwrap();
        arrivals.iter().map(|(_, before)| before.clone()).collect()
    }

    /// How many attempts came.
    ///
    /// # Panics
    /// As [`Server::now`].
    #[must_use]
    pub fn count(&self) -> usize {
        self.seen.arrivals.lock().unwrap().len()
    }

    /// How many of them were cancelled before they were answered.
    #[must_use]
    pub fn cancelled(&self) -> usize {
        self.seen.cancelled.load(Ordering::Relaxed)
    }
}

async fn answer(mut request: RawRequest, how: Arc<Mutex<Way>>, seen: Arc<Seen>) {
    if request.head.uri().path() != ECHO_UNARY {
        let unimplemented = [("grpc-status", "12")];
        request
            .answer
            .only_headers(StatusCode::OK, &unimplemented, None);
        return;
    }
    let mut way = *how.lock().unwrap();
    let begun = Instant::now();
    loop {
        let waits = match way {
            Way::Held => true,
            Way::Slow(time) => begun.elapsed() < time,
            _ => false,
        };
        if !waits {
            break;
        }
        tokio::select! {
            () = sleep(Duration::from_millis(1)) => {}
            reason = request.answer.caller_resets() => {
                let given_up = reason == Reason::CANCEL;
                seen.cancelled.fetch_add(usize::from(given_up), Ordering::Relaxed);
                return;
            }
        }
        way = *how.lock().unwrap();
    }
    let status = match way {
        Way::Well | Way::Slow(_) | Way::Begun => {
            let status = if way == Way::Begun { "14" } else { "0" };
            let mut body = request.answer.begin(StatusCode::OK, &[]);
            body.message(b"");
            body.trailers(&[("grpc-status", status)], None);
            return;
        }
        Way::Refuse => return request.answer.reset(Reason::REFUSED_STREAM),
        Way::Unavailable => vec![("grpc-status", "14")],
        Way::Pushback(time) => vec![("grpc-status", "14"), ("grpc-retry-pushback-ms", time)],
        Way::NotFound => vec![("grpc-status", "5")],
        Way::Held => unreachable!("it waited for another"),
    };
    request.read_all().await;
    request.answer.only_headers(StatusCode::OK, &status, None);
}

/// A caller, and a node for each server: `a`, `b` and `c`; no rule was compiled into any of them.
pub struct Mesh {
    /// Its processes.
    pub cluster: Cluster,
    /// The servers, in the order of their nodes.
    pub servers: Vec<Server>,
    /// Calls by way of the caller's sidecar.
    pub client: RawClient,
}

/// Starts a mesh of `cluster` and nodes that run `program`, [`unruled!`](crate::unruled!).
///
/// # Panics
/// If it does not come up.
pub async fn mesh(cluster: ClusterBuilder, program: &'static str, ways: &[Way]) -> Mesh {
    mesh_with(cluster, program, ways, &[]).await
}

/// The same, where all sidecars have these flags; those without a value are switches.
///
/// # Panics
/// As [`mesh`].
pub async fn mesh_with(
    cluster: ClusterBuilder,
    program: &'static str,
    ways: &[Way],
    flags: &[(&str, &str)],
) -> Mesh {
    let flagged = |building: ClusterBuilder| {
        let each = flags.iter();
        each.fold(building, |building, (flag, value)| match *value {
            "" => building.switched_on(flag),
            value => building.with(flag, value),
        })
    };
    let mut servers = Vec::new();
    let mut building = cluster.control();
    for (way, name) in ways.iter().zip(["a", "b", "c"]) {
        let server = Server::start(*way).await;
        building =
            flagged(building.node(name).running(program)).serving(services::ECHO, &server.upstream);
        servers.push(server);
    }
    let building = flagged(building.node("caller").running(program));
    let cluster = building.launch().await;
    cluster.control().ready().await;
    for node in cluster.nodes() {
        node.ready().await;
    }
    let caller = cluster.node("caller");
    let explain = format!("/explain?path=/{}/Unary", services::ECHO);
    caller
        .answers(&explain, |answer| eligible(answer) == ways.len())
        .await;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    Mesh {
        cluster,
        servers,
        client,
    }
}

/// The endpoints as `explain` shows them.
#[must_use]
pub fn candidates(answer: &Answer) -> Vec<serde_json::Value> {
    let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
    answer["candidates"].as_array().cloned().unwrap_or_default()
}

fn eligible(answer: &Answer) -> usize {
    let candidates = candidates(answer);
    candidates
        .iter()
        .filter(|it| it["eligible"] == true)
        .count()
}

/// Round robin, so that the next endpoint is known, and no breaker unless a test says so.
fn echo(change: impl FnOnce(&mut wire::Rule)) -> wire::PushedRule {
    with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.load_balancing = wire::LoadBalancing::RoundRobin.into();
        rule.breaker = Some(wire::Breaker {
            off: true,
            ..wire::Breaker::default()
        });
        rule.outlier = Some(wire::Outlier {
            off: true,
            ..wire::Outlier::default()
        });
        change(rule);
    })
}

/// One call; its status, the mesh's or the server's.
///
/// # Panics
/// If it takes longer than [`LIMIT`], or the connection breaks.
pub async fn call(client: RawClient) -> Status {
    let request = UnaryRequest::default();
    let called = client.unary(ECHO_UNARY, &[], &request);
    let answer = timeout(LIMIT, called).await.expect("an answer in time");
    answer.unwrap().grpc_status().unwrap()
}

impl Mesh {
    /// The node whose sidecar makes the calls.
    #[must_use]
    pub fn caller(&self) -> &Node {
        self.cluster.node("caller")
    }

    /// Applies a rule that takes turns and has no breaker, but for these changes, and waits for the
    /// caller to hold it.
    pub async fn apply(&self, change: impl FnOnce(&mut wire::Rule)) {
        applied(self.cluster.control(), &[self.caller()], echo(change)).await;
    }

    /// [`call`].
    pub async fn call(&self) -> Status {
        call(self.client.clone()).await
    }

    /// Attempts that reached the servers.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.servers.iter().map(Server::count).sum()
    }

    /// Calls once; how many attempts that made, and the status.
    pub async fn attempts_of_a_call(&self) -> (usize, Code) {
        let before = self.attempts();
        let status = self.call().await;
        (self.attempts() - before, status.code())
    }

    /// 1,000 calls a second for so long, whatever comes of them; how many, and for how long.
    ///
    /// # Panics
    /// As [`call`].
    pub async fn storm(&self, time: Duration) -> (u64, Duration) {
        let (begun, mut calls) = (Instant::now(), 0);
        let mut due = tokio::time::interval(Duration::from_millis(1));
        let mut tasks = tokio::task::JoinSet::new();
        while begun.elapsed() < time {
            due.tick().await;
            tasks.spawn(call(self.client.clone()));
            calls += 1;
        }
        tasks.join_all().await;
        (calls, begun.elapsed())
    }

    /// A figure of the caller's about the service.
    pub async fn figure(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = [&[("service", services::ECHO)], labels].concat();
        self.caller().metrics().await.sum(name, &labels)
    }
}

/// The bound of all attempts together: 1.2 times the calls and ten a second, and what two quiet
/// seconds before may have left.
#[must_use]
pub fn bound(calls: f64, time: Duration) -> f64 {
    calls * 1.2 + 10.0 * (time.as_secs_f64() + 2.0)
}
