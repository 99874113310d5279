//! Rules that control pushes: a sidecar takes each or refuses it, holds the last good one, also
//! over a restart, and goes by it as caller and as callee.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::Duration;

use serde_json::json;
use sidelane_proto::model::Lane;
use sidelane_proto::wire::control::v1::sync_request::Message as Said;
use sidelane_proto::wire::control::v1::{Ack, Endpoint, RuleRefusal, ServiceState, Update};
use sidelane_proto::wire::routing::v1::{self as wire, PushedRule};
use sidelane_tests::admin::Answer;
use sidelane_tests::applied::{self, at, rule, tuning, with};
use sidelane_tests::ask::{self, ECHO_UNARY, until_answered, who};
use sidelane_tests::cluster::Node;
use sidelane_tests::fake_control::{FakeControl, Session, full, state, version};
use sidelane_tests::refusal::Refusal;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::{Cluster, Upstream, cluster, services, unruled};
use tonic::Code;

/// A service that the program's own validation refuses rules of.
const FORBIDDEN: &str = "own.v1.Forbidden";

/// A caller and a callee that were compiled without rules, and what they said to the test, which
/// is their control plane.
struct Mesh {
    cluster: Cluster,
    caller: Session,
    callee: Session,
    control: FakeControl,
    _upstream: Upstream,
}

async fn mesh() -> Mesh {
    let control = FakeControl::start().await;
    let upstream = Upstream::named("callee").start().await;
    let cluster = cluster!()
        .node("callee")
        .running(unruled!())
        .with("--control", &control.address())
        .serving(services::ECHO, &upstream)
        .serving(FORBIDDEN, &upstream)
        .node("caller")
        .running(unruled!())
        .with("--control", &control.address())
        .launch()
        .await;
    let mut sessions = [control.session().await, control.session().await];
    sessions.sort_by(|one, other| one.hello.node_id.cmp(&other.hello.node_id));
    let [mut callee, mut caller] = sessions;
    for session in [&mut callee, &mut caller] {
        session.welcome().await;
        taken(&session.update(full(1, Vec::new())).await.unwrap());
    }
    Mesh {
        cluster,
        caller,
        callee,
        control,
        _upstream: upstream,
    }
}

fn taken(ack: &Ack) {
    assert_eq!(ack.refused, []);
}

impl Mesh {
    fn endpoint(&self) -> Endpoint {
        let node = self.cluster.node("callee");
        let generation = self.callee.hello.generation;
        let mut endpoint = sidelane_tests::fake_control::endpoint(
            services::ECHO,
            "callee",
            generation,
            node.internal(),
        );
        // As what was compiled without rules offers it.
        endpoint.rule = None;
        endpoint
    }

    /// The caller follows Echo, and is told this about it.
    async fn follow(&mut self, counter: u64, endpoints: Vec<Endpoint>, rules: Vec<PushedRule>) {
        // The first call asks control.
        let channel = self.cluster.node("caller").channel().await;
        let asking = tokio::spawn(async move {
            let mut echo = EchoClient::new(channel);
            let _ = echo.unary(UnaryRequest::default()).await;
        });
        loop {
            if let Said::Subscribe(subscribe) = self.caller.next().await
                && subscribe.services.iter().any(|it| it == services::ECHO)
            {
                break;
            }
        }
        let mut state = state(vec![self.endpoint()]);
        state.ever_seen = !endpoints.is_empty();
        state.endpoints = endpoints;
        let update = Update {
            rules,
            ..whole(counter, state)
        };
        taken(&self.caller.update(update).await.unwrap());
        asking.await.unwrap();
    }
}

/// A delta that states one service.
fn whole(counter: u64, state: ServiceState) -> Update {
    Update {
        full: false,
        ..full(counter, vec![state])
    }
}

fn rules(counter: u64, rules: Vec<PushedRule>) -> Update {
    Update {
        version: Some(version(counter)),
        rules,
        ..Update::default()
    }
}

/// The lanes of the links that stand to a peer.
async fn lanes(node: &Node) -> Vec<String> {
    let config = node.config().await;
    let links = config["links"].as_array().unwrap().clone();
    let peers = links.iter().filter(|link| link["kind"] == "peer");
    peers
        .map(|link| link["lane"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_pushed_rule_makes_its_service_known_and_says_its_lane() {
    let mut mesh = mesh().await;
    let caller = || mesh.cluster.node("caller");
    let unknown = Refusal::of(&ask::ask(caller(), "/never.v1.Heard/Get", &[]).await);
    assert_eq!(unknown.reason, "UNKNOWN_SERVICE");

    let pushed = at(2, rule(services::ECHO, Lane::GOSSIP));
    mesh.follow(2, Vec::new(), vec![pushed]).await;
    // Known, though nobody ever offered it.
    let nobody = Refusal::of(&ask::ask(mesh.cluster.node("caller"), ECHO_UNARY, &[]).await);
    assert_eq!(
        (&*nobody.reason, nobody.code),
        ("NO_ENDPOINT", Code::Unavailable)
    );

    let found = whole(3, state(vec![mesh.endpoint()]));
    taken(&mesh.caller.update(found).await.unwrap());
    // The callee has not heard of the rule; without one of its own it takes any lane.
    assert_eq!(until_answered(mesh.cluster.node("caller")).await, "callee");
    assert_eq!(lanes(mesh.cluster.node("caller")).await, ["gossip"]);
    let config = mesh.cluster.node("caller").config().await;
    let services = config["services"].as_array().unwrap();
    let echo = services.iter().find(|it| it["service"] == services::ECHO);
    let echo = echo.unwrap();
    assert_eq!(echo["rule"], "pushed");
    assert_eq!(echo["lane"], "gossip");
    let pushed = json!({ "version": 2, "origin": applied::ORIGIN, "tuning_only": false });
    assert_eq!(echo["pushed"], pushed);
    assert_eq!(config["rules"], json!({ "held": 1, "refused": [] }));

    // Another lane than the rule's is refused, as with a compiled one.
    let lane = [("sidelane-lane", "general")];
    let refused = Refusal::of(&ask::ask(mesh.cluster.node("caller"), ECHO_UNARY, &lane).await);
    assert_eq!(refused.reason, "LANE_REFUSED");
    assert!(
        refused
            .text
            .contains("its rule (rules.yaml:3) allows gossip"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn a_pushed_rule_holds_over_a_restart_without_control() {
    let mut mesh = mesh().await;
    let pushed = at(2, rule(services::ECHO, Lane::GOSSIP));
    mesh.follow(2, vec![mesh.endpoint()], vec![pushed]).await;
    let node = mesh.cluster.node("caller");
    assert_eq!(until_answered(node).await, "callee");
    let kept = |answer: &Answer| {
        let saves = "sidelane_snapshot_saves_total ";
        let line = answer
            .body
            .lines()
            .find_map(|line| line.strip_prefix(saves));
        line.is_some_and(|count| count != "0")
    };
    node.answers("/metrics", kept).await;
    node.kill().await;
    drop(mesh.control);
    node.start_again().await;
    let ready = |answer: &Answer| answer.status == 200;
    node.answers("/readyz?for=outbound", ready).await;
    assert_eq!(until_answered(node).await, "callee");
    assert_eq!(lanes(node).await, ["gossip"]);
}

#[tokio::test]
async fn a_rule_that_cannot_be_is_refused_alone_and_the_last_good_one_stays() {
    let mut mesh = mesh().await;
    let good = at(2, rule(services::ECHO, Lane::GOSSIP));
    mesh.follow(2, vec![mesh.endpoint()], vec![good]).await;

    let unknown_lane = with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.lane = "fast".to_owned();
    });
    let more = whole(3, state(vec![mesh.endpoint()]));
    let update = Update {
        rules: vec![at(3, unknown_lane)],
        ..more
    };
    let refused = mesh.caller.update(update).await.unwrap().refused;
    let [RuleRefusal { field, version, .. }] = refused.as_slice() else {
        panic!("{refused:?}");
    };
    assert_eq!((&**field, *version), ("rules[0].rule.lane", 3));

    let node = mesh.cluster.node("caller");
    assert_eq!(who(node).await.unwrap(), "callee");
    assert_eq!(lanes(node).await, ["gossip"]);
    let answer = node.get("/readyz").await;
    assert_eq!(answer.status, 200);
    let told = "BAD_RULES: the pushed rule of sidelane.test.v1.Echo, version 3, was refused, the \
                last good one stays: rules[0].rule.lane";
    assert!(answer.body.contains(told), "{}", answer.body);
    let config = node.config().await;
    assert_eq!(config["rules"]["held"], 1);
    assert_eq!(config["rules"]["refused"][0]["field"], "rules[0].rule.lane");
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("sidelane_rules_refused_total", &[]), 1.0);

    // Taken back, it is no complaint any more.
    let gone = Update {
        rules_removed: vec![services::ECHO.to_owned()],
        ..rules(4, Vec::new())
    };
    taken(&mesh.caller.update(gone).await.unwrap());
    let config = node.config().await;
    assert_eq!(config["rules"], json!({ "held": 0, "refused": [] }));
}

/// What a pushed rule would move.
type Change = fn(&mut wire::Rule);

#[tokio::test]
async fn a_compiled_rule_is_tuned_and_never_moved() {
    let control = FakeControl::start().await;
    let upstream = Upstream::named("callee").start().await;
    let cluster = cluster!()
        .node("callee")
        .with("--control", &control.address())
        .serving(services::ECHO, &upstream)
        .launch()
        .await;
    let mut session = control.session().await;
    session.welcome().await;
    taken(&session.update(full(1, Vec::new())).await.unwrap());

    let cases: [(&str, Change); 4] = [
        ("rules[0].rule.lane", |rule| {
            (rule.lane_id, rule.lane) = (1, "gossip".to_owned());
        }),
        ("rules[0].rule.connection", |rule| {
            rule.connection = wire::Connection::External.into();
        }),
        ("rules[0].rule.secure", |rule| rule.secure = true),
        ("rules[0].rule.persistent", |rule| rule.persistent = true),
    ];
    for (counter, (field, change)) in (2..).zip(cases) {
        let moved = with(rule(services::ECHO, Lane::GENERAL), change);
        let update = rules(counter, vec![at(counter, moved)]);
        let refused = session.update(update).await.unwrap().refused;
        assert_eq!(refused.len(), 1, "{field}");
        assert_eq!(refused[0].field, field);
        assert!(
            refused[0].problem.contains("is compiled in as"),
            "{}",
            refused[0].problem
        );
    }
    let tuned = with(tuning(services::ECHO), |rule| {
        rule.timeout = applied::milliseconds(900);
    });
    let update = rules(9, vec![at(9, tuned)]);
    taken(&session.update(update).await.unwrap());
    let answer = cluster.node("callee").explain(ECHO_UNARY).await;
    assert!(answer.body.contains("900 ms"), "{}", answer.body);
}

#[tokio::test]
async fn a_validation_of_the_projects_own_refuses_too() {
    let mut mesh = mesh().await;
    let forbidden = at(2, rule(FORBIDDEN, Lane::GENERAL));
    let echo = at(2, rule(services::ECHO, Lane::GENERAL));
    // Nobody here has anything to do with this one, so it is not even judged.
    let other = at(2, rule("shop.v1.Forbidden", Lane::GENERAL));
    let update = rules(2, vec![other, echo, forbidden]);
    let refused = mesh.callee.update(update).await.unwrap().refused;
    let refusal = RuleRefusal {
        service: FORBIDDEN.to_owned(),
        version: 2,
        field: "rules[2].rule.service".to_owned(),
        problem: "is not to be called (validation `names`)".to_owned(),
    };
    assert_eq!(refused, [refusal]);
    let config = mesh.cluster.node("callee").config().await;
    assert_eq!(config["rules"]["held"], 1);
}

/// Tells one of the two a rule for Echo in this lane.
async fn push(session: &mut Session, counter: u64, lane: Lane) {
    let pushed = at(counter, rule(services::ECHO, lane));
    taken(&session.update(rules(counter, vec![pushed])).await.unwrap());
}

#[tokio::test]
async fn news_that_reach_the_two_ends_apart_fail_no_call() {
    let mut mesh = mesh().await;
    mesh.follow(2, vec![mesh.endpoint()], Vec::new()).await;
    push(&mut mesh.callee, 3, Lane::GENERAL).await;
    push(&mut mesh.caller, 3, Lane::GENERAL).await;
    assert_eq!(who(mesh.cluster.node("caller")).await.unwrap(), "callee");

    // The callee hears first: the caller's way was right until now.
    push(&mut mesh.callee, 4, Lane::GOSSIP).await;
    assert_eq!(who(mesh.cluster.node("caller")).await.unwrap(), "callee");
    assert_eq!(lanes(mesh.cluster.node("caller")).await, ["general"]);
    push(&mut mesh.caller, 4, Lane::GOSSIP).await;
    assert_eq!(who(mesh.cluster.node("caller")).await.unwrap(), "callee");

    // The caller hears first: its call waits for the callee's news.
    push(&mut mesh.caller, 5, Lane::BIFROST_DATA).await;
    let channel = mesh.cluster.node("caller").channel().await;
    let mut call = tokio::spawn(async move {
        let mut echo = EchoClient::new(channel);
        echo.unary(UnaryRequest::default()).await
    });
    let early = tokio::time::timeout(Duration::from_millis(300), &mut call).await;
    assert!(early.is_err(), "{early:?}");
    push(&mut mesh.callee, 5, Lane::BIFROST_DATA).await;
    let answer = call.await.unwrap().unwrap();
    assert_eq!(answer.into_inner().node, "callee");

    // News that never come are not waited for without an end.
    push(&mut mesh.caller, 6, Lane::GENERAL).await;
    let refused = who(mesh.cluster.node("caller")).await;
    // The way before the last one, which is too old.
    let refused = Refusal::of_status(&refused.unwrap_err());
    assert_eq!(refused.reason, "RULES_MISMATCH");
    let sides = "the caller sends it in lane `general`, the rule here (rules.yaml:3) says \
                 `bifrost_data`";
    assert!(refused.text.contains(sides), "{}", refused.text);
}
