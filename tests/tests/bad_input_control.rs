//! A control plane that is away, and one that says what cannot be: the last good picture stays,
//! calls go on, and `/readyz` says what is wrong, down to the field.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use sidelane_proto::wire::control::v1::sync_request::Message as Said;
use sidelane_proto::wire::control::v1::sync_response::Message as Heard;
use sidelane_proto::wire::control::v1::{
    Ack, Addresses, Endpoint, Nack, Refusal as Refused, Superseded, Update, Welcome,
};
use sidelane_tests::ask::{until_answered, who};
use sidelane_tests::fake_control::{FakeControl, Session, endpoint, full, state, upserts, version};
use sidelane_tests::ports::free_port;
use sidelane_tests::{Cluster, Upstream, cluster, services};

#[tokio::test]
async fn without_control_a_sidecar_starts_says_so_and_becomes_ready_when_control_appears() {
    let upstream = Upstream::named("alone").start().await;
    let control = format!("127.0.0.1:{}", free_port());
    let mesh = cluster!()
        .node("alone")
        .with("--control", &control)
        .serving(services::ECHO, &upstream)
        .launch()
        .await;
    let node = mesh.node("alone");
    let away = format!(
        "control is away: control at {control} cannot be reached: Connection refused (os error 111)"
    );
    let answer = node
        .answers("/readyz", |answer| answer.body.contains("away"))
        .await;
    let expected = format!(
        "outbound: not ready: no picture of the mesh yet: {away}\ninbound: not ready: {away}\n"
    );
    assert_eq!((answer.status, answer.body), (503, expected));
    assert_eq!(node.get("/livez").await.status, 200);
    // What stands beside it can be called all the same.
    assert_eq!(who(node).await.unwrap(), "alone");

    let _late = cluster!()
        .control()
        .with("--listen", &control)
        .start()
        .await;
    node.ready().await;
    let answer = node.get("/readyz").await;
    assert_eq!(answer.body, "outbound: ready\ninbound: ready\n");
}

/// A caller and a callee, and what both have said to the control plane that the test is.
struct Mesh {
    cluster: Cluster,
    caller: Session,
    callee: Session,
    _upstream: Upstream,
}

/// The caller knows where the callee is.
async fn mesh(control: &FakeControl) -> Mesh {
    let upstream = Upstream::named("callee").start().await;
    let cluster = cluster!()
        .node("callee")
        .with("--control", &control.address())
        .serving(services::ECHO, &upstream)
        .node("caller")
        .with("--control", &control.address())
        .launch()
        .await;
    let mut sessions = [control.session().await, control.session().await];
    sessions.sort_by(|one, other| one.hello.node_id.cmp(&other.hello.node_id));
    let [mut callee, mut caller] = sessions;
    for session in [&mut callee, &mut caller] {
        session.welcome().await;
    }
    let known = full(1, vec![state(vec![callee_endpoint(&cluster, &callee)])]);
    taken(&caller.update(known).await, 1);
    taken(&callee.update(full(1, Vec::new())).await, 1);
    Mesh {
        cluster,
        caller,
        callee,
        _upstream: upstream,
    }
}

/// The callee as it is.
fn callee_endpoint(cluster: &Cluster, callee: &Session) -> Endpoint {
    let address = cluster.node("callee").internal();
    endpoint(services::ECHO, "callee", callee.hello.generation, address)
}

fn taken(answer: &Result<Ack, Nack>, counter: u64) {
    let version = Some(version(counter));
    assert_eq!(
        *answer,
        Ok(Ack {
            version,
            refused: Vec::new()
        })
    );
}

/// Tells the caller bad news: they are refused with this field and problem, and nothing changes.
async fn refused(mesh: &mut Mesh, update: Update, field: &str, problem: &str) {
    let version = update.version.clone();
    let expected = Nack {
        version,
        field: field.to_owned(),
        problem: problem.to_owned(),
    };
    assert_eq!(mesh.caller.update(update).await, Err(expected));
    let node = mesh.cluster.node("caller");
    let answer = node.get("/readyz").await;
    let told = format!(
        "outbound: ready\ninbound: ready\ncontrol's last update was refused, the last good one \
         stays: {field} {problem}\n"
    );
    assert_eq!((answer.status, answer.body), (200, told));
    assert_eq!(who(node).await.unwrap(), "callee");
}

#[tokio::test]
async fn news_that_cannot_be_are_refused_by_field_and_the_last_good_ones_stay() {
    let control = FakeControl::start().await;
    let mut mesh = mesh(&control).await;
    assert_eq!(until_answered(mesh.cluster.node("caller")).await, "callee");
    let good = callee_endpoint(&mesh.cluster, &mesh.callee);

    let mut nowhere = good.clone();
    nowhere.addresses = Some(Addresses {
        internal: "nowhere".to_owned(),
        ..Addresses::default()
    });
    let update = upserts(2, vec![good.clone(), nowhere.clone()]);
    let no_address = "`nowhere` is not a host and port such as `10.0.0.7:15006`";
    refused(
        &mut mesh,
        update,
        "upserts[1].addresses.internal",
        no_address,
    )
    .await;

    let mut crossed = good.clone();
    let rule = crossed.rule.as_mut().unwrap();
    (rule.lane_id, rule.lane) = (3, "ingress_data".to_owned());
    let update = full(3, vec![state(vec![crossed])]);
    let pair = "Internal and lane `ingress_data` do not go together; Internal allows general, \
                gossip, bifrost_data";
    refused(
        &mut mesh,
        update,
        "services[0].endpoints[0].rule.lane",
        pair,
    )
    .await;

    let mut ageless = good.clone();
    ageless.generation = 0;
    let update = upserts(4, vec![ageless]);
    refused(&mut mesh, update, "upserts[0].generation", "is missing").await;

    let mut foreign = upserts(5, Vec::new());
    foreign.version.as_mut().unwrap().store_id = "other-store".to_owned();
    let store = "contradicts another field: `other-store` is not the store of what is held, \
                 `fake-store`, and the update is not full";
    refused(&mut mesh, foreign, "version.store_id", store).await;

    let metrics = mesh.cluster.node("caller").metrics().await;
    assert_eq!(metrics.sum("sidelane_updates_refused_total", &[]), 4.0);
    assert_eq!(metrics.sum("sidelane_snapshot_version", &[]), 1.0);

    // The next good one is taken, and the complaint is over.
    taken(
        &mesh.caller.update(full(6, vec![state(vec![good])])).await,
        6,
    );
    let answer = mesh.cluster.node("caller").get("/readyz").await;
    assert_eq!(answer.body, "outbound: ready\ninbound: ready\n");
    assert_eq!(who(mesh.cluster.node("caller")).await.unwrap(), "callee");
}

/// A sidecar alone with the control plane that the test is, and its Hello.
async fn alone(control: &FakeControl) -> (Cluster, Session) {
    let cluster = cluster!()
        .node("alone")
        .with("--control", &control.address())
        .launch()
        .await;
    let session = control.session().await;
    (cluster, session)
}

/// Waits until `/readyz?for=inbound` says why it is not ready.
async fn unready(mesh: &Cluster, why: &str) {
    let expected = format!("inbound: not ready: {why}\n");
    let node = mesh.node("alone");
    let answer = node
        .answers("/readyz?for=inbound", |answer| answer.body == expected)
        .await;
    assert_eq!(answer.status, 503);
}

#[tokio::test]
async fn a_node_that_is_refused_for_good_says_why_and_does_not_come_back() {
    let control = FakeControl::start().await;
    let (mesh, session) = alone(&control).await;
    let text = "hello.addresses is wrong";
    session
        .say(Heard::Refusal(Refused {
            reason: "INVALID_HELLO".to_owned(),
            text: text.to_owned(),
            retry: false,
            highest_generation: 0,
        }))
        .await;
    let why = format!("control refused this node: INVALID_HELLO: {text}");
    unready(&mesh, &why).await;
    assert!(mesh.node("alone").ended().await.is_none());
}

#[tokio::test]
async fn a_node_that_is_refused_for_now_comes_back() {
    let control = FakeControl::start().await;
    let (mesh, session) = alone(&control).await;
    session
        .say(Heard::Refusal(Refused {
            reason: "OVERLOADED".to_owned(),
            text: "come again".to_owned(),
            retry: true,
            highest_generation: 0,
        }))
        .await;
    let mut again = control.session().await;
    assert_eq!(again.hello.node_id, "alone");
    assert_eq!(again.hello.instance_id, session.hello.instance_id);
    again.welcome().await;
    taken(&again.update(full(1, Vec::new())).await, 1);
    mesh.node("alone").ready().await;
}

#[tokio::test]
async fn a_node_that_was_replaced_says_so_and_does_not_come_back() {
    let control = FakeControl::start().await;
    let (mesh, mut session) = alone(&control).await;
    session.welcome().await;
    taken(&session.update(full(1, Vec::new())).await, 1);
    mesh.node("alone").ready().await;
    session
        .say(Heard::Superseded(Superseded {
            generation: session.hello.generation + 1,
            text: "generation 8 of node `alone` is alive".to_owned(),
        }))
        .await;
    unready(
        &mesh,
        "NODE_REPLACED: generation 8 of node `alone` is alive",
    )
    .await;
}

#[tokio::test]
async fn a_control_plane_of_another_protocol_is_named_with_both_versions() {
    let control = FakeControl::start().await;
    let (mesh, session) = alone(&control).await;
    session
        .say(Heard::Welcome(Welcome {
            protocol: 9,
            ..Welcome::default()
        }))
        .await;
    let why = format!(
        "control is away: control at {} broke the protocol: it speaks version 9 of the protocol, \
         this sidecar 1 to 1",
        control.address()
    );
    unready(&mesh, &why).await;
    // It may have been a rollout: the sidecar comes again.
    let mut again = control.session().await;
    again.welcome().await;
    taken(&again.update(full(1, Vec::new())).await, 1);
    mesh.node("alone").ready().await;
    assert!(matches!(again.next().await, Said::Heartbeat(_)));
}
