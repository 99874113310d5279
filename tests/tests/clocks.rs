//! Clocks that differ. What somebody signs whose clock is ahead begins later here, and what somebody
//! signs whose clock is behind ends sooner: five minutes either way cost nothing, and beyond that both
//! times are told.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use sidelane_identity::Moment;
use sidelane_tests::ask::until_answered;
use sidelane_tests::certificates::{Authority, LONG};
use sidelane_tests::cluster::Member;
use sidelane_tests::stranger::{Stranger, usual};
use sidelane_tests::{Upstream, cluster, services};

const MINUTE: Duration = Duration::from_secs(60);
/// How far clocks may differ where certificates live for 25 minutes or more.
const MAY_DIFFER: Duration = Duration::from_secs(5 * 60);
const LIFE: Duration = Duration::from_secs(25 * 60);
const SOON: Duration = Duration::from_secs(10);

/// When a certificate holds that is signed at this moment of the signer's clock: control dates what it
/// signs a minute back.
fn signed_at(clock: SystemTime) -> Range<SystemTime> {
    clock - MINUTE..clock + LIFE
}

async fn until_logged(member: &Member, parts: &[String]) {
    let begun = Instant::now();
    loop {
        let log = member.log();
        let told = |line: &str| parts.iter().all(|part| line.contains(part.as_str()));
        if log.lines().any(told) {
            return;
        }
        assert!(begun.elapsed() < SOON, "{parts:?}: {log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn clocks_that_differ_by_five_minutes_either_way_cost_nothing() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let now = SystemTime::now();
    let ahead = authority.issue_between("ahead", signed_at(now + MAY_DIFFER));
    let behind = authority.issue_between("behind", signed_at(now - MAY_DIFFER));
    let mesh = cluster!()
        .control()
        .node("ahead")
        .strict(&ahead)
        .serving(services::ECHO, &upstream)
        .node("behind")
        .strict(&behind)
        .start()
        .await;
    // Each has judged the other's certificate, and control both.
    assert_eq!(until_answered(mesh.node("behind")).await, "callee");
    let proved = [("side", "accepted")];
    let metrics = mesh.node("ahead").metrics().await;
    assert!(metrics.sum("sidelane_tls_links_total", &proved) >= 1.0);
}

#[tokio::test]
async fn beyond_that_links_and_starts_are_refused_and_both_times_are_told() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = cluster!()
        .control()
        .node("callee")
        .strict(&authority.issue("callee", LONG))
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let now = SystemTime::now();
    let early = now + MAY_DIFFER + MINUTE..now + LONG;
    let late = now - LONG..now - Duration::from_secs(2);
    let cases = [
        (
            "early",
            early.clone(),
            "not_yet_valid",
            "it begins at",
            early.start,
        ),
        ("late", late.clone(), "expired", "it ended at", late.end),
    ];
    for (name, times, reason, what, moment) in cases {
        let told = [
            format!("\"reason\":\"{reason}\""),
            format!("{what} {}", Moment::of(moment)),
            "it is past 20".to_owned(),
            "clocks of both sides".to_owned(),
        ];
        // Who dials with it is refused, at a sidecar and at control.
        let mut params = usual(&Authority::id(name));
        params.not_before = times.start.into();
        params.not_after = times.end.into();
        let stranger = Stranger::signed(&authority, &params);
        let (callee, control) = (mesh.node("callee"), mesh.control());
        for (member, port) in [
            (&**callee, callee.internal()),
            (&**control, control.listen()),
        ] {
            stranger.is_turned_away(port).await;
            until_logged(member, &told).await;
        }
        // Who would start with it is told so at once.
        let files = authority.issue_between(name, times);
        let file = |path: &std::path::Path| path.display().to_string();
        let [chain, key, roots] = [&files.chain, &files.key, &files.roots].map(|it| file(it));
        let flags = [
            "--trust",
            "strict",
            "--identity-chain",
            chain.as_str(),
            "--identity-key",
            key.as_str(),
            "--identity-roots",
            roots.as_str(),
        ];
        let node = mesh.add(name, &flags, &[]).await;
        assert!(!node.exited(SOON).await.success());
        until_logged(node, &told[1..]).await;
        assert!(node.log().contains(&chain), "{}", node.log());
    }
}
