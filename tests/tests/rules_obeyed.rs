//! What rules say of time limits and of further attempts, seen at the servers: their ledgers tell
//! how often each call was executed, where, and with which deadline it came.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::admin::Answer;
use sidelane_tests::applied::{applied, idempotent, milliseconds, retry, rule, unary, with};
use sidelane_tests::ask::until_answered;
use sidelane_tests::cases::fresh_key;
use sidelane_tests::cluster::Node;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::{Behaviour, ExpandRequest, Moment, UnaryRequest, UnaryResponse};
use sidelane_tests::{Cluster, Upstream, cluster, services, unruled};
use tonic::{Code, Request, Status};

const UNAVAILABLE: i32 = Code::Unavailable as i32;
const ABORTED: i32 = Code::Aborted as i32;

/// A caller, and two nodes that serve Echo; no rule was compiled into any of them.
struct Mesh {
    cluster: Cluster,
    upstreams: [Upstream; 2],
}

async fn mesh() -> Mesh {
    let upstreams = [
        Upstream::named("a").start().await,
        Upstream::named("b").start().await,
    ];
    let cluster = cluster!()
        .control()
        .node("a")
        .running(unruled!())
        .serving(services::ECHO, &upstreams[0])
        .node("b")
        .running(unruled!())
        .serving(services::ECHO, &upstreams[1])
        .node("caller")
        .running(unruled!())
        .each_ready()
        .await;
    until_answered(cluster.node("caller")).await;
    let mesh = Mesh { cluster, upstreams };
    mesh.both().await;
    mesh
}

/// Round robin, so that the next attempt's endpoint is known.
fn echo(change: impl FnOnce(&mut wire::Rule)) -> wire::PushedRule {
    with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.load_balancing = wire::LoadBalancing::RoundRobin.into();
        change(rule);
    })
}

impl Mesh {
    fn caller(&self) -> &Node {
        self.cluster.node("caller")
    }

    /// Waits until the caller would send calls to both servers.
    async fn both(&self) {
        let both = |answer: &Answer| {
            let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let candidates = answer["candidates"].as_array().cloned().unwrap_or_default();
            let eligible = |candidate: &&serde_json::Value| candidate["eligible"] == true;
            candidates.iter().filter(eligible).count() == 2
        };
        let explain = format!("/explain?path=/{}/Unary", services::ECHO);
        self.caller().answers(&explain, both).await;
    }

    /// The rule holds at the caller, which is who makes attempts.
    async fn apply(&self, pushed: wire::PushedRule) {
        applied(self.cluster.control(), &[self.caller()], pushed).await;
    }

    /// How often each server executed the call.
    fn executions(&self, key: &str) -> [usize; 2] {
        let count = |upstream: &Upstream| upstream.ledger().visits(key).len();
        [count(&self.upstreams[0]), count(&self.upstreams[1])]
    }

    async fn call(&self, request: Request<UnaryRequest>) -> Result<UnaryResponse, Status> {
        let mut client = EchoClient::new(self.caller().channel().await);
        client.unary(request).await.map(tonic::Response::into_inner)
    }

    /// Calls, and is answered with this status; how often that was executed.
    async fn answered(&self, status: i32, payload: usize) -> [usize; 2] {
        let key = fresh_key("again");
        let request = UnaryRequest {
            payload: Bytes::from(vec![7; payload]),
            behaviour: Some(Behaviour {
                status,
                message: "as was asked".to_owned(),
                ledger_key: key.clone(),
                ..Behaviour::default()
            }),
        };
        let error = self.call(Request::new(request)).await.unwrap_err();
        assert_eq!(error.code(), Code::from(status));
        // The server's own word, not the mesh's.
        assert_eq!(error.message(), "as was asked");
        self.executions(&key)
    }
}

fn total(executions: [usize; 2]) -> usize {
    executions.iter().sum()
}

#[tokio::test]
async fn idempotent_methods_are_tried_again_as_their_rule_says_and_no_others() {
    let mesh = mesh().await;
    // The default rule: nothing is idempotent.
    assert_eq!(total(mesh.answered(UNAVAILABLE, 0).await), 1);

    mesh.apply(echo(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(3, &[]);
    }))
    .await;
    let mut executions = mesh.answered(UNAVAILABLE, 0).await;
    executions.sort_unstable();
    assert_eq!(executions, [1, 2], "elsewhere, where there is one");
    assert_eq!(total(mesh.answered(ABORTED, 0).await), 1, "not in the list");
    // What cannot be replayed is not tried again.
    assert_eq!(total(mesh.answered(UNAVAILABLE, 80 * 1024).await), 1);

    mesh.apply(echo(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(2, &["ABORTED"]);
    }))
    .await;
    assert_eq!(mesh.answered(ABORTED, 0).await, [1, 1]);
    assert_eq!(total(mesh.answered(UNAVAILABLE, 0).await), 1);

    // A method's own word counts before its service's.
    mesh.apply(echo(|rule| {
        let mut unary = idempotent("Unary");
        unary.retry = retry(5, &["UNAVAILABLE", "ABORTED"]);
        rule.methods = vec![unary];
        rule.retry = retry(2, &["ABORTED"]);
    }))
    .await;
    assert_eq!(total(mesh.answered(ABORTED, 0).await), 5);
    assert_eq!(total(mesh.answered(UNAVAILABLE, 0).await), 5);

    // The same rule, and a method that may not run twice.
    mesh.apply(echo(|rule| {
        rule.methods = vec![unary("Unary"), idempotent("Other")];
        rule.retry = retry(5, &[]);
    }))
    .await;
    assert_eq!(total(mesh.answered(UNAVAILABLE, 0).await), 1);
}

#[tokio::test]
async fn an_answer_that_has_begun_is_never_asked_for_again() {
    let mesh = mesh().await;
    mesh.apply(echo(|rule| {
        let mut expand = idempotent("Expand");
        expand.server_streaming = true;
        rule.methods = vec![expand];
        rule.retry = retry(3, &[]);
    }))
    .await;
    let mut client = EchoClient::new(mesh.caller().channel().await);
    for (after_messages, attempts) in [(0, 3), (1, 1)] {
        let key = fresh_key("begun");
        let request = ExpandRequest {
            messages: 3,
            bytes: 9,
            behaviour: Some(Behaviour {
                status: UNAVAILABLE,
                ledger_key: key.clone(),
                after_messages,
                ..Behaviour::default()
            }),
        };
        let error = match client.expand(request).await {
            Err(error) => error,
            Ok(answer) => {
                let mut answer = answer.into_inner();
                loop {
                    match answer.message().await {
                        Ok(Some(_)) => {}
                        Ok(None) => panic!("it ends in good order"),
                        Err(error) => break error,
                    }
                }
            }
        };
        assert_eq!(error.code(), Code::Unavailable);
        assert_eq!(total(mesh.executions(&key)), attempts);
    }
}

#[tokio::test]
async fn a_lost_connection_is_a_reason_to_try_again_only_where_that_does_no_harm() {
    let mesh = mesh().await;
    for (harmless, expected) in [(false, 1), (true, 2)] {
        mesh.apply(echo(|rule| {
            let name = "Unary";
            rule.methods = vec![if harmless {
                idempotent(name)
            } else {
                unary(name)
            }];
            rule.methods.push(idempotent("Other"));
            // What is lost is tried again whatever statuses are named.
            rule.retry = retry(2, &["ABORTED"]);
        }))
        .await;
        let key = fresh_key("lost");
        let request = UnaryRequest {
            behaviour: Some(Behaviour {
                delay_ms: 700,
                ledger_key: key.clone(),
                ..Behaviour::default()
            }),
            ..UnaryRequest::default()
        };
        let mut request = Request::new(request);
        request.set_timeout(Duration::from_secs(20));
        let mut client = EchoClient::new(mesh.caller().channel().await);
        let call = tokio::spawn(async move { client.unary(request).await });
        let node = loop {
            let [at_a, at_b] = mesh.executions(&key);
            if at_a + at_b > 0 {
                break if at_a > 0 { "a" } else { "b" };
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let node = mesh.cluster.node(node);
        node.kill().await;
        let answer = call.await.unwrap();
        assert_eq!(total(mesh.executions(&key)), expected);
        if harmless {
            let other = if node.name() == "a" { "b" } else { "a" };
            assert_eq!(answer.unwrap().into_inner().node, other);
        } else {
            let refusal = Refusal::of_status(&answer.unwrap_err());
            assert_eq!(
                (&*refusal.reason, &*refusal.processed),
                ("PEER_RESET", "maybe")
            );
        }
        node.start_again().await;
        node.ready().await;
        mesh.both().await;
    }
}

#[tokio::test]
async fn all_attempts_together_take_no_longer_than_the_call_may() {
    let mesh = mesh().await;
    mesh.apply(echo(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(5, &[]);
    }))
    .await;
    let key = fresh_key("late");
    let mut request = Request::new(UnaryRequest {
        behaviour: Some(Behaviour {
            status: UNAVAILABLE,
            delay_ms: 250,
            ledger_key: key.clone(),
            ..Behaviour::default()
        }),
        ..UnaryRequest::default()
    });
    request.set_timeout(Duration::from_millis(600));
    let begun = Instant::now();
    let error = mesh.call(request).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(1_500));
    // Whoever's clock rang first: tonic's client calls it cancelled.
    let ended = [Code::DeadlineExceeded, Code::Cancelled];
    assert!(ended.contains(&error.code()), "{error:?}");
    let executed = total(mesh.executions(&key));
    assert!((2..=3).contains(&executed), "{executed}");
}

#[tokio::test]
async fn a_ceiling_bounds_every_unary_call_and_a_methods_limit_those_without_one() {
    let mesh = mesh().await;
    mesh.apply(echo(|rule| {
        let mut unary = unary("Unary");
        unary.timeout = milliseconds(800);
        rule.methods = vec![unary];
        rule.timeout = milliseconds(1_500);
        rule.max_timeout = milliseconds(2_000);
    }))
    .await;
    // Without a limit of its own, and with one far above and one below the ceiling.
    let cases = [
        (None, 401..=800),
        (Some(60_000), 1_501..=2_000),
        (Some(400), 1..=400),
    ];
    for (asked, expected) in cases {
        let key = fresh_key("limit");
        let mut request = Request::new(UnaryRequest {
            behaviour: Some(Behaviour {
                ledger_key: key.clone(),
                ..Behaviour::default()
            }),
            ..UnaryRequest::default()
        });
        if let Some(asked) = asked {
            request.set_timeout(Duration::from_millis(asked));
        }
        let left = mesh.call(request).await.unwrap().remaining_ms;
        assert!(expected.contains(&left), "{asked:?}: {left} ms");
    }
    // And the caller is told when it is over.
    let mut request = Request::new(UnaryRequest {
        behaviour: Some(Behaviour {
            delay_ms: 10_000,
            ledger_key: fresh_key("over"),
            ..Behaviour::default()
        }),
        ..UnaryRequest::default()
    });
    request.set_timeout(Duration::from_secs(60));
    let begun = Instant::now();
    let refusal = Refusal::of_status(&mesh.call(request).await.unwrap_err());
    assert_eq!(refusal.reason, "DEADLINE");
    let took = begun.elapsed();
    assert!((1_900..4_000).contains(&took.as_millis()), "{took:?}");
    // A stream has no ceiling, and this one no limit.
    let key = fresh_key("stream");
    let mut client = EchoClient::new(mesh.caller().channel().await);
    let stream = client.expand(ExpandRequest {
        messages: 1,
        bytes: 1,
        behaviour: Some(Behaviour {
            ledger_key: key.clone(),
            ..Behaviour::default()
        }),
    });
    let mut stream = stream.await.unwrap().into_inner();
    while stream.message().await.unwrap().is_some() {}
    let seen = |upstream: &Upstream| upstream.ledger().visits(&key);
    let visits: Vec<_> = mesh.upstreams.iter().flat_map(seen).collect();
    assert_eq!(visits.len(), 1);
    assert_eq!(visits[0].remaining, None);
    assert!(visits[0].reached(Moment::Finished).is_some());
}

#[tokio::test]
async fn a_service_beside_its_caller_is_tried_again_where_it_is() {
    let upstream = Upstream::named("alone").start().await;
    let cluster = cluster!()
        .control()
        .node("alone")
        .running(unruled!())
        .serving(services::ECHO, &upstream)
        .launch()
        .await;
    cluster.control().ready().await;
    let node = cluster.node("alone");
    node.ready().await;
    let pushed = echo(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(3, &[]);
    });
    applied(cluster.control(), &[node], pushed).await;
    let key = fresh_key("beside");
    let request = UnaryRequest {
        behaviour: Some(Behaviour {
            status: UNAVAILABLE,
            ledger_key: key.clone(),
            ..Behaviour::default()
        }),
        ..UnaryRequest::default()
    };
    let mut client = EchoClient::new(node.channel().await);
    let error = client.unary(request).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(upstream.ledger().visits(&key).len(), 3);
}
