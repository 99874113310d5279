//! Calls that are split between versions of a service: by percentages, by a header, by key, while
//! the percentages move, and where a version is gone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use sidelane_proto::wire::admin::v1::ApplyRulesRequest;
use sidelane_proto::wire::admin::v1::mesh_client::MeshClient;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{applied, tuning, with};
use sidelane_tests::ask::{ECHO_UNARY, ask_over};
use sidelane_tests::client::{self, RawClient};
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::refusal::Refusal;
use sidelane_tests::wire::v1::UnaryResponse;
use sidelane_tests::{Cluster, Upstream, cluster, exclusive, services};
use tonic::Code;

const CANARY: (&str, &str) = ("x-canary", "yes");

/// One node of v1, two of v2, one that says nothing, and a caller.
async fn mesh() -> (Cluster, Vec<Upstream>) {
    let mut upstreams = Vec::new();
    let mut mesh = cluster!().control().node("caller");
    for (node, version) in [("one", "v1"), ("two", "v2"), ("three", "v2"), ("mute", "")] {
        let upstream = Upstream::named(node).start().await;
        mesh = mesh.node(node).serving(services::ECHO, &upstream);
        if !version.is_empty() {
            mesh = mesh.with("--label", &format!("version={version}"));
        }
        upstreams.push(upstream);
    }
    (mesh.start().await, upstreams)
}

fn split(first: u32, strict: bool) -> wire::PushedRule {
    let part = |value: &str, percent| wire::SplitPart {
        value: value.to_owned(),
        percent,
        ..wire::SplitPart::default()
    };
    let canary = wire::SplitPart {
        header: CANARY.0.to_owned(),
        header_value: CANARY.1.to_owned(),
        ..part("v2", 100 - first)
    };
    with(tuning(services::ECHO), |rule| {
        rule.split = Some(wire::Split {
            label: String::new(),
            parts: vec![part("v1", first), canary],
            strict,
        });
    })
}

/// Who answered how many of so many calls.
async fn answered(
    mesh: &Cluster,
    calls: usize,
    headers: &[(&str, &str)],
) -> BTreeMap<String, usize> {
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    let mut answered = BTreeMap::new();
    for _ in 0..calls {
        let answer = ask_over(&client, ECHO_UNARY, headers).await;
        let answer: UnaryResponse = answer.message().unwrap();
        *answered.entry(answer.node).or_default() += 1;
    }
    answered
}

fn of(answered: &BTreeMap<String, usize>, node: &str) -> usize {
    answered.get(node).copied().unwrap_or_default()
}

#[tokio::test]
async fn ninety_and_ten_of_a_hundred_calls_and_all_with_the_header() {
    let (mesh, _upstreams) = mesh().await;
    let caller = mesh.node("caller");
    applied(mesh.control(), &[caller], split(90, false)).await;
    let answers = answered(&mesh, 2_000, &[]).await;
    let (first, second) = (
        of(&answers, "one"),
        of(&answers, "two") + of(&answers, "three"),
    );
    assert_eq!(first + second, 2_000, "{answers:?}");
    // Four and a half standard deviations: 1 in 150,000 runs is further off.
    assert!((140..=260).contains(&second), "{answers:?}");
    assert!(
        of(&answers, "two") > 0 && of(&answers, "three") > 0,
        "{answers:?}"
    );

    let forced = answered(&mesh, 200, &[CANARY]).await;
    assert_eq!(of(&forced, "two") + of(&forced, "three"), 200, "{forced:?}");
    let other = answered(&mesh, 50, &[("x-canary", "no")]).await;
    assert!(of(&other, "one") > 0, "{other:?}");
    // Who names a node gets it, also one that is in no part.
    let named = answered(&mesh, 5, &[("sidelane-node", "mute")]).await;
    assert_eq!(of(&named, "mute"), 5, "{named:?}");

    let metrics = caller.metrics().await;
    let picked = |part| metrics.sum("sidelane_split_picks_total", &[("part", part)]);
    assert!(picked("v1") >= first as f64 && picked("v2") >= 200.0 + second as f64);
}

#[tokio::test]
async fn a_split_goes_by_the_label_that_it_names() {
    let mut upstreams = Vec::new();
    let mut mesh = cluster!().control().node("caller");
    // By their versions it would be the other way round.
    for (node, version, track) in [("one", "v2", "stable"), ("two", "stable", "v2")] {
        let upstream = Upstream::named(node).start().await;
        mesh = mesh
            .node(node)
            .serving(services::ECHO, &upstream)
            .with("--label", &format!("version={version}"))
            .with("--label", &format!("track={track}"));
        upstreams.push(upstream);
    }
    let mesh = mesh.start().await;
    let rule = with(tuning(services::ECHO), |rule| {
        rule.split = Some(wire::Split {
            label: "track".to_owned(),
            parts: vec![wire::SplitPart {
                value: "stable".to_owned(),
                percent: 100,
                ..wire::SplitPart::default()
            }],
            strict: true,
        });
    });
    applied(mesh.control(), &[mesh.node("caller")], rule).await;
    let answers = answered(&mesh, 20, &[]).await;
    assert_eq!(of(&answers, "one"), 20, "{answers:?}");
    let explained = mesh.node("caller").explain(ECHO_UNARY).await.body;
    assert!(
        explained.contains("split by label track: stable"),
        "{explained}"
    );
}

#[tokio::test]
async fn who_brings_a_key_in_a_header_stays_in_one_part() {
    let (mesh, _upstreams) = mesh().await;
    let caller = mesh.node("caller");
    let rule = with(split(50, false), |rule| {
        rule.load_balancing = wire::LoadBalancing::ConsistentHash.into();
        rule.hash_header = "x-user".to_owned();
    });
    applied(mesh.control(), &[caller], rule).await;
    let mut first = 0;
    for number in 0..40 {
        let user = format!("user-{number}");
        let answers = answered(&mesh, 6, &[("x-user", &user)]).await;
        assert_eq!(answers.len(), 1, "{user}: {answers:?}");
        first += of(&answers, "one") / 6;
    }
    // By their keys, half of them more or less.
    assert!((8..=32).contains(&first), "{first} of 40");
}

#[tokio::test]
async fn what_a_call_falls_to_is_explained() {
    let (mesh, _upstreams) = mesh().await;
    let caller = mesh.node("caller");
    applied(mesh.control(), &[caller], split(100, false)).await;
    let explain = async |more: &str| {
        let answer = caller
            .get(&format!("/explain?path={ECHO_UNARY}{more}"))
            .await;
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()
    };
    let plain = explain("").await;
    assert_eq!(plain["pick"], "one", "{plain}");
    let steps = plain["steps"].to_string();
    let text = "split by label version: v1, by chance, as 100 in 100 calls";
    assert!(steps.contains(text), "{steps}");
    let policy = plain["policy"].as_array().unwrap().clone();
    let split = policy
        .iter()
        .find(|value| value["name"] == "split")
        .unwrap();
    let value = "by label version: v1 100 %, v2 0 % (or `x-canary: yes`); a part without endpoints \
                 falls to the others";
    assert_eq!(split["value"], value);
    assert!(
        split["from"]
            .as_str()
            .unwrap()
            .starts_with("pushed rule, version"),
        "{split}"
    );
    let forced = explain("&header=x-canary:%20yes").await;
    assert_ne!(forced["pick"], "one", "{forced}");
    let text = "split by label version: v2, by its header `x-canary: yes`";
    assert!(forced["steps"].to_string().contains(text), "{forced}");
    let candidates = forced["candidates"].as_array().unwrap().clone();
    let one = candidates.iter().find(|it| it["node_id"] == "one").unwrap();
    assert_eq!(
        one["reason"],
        "not of the part of the split that the call falls to"
    );
}

#[tokio::test]
async fn an_empty_version_falls_to_the_others_or_fails() {
    let (mesh, _upstreams) = mesh().await;
    let caller = mesh.node("caller");
    applied(mesh.control(), &[caller], split(50, false)).await;
    mesh.node("one").stop(Duration::from_secs(20)).await;
    let answers = answered(&mesh, 40, &[]).await;
    assert_eq!(
        of(&answers, "two") + of(&answers, "three"),
        40,
        "{answers:?}"
    );
    let metrics = caller.metrics().await;
    let fell = metrics.sum("sidelane_split_fell_over_total", &[]);
    assert!(fell > 0.0 && fell < 40.0, "{fell}");

    // All of it to a version that is not there, and nowhere else.
    applied(mesh.control(), &[caller], split(100, true)).await;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    let refusal = Refusal::of(&ask_over(&client, ECHO_UNARY, &[]).await);
    let text = "sidelane.test.v1.Echo: no endpoint takes new calls (3 of other parts of the \
                split); see `sidelane nodes`";
    assert_eq!(
        refusal,
        Refusal::new("NO_ENDPOINT", Code::Unavailable, text)
    );
    let forced = answered(&mesh, 10, &[CANARY]).await;
    assert_eq!(of(&forced, "two") + of(&forced, "three"), 10, "{forced:?}");
}

#[tokio::test]
async fn percentages_move_under_load_and_no_call_fails() {
    let _turn = exclusive().await;
    let (mesh, _upstreams) = mesh().await;
    let caller = mesh.node("caller");
    applied(mesh.control(), &[caller], split(90, false)).await;
    let mut load = Load::start(caller.outbound(), Plan::HALF).await;
    for first in [90, 50, 10, 0] {
        load.mark(&format!("{first} % to v1"));
        applied(mesh.control(), &[caller], split(first, false)).await;
        load.run_for(Duration::from_millis(700)).await;
    }
    let moved = load.mark("all of it went to v2");
    load.run_for(Duration::from_secs(1)).await;
    let report = load.stop().await;
    println!("the split of a service moves from 90/10 to 0/100\n{report}");
    report.nothing_failed();
    for call in report.calls.iter().filter(|call| call.sent >= moved) {
        assert_ne!(call.result.as_deref(), Ok("one"), "{call:?}");
    }
    report.has_its_share("two", moved, report.stopped());
    report.pace_was_kept();
}

#[tokio::test]
async fn the_sidecar_beside_a_version_sends_to_another_where_that_is_meant() {
    let (mesh, _upstreams) = mesh().await;
    let one = mesh.node("one");
    applied(mesh.control(), &[one], split(100, false)).await;
    let client = RawClient::connect(one.outbound()).await.unwrap();
    let who = async |headers: &[(&str, &str)]| {
        let answer = ask_over(&client, ECHO_UNARY, headers).await;
        answer.message::<UnaryResponse>().unwrap().node
    };
    assert_eq!(who(&[]).await, "one");
    assert_ne!(who(&[CANARY]).await, "one");
    // Nobody of the version is left but the one beside it.
    applied(mesh.control(), &[one], split(0, false)).await;
    assert_ne!(who(&[]).await, "one");
}

#[tokio::test]
async fn a_split_that_cannot_be_is_refused_with_its_path() {
    let mesh = cluster!().control().node("caller").start().await;
    let channel = client::channel(mesh.control().listen()).await.unwrap();
    let mut bad = split(90, false);
    bad.rule.as_mut().unwrap().split.as_mut().unwrap().parts[1].percent = 11;
    let request = ApplyRulesRequest {
        rules: vec![bad],
        ..ApplyRulesRequest::default()
    };
    let answer = MeshClient::new(channel).apply_rules(request).await;
    let said = format!("{answer:?}");
    assert!(said.contains("split.parts"), "{said}");
    assert!(said.contains("101 together; they must be 100"), "{said}");
}
