//! What no rule may say is refused wherever rules are: beside the rpc by the build, in a file by
//! `sidelane apply`, at control, and by a sidecar that goes on with the last good one. One table for
//! all four, so that none of them knows less than the others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

#[path = "rules_refused/authorization.rs"]
mod authorization;

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use prost_types::Duration;
use sidelane_proto::model::Lane;
use sidelane_proto::wire::admin::v1::mesh_client::MeshClient;
use sidelane_proto::wire::admin::v1::{ApplyRulesRequest, ListRulesRequest};
use sidelane_proto::wire::control::v1::Update;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{at, idempotent, milliseconds, rule, unary, with};
use sidelane_tests::fake_control::{FakeControl, full, version};
use sidelane_tests::{Upstream, client, cluster, services, unruled};

/// A value that cannot be.
struct Bad {
    /// As it is written beside an rpc and in a file alike, with `@` before the field that is wrong;
    /// a method's follows its name.
    text: &'static str,
    /// The field, beneath the rule.
    field: &'static str,
    /// What is said of it, everywhere.
    says: &'static str,
    /// The same, as it travels.
    sent: fn(&mut wire::Rule),
}

const fn bad(
    text: &'static str,
    field: &'static str,
    says: &'static str,
    sent: fn(&mut wire::Rule),
) -> Bad {
    Bad {
        text,
        field,
        says,
        sent,
    }
}

impl Bad {
    fn is_of_method(&self) -> bool {
        self.field.starts_with("methods[")
    }

    /// The text without its mark.
    fn plain(&self) -> String {
        self.text.replace('@', "")
    }

    /// Where in it the field's name begins.
    fn name(&self) -> usize {
        self.text.find('@').unwrap()
    }

    /// And its value.
    fn value(&self) -> usize {
        let name = self.name();
        name + self.plain()[name..].find(": ").unwrap() + ": ".len()
    }
}

fn breaker(rule: &mut wire::Rule) -> &mut wire::Breaker {
    rule.breaker.get_or_insert_default()
}

fn outlier(rule: &mut wire::Rule) -> &mut wire::Outlier {
    rule.outlier.get_or_insert_default()
}

fn retry(rule: &mut wire::Rule) -> &mut wire::Retry {
    rule.retry.get_or_insert(wire::Retry {
        attempts: 2,
        ..wire::Retry::default()
    })
}

fn concurrency(rule: &mut wire::Rule) -> &mut wire::Concurrency {
    rule.concurrency.get_or_insert_default()
}

fn adaptive(rule: &mut wire::Rule) -> &mut wire::Adaptive {
    concurrency(rule).adaptive.get_or_insert_default()
}

fn fault(rule: &mut wire::Rule) -> &mut wire::Fault {
    rule.fault.get_or_insert_default()
}

fn aborts(rule: &mut wire::Rule, abort_percent: u32, status: &str) {
    fault(rule).abort_percent = abort_percent;
    status.clone_into(&mut fault(rule).abort_status);
}

fn delays(rule: &mut wire::Rule, delay_percent: u32, delay: &str) {
    fault(rule).delay_percent = delay_percent;
    delay.clone_into(&mut fault(rule).delay);
}

fn split(rule: &mut wire::Rule, label: &str, percent: u32) {
    rule.split = Some(wire::Split {
        label: label.to_owned(),
        parts: vec![wire::SplitPart {
            value: "v1".to_owned(),
            percent,
            ..wire::SplitPart::default()
        }],
        strict: false,
    });
}

fn limit(requests_per_second: u32, burst: u32) -> Vec<wire::Limit> {
    vec![wire::Limit {
        requests_per_second,
        burst,
        ..wire::Limit::default()
    }]
}

const OF_BREAKERS: &[Bad] = &[
    bad(
        "breaker: {@consecutive_failures: 0}",
        "breaker.consecutive_failures",
        "is 1 to 1000",
        |rule| breaker(rule).consecutive_failures = Some(0),
    ),
    bad(
        "breaker: {@consecutive_failures: 1001}",
        "breaker.consecutive_failures",
        "is 1 to 1000",
        |rule| breaker(rule).consecutive_failures = Some(1_001),
    ),
    bad(
        "breaker: {@success_percent: 101}",
        "breaker.success_percent",
        "is 0 to 100",
        |rule| breaker(rule).success_percent = Some(101),
    ),
    bad(
        "breaker: {@min_calls: 0}",
        "breaker.min_calls",
        "is 1 to 100000",
        |rule| breaker(rule).min_calls = Some(0),
    ),
    bad(
        "breaker: {@interval: \"0s\"}",
        "breaker.interval",
        "is whole milliseconds from 1s to 10m",
        |rule| "0s".clone_into(&mut breaker(rule).interval),
    ),
    bad(
        "breaker: {@interval: \"-1s\"}",
        "breaker.interval",
        "`-1s` is not",
        |rule| "-1s".clone_into(&mut breaker(rule).interval),
    ),
    bad(
        "breaker: {@open: \"99ms\"}",
        "breaker.open",
        "is whole milliseconds from 100ms to 1h",
        |rule| "99ms".clone_into(&mut breaker(rule).open),
    ),
    bad(
        "breaker: {@max_open: \"2h\"}",
        "breaker.max_open",
        "is whole milliseconds from 100ms to 1h",
        |rule| "2h".clone_into(&mut breaker(rule).max_open),
    ),
    bad(
        "breaker: {open: \"2s\", @max_open: \"1s\"}",
        "breaker.max_open",
        "is below `open`",
        |rule| {
            "2s".clone_into(&mut breaker(rule).open);
            "1s".clone_into(&mut breaker(rule).max_open);
        },
    ),
    bad(
        "breaker: {@probes: 0}",
        "breaker.probes",
        "is 1 to 100",
        |rule| breaker(rule).probes = Some(0),
    ),
    bad(
        "breaker: {@successes: 101}",
        "breaker.successes",
        "is 1 to 100",
        |rule| breaker(rule).successes = Some(101),
    ),
    bad(
        "outlier: {@below_mean: 0}",
        "outlier.below_mean",
        "is 1 to 100 percent points",
        |rule| outlier(rule).below_mean = Some(0),
    ),
    bad(
        "outlier: {@below_mean: 101}",
        "outlier.below_mean",
        "is 1 to 100 percent points",
        |rule| outlier(rule).below_mean = Some(101),
    ),
    bad(
        "outlier: {@min_calls: 100001}",
        "outlier.min_calls",
        "is 1 to 100000",
        |rule| outlier(rule).min_calls = Some(100_001),
    ),
    bad(
        "outlier: {@max_percent: 101}",
        "outlier.max_percent",
        "is 1 to 50",
        |rule| outlier(rule).max_percent = Some(101),
    ),
];

/// `Put`, which is not idempotent unless it is said here.
fn hedge(rule: &mut wire::Rule, idempotent: bool, after: &str, max_attempts: u32) {
    rule.methods[1].idempotent = idempotent;
    rule.methods[1].hedge = Some(wire::Hedge {
        after: after.to_owned(),
        max_attempts: Some(max_attempts),
        off: false,
    });
}

const OF_HEDGES: &[Bad] = &[
    bad(
        "@hedge: {after: \"20ms\"}",
        "methods[1].hedge",
        "is of a method that is not idempotent: two attempts at once could do its work twice",
        |rule| hedge(rule, false, "20ms", 2),
    ),
    bad(
        "idempotent: true, hedge: {@after: \"0s\"}",
        "methods[1].hedge.after",
        "is whole milliseconds from 1ms to 1m",
        |rule| hedge(rule, true, "0s", 2),
    ),
    bad(
        "idempotent: true, hedge: {after: \"20ms\", @max_attempts: 6}",
        "methods[1].hedge.max_attempts",
        "is 2 to 5, the first included",
        |rule| hedge(rule, true, "20ms", 6),
    ),
];

const OF_RETRIES: &[Bad] = &[
    bad(
        "retry: {@attempts: 1}",
        "retry.attempts",
        "is out of bounds: 1 attempts; it is 2 to 5",
        |rule| retry(rule).attempts = 1,
    ),
    bad(
        "retry: {@attempts: 6}",
        "retry.attempts",
        "is out of bounds: 6 attempts; it is 2 to 5",
        |rule| retry(rule).attempts = 6,
    ),
    bad(
        "retry: {attempts: 2, @budget_percent: 101}",
        "retry.budget_percent",
        "is 0 to 100",
        |rule| retry(rule).budget_percent = Some(101),
    ),
    bad(
        "retry: {attempts: 2, @budget_per_second: 10001}",
        "retry.budget_per_second",
        "is 0 to 10000",
        |rule| retry(rule).budget_per_second = Some(10_001),
    ),
    bad(
        "retry: {attempts: 2, @budget_percent: 0, budget_per_second: 0}",
        "retry.budget_percent",
        "and `budget_per_second` are both 0",
        |rule| {
            retry(rule).budget_percent = Some(0);
            retry(rule).budget_per_second = Some(0);
        },
    ),
    bad(
        "retry: {attempts: 2, @pause: \"0ms\"}",
        "retry.pause",
        "is whole milliseconds from 1ms to 1m",
        |rule| "0ms".clone_into(&mut retry(rule).pause),
    ),
    bad(
        "retry: {attempts: 2, @max_pause: \"61s\"}",
        "retry.max_pause",
        "is whole milliseconds from 1ms to 1m",
        |rule| "61s".clone_into(&mut retry(rule).max_pause),
    ),
    bad(
        "retry: {attempts: 2, pause: \"2s\", @max_pause: \"1s\"}",
        "retry.max_pause",
        "is below `pause`",
        |rule| {
            "2s".clone_into(&mut retry(rule).pause);
            "1s".clone_into(&mut retry(rule).max_pause);
        },
    ),
    bad(
        "@retry: {attempts: 2}",
        "methods[1].retry",
        "is not idempotent: a second attempt could do its work twice",
        |rule| {
            rule.methods[1].retry = Some(wire::Retry {
                attempts: 2,
                ..wire::Retry::default()
            });
        },
    ),
];

const OF_ADMISSION: &[Bad] = &[
    bad(
        "limits: [{@requests_per_second: 0}]",
        "limits[0].requests_per_second",
        "is 1 to 1000000",
        |rule| rule.limits = limit(0, 0),
    ),
    bad(
        "limits: [{requests_per_second: 1, @burst: 1000001}]",
        "limits[0].burst",
        "is 1 to 1000000",
        |rule| rule.limits = limit(1, 1_000_001),
    ),
    bad(
        "limits: [{@requests_per_second: 0}]",
        "methods[1].limits[0].requests_per_second",
        "is 1 to 1000000",
        |rule| rule.methods[1].limits = limit(0, 0),
    ),
    bad(
        "concurrency: {@max_in_flight: 0}",
        "concurrency.max_in_flight",
        "is 1 to 65536",
        |rule| concurrency(rule).max_in_flight = 0,
    ),
    bad(
        "concurrency: {@max_in_flight: 65537}",
        "concurrency.max_in_flight",
        "is 1 to 65536",
        |rule| concurrency(rule).max_in_flight = 65_537,
    ),
    bad(
        "concurrency: {max_in_flight: 1, @queue: 4097}",
        "concurrency.queue",
        "is at most 4096",
        |rule| (concurrency(rule).max_in_flight, concurrency(rule).queue) = (1, 4_097),
    ),
    bad(
        "concurrency: {max_in_flight: 1, queue: 1, @longest_wait: \"0s\"}",
        "concurrency.longest_wait",
        "is whole milliseconds from 1ms to 10s",
        |rule| {
            (concurrency(rule).max_in_flight, concurrency(rule).queue) = (1, 1);
            "0s".clone_into(&mut concurrency(rule).longest_wait);
        },
    ),
    bad(
        "concurrency: {max_in_flight: 1, queue: 1, @longest_wait: \"11s\"}",
        "concurrency.longest_wait",
        "is whole milliseconds from 1ms to 10s",
        |rule| {
            (concurrency(rule).max_in_flight, concurrency(rule).queue) = (1, 1);
            "11s".clone_into(&mut concurrency(rule).longest_wait);
        },
    ),
    bad(
        "concurrency: {adaptive: {@min: 0}}",
        "concurrency.adaptive.min",
        "is 1 to 65536",
        |rule| adaptive(rule).min = Some(0),
    ),
    bad(
        "concurrency: {adaptive: {@min: 9, max: 8}}",
        "concurrency.adaptive.min",
        "is above `max`",
        |rule| (adaptive(rule).min, adaptive(rule).max) = (Some(9), Some(8)),
    ),
    bad(
        "concurrency: {adaptive: {@max: 65537}}",
        "concurrency.adaptive.max",
        "is 1 to 65536",
        |rule| adaptive(rule).max = Some(65_537),
    ),
    bad(
        "concurrency: {adaptive: {@tolerance_percent: 401}}",
        "concurrency.adaptive.tolerance_percent",
        "is 1 to 400",
        |rule| adaptive(rule).tolerance_percent = Some(401),
    ),
    bad(
        "concurrency: {adaptive: {@remeasure: \"0s\"}}",
        "concurrency.adaptive.remeasure",
        "is whole milliseconds from 1s to 10m",
        |rule| "0s".clone_into(&mut adaptive(rule).remeasure),
    ),
    bad(
        "concurrency: {max_in_flight: 5, @adaptive: {max: 9}}",
        "concurrency.adaptive",
        "is given beside `max_in_flight`",
        |rule| {
            concurrency(rule).max_in_flight = 5;
            adaptive(rule).max = Some(9);
        },
    ),
    bad(
        "fault: {@abort_percent: 101, abort_status: \"ABORTED\"}",
        "fault.abort_percent",
        "is 1 to 100",
        |rule| aborts(rule, 101, "ABORTED"),
    ),
    bad(
        "fault: {abort_percent: 5, @abort_status: \"ABORTD\"}",
        "fault.abort_status",
        "`ABORTD` is not a known gRPC status",
        |rule| aborts(rule, 5, "ABORTD"),
    ),
    bad(
        "fault: {abort_percent: 5, @abort_status: \"OK\"}",
        "fault.abort_status",
        "`OK` is not a known gRPC status",
        |rule| aborts(rule, 5, "OK"),
    ),
    bad(
        "fault: {@delay_percent: 101, delay: \"1s\"}",
        "fault.delay_percent",
        "is 1 to 100",
        |rule| delays(rule, 101, "1s"),
    ),
    bad(
        "fault: {delay_percent: 1, @delay: \"61s\"}",
        "fault.delay",
        "is whole milliseconds from 1ms to 60s",
        |rule| delays(rule, 1, "61s"),
    ),
];

const OF_WAYS: &[Bad] = &[
    bad(
        "split: {@parts: [{value: \"v1\", percent: 0}]}",
        "split.parts",
        "is out of bounds: their percentages are 0 together; they must be 100",
        |rule| split(rule, "", 0),
    ),
    bad(
        "split: {parts: [{value: \"v1\", @percent: 101}]}",
        "split.parts[0].percent",
        "is out of bounds: 101 percent; it is 0 to 100",
        |rule| split(rule, "", 101),
    ),
    bad(
        "split: {parts: [{value: \"v1\", percent: 50}, {percent: 50, @value: \"v1\"}]}",
        "split.parts[1].value",
        "`v1` is named twice",
        |rule| {
            split(rule, "", 50);
            let parts = &mut rule.split.as_mut().unwrap().parts;
            parts.push(parts[0].clone());
        },
    ),
    bad(
        "split: {@label: \"zone=a\", parts: [{value: \"v1\", percent: 100}]}",
        "split.label",
        "`zone=a` is not the key of a label, which ends at its first `=`",
        |rule| split(rule, "zone=a", 100),
    ),
    bad(
        "@timeout: \"0s\"",
        "timeout",
        "time limit above zero and of at most 24 hours",
        |rule| rule.timeout = milliseconds(0),
    ),
    bad(
        "@max_timeout: \"25h\"",
        "max_timeout",
        "time limit above zero and of at most 24 hours",
        |rule| rule.max_timeout = milliseconds(25 * 3_600_000),
    ),
    bad("@timeout: \"-1s\"", "timeout", "time limit", |rule| {
        rule.timeout = Some(Duration {
            seconds: -1,
            nanos: 0,
        });
    }),
    bad(
        "@slow_start: \"2h\"",
        "slow_start",
        "is no time above zero and of at most 1 hour",
        |rule| rule.slow_start = milliseconds(2 * 3_600_000),
    ),
    bad(
        "@hash_header: \"sidelane-hash\"",
        "hash_header",
        "is no name of a header that an app sends",
        |rule| "sidelane-hash".clone_into(&mut rule.hash_header),
    ),
    bad(
        "@load_balancing: 9",
        "load_balancing",
        "is not a known",
        |rule| rule.load_balancing = 9,
    ),
    bad(
        "@load_balancing_custom: \"The Nearest\"",
        "load_balancing_custom",
        "`The Nearest` is not a name",
        |rule| "The Nearest".clone_into(&mut rule.load_balancing_custom),
    ),
];

fn all() -> impl Iterator<Item = &'static Bad> {
    [
        OF_BREAKERS,
        OF_RETRIES,
        OF_HEDGES,
        OF_ADMISSION,
        OF_WAYS,
        authorization::TABLE,
    ]
    .into_iter()
    .flatten()
}

/// What did not say what it should, for all of the table at once.
fn hold(what: &str, said: impl Fn(&Bad) -> (String, String)) {
    let mut wrong = String::new();
    for bad in all() {
        let (place, text) = said(bad);
        if !(text.contains(&place) && text.contains(bad.says)) {
            let _ = writeln!(
                wrong,
                "{}\n  says   {text}\n  wanted {place} … {}",
                bad.text, bad.says
            );
        }
    }
    assert!(wrong.is_empty(), "{what}:\n{wrong}");
}

#[test]
fn beside_the_rpc_it_stops_the_build_where_it_is_written() {
    hold("the build", |bad| {
        let (service, method) = match bad.is_of_method() {
            false => (bad.plain(), String::new()),
            true => (String::new(), bad.plain()),
        };
        let proto = format!(
            "syntax = \"proto3\"; package a; import \"sidelane/routing/v1/routing.proto\"; \
             message M {{}}\nservice B {{ option (sidelane.routing.v1.service) = {{ connection: \
             INTERNAL lane: \"general\"\n{service}\n}}; rpc Get(M) returns (M) {{ option \
             (sidelane.routing.v1.method) = {{ idempotent: true }}; }} rpc Put(M) returns (M) {{ \
             option (sidelane.routing.v1.method) = {{\n{method}\n}}; }} }}"
        );
        let folder = tempfile::tempdir().unwrap();
        let protos = folder.path().join("proto");
        fs::create_dir(&protos).unwrap();
        fs::write(protos.join("a.proto"), proto).unwrap();
        let builder = sidelane_build::configure().protos(&[&protos]).stubs(false);
        let built = builder.out_dir(folder.path().join("out")).build();
        let error = built.map_or_else(|error| error.to_string(), |_| "nothing".to_owned());
        let field = bad.field.trim_start_matches("methods[1].");
        let (line, column) = (3 + 2 * usize::from(bad.is_of_method()), bad.name() + 1);
        (format!("a.proto:{line}:{column}: {field} "), error)
    });
}

#[tokio::test]
async fn in_a_file_it_is_told_with_its_line_and_column() {
    let cluster = cluster!().control().launch().await;
    cluster.control().ready().await;
    let control = cluster.control().listen().to_string();
    let folder = tempfile::tempdir().unwrap();
    hold("sidelane apply", |bad| {
        let (service, method) = match bad.is_of_method() {
            false => (format!("  {{service: a.B, {}", bad.plain()), "{name: Put}"),
            true => ("  {service: a.B".to_owned(), "{name: Put,"),
        };
        let before = "{service: a.B, ".len() + 2;
        // The line of what is wrong has nothing but its rule, or its method.
        let (text, line, column) = if bad.is_of_method() {
            let text = format!(
                "rules: [\n{service}, connection: INTERNAL, lane: general, methods: [\n{{name: \
                 Get, idempotent: true}},\n{method} {}}}]}}]\n",
                bad.plain()
            );
            (text, 4, "{name: Put, ".len() + bad.value() + 1)
        } else {
            let text = format!(
                "rules: [\n{service}, connection: INTERNAL, lane: general, methods: [{{name: Get, \
                 idempotent: true}}, {method}]}}]\n"
            );
            (text, 2, before + bad.value() + 1)
        };
        fs::write(folder.path().join("rules.yaml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidelane-under-test"));
        command.args(["apply", "-f", "rules.yaml", "--control", &control]);
        let output = command.current_dir(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", bad.text);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(&format!("rules.yaml:{line}:")), "{error}");
        // Of what has parts it is enough to be told the line.
        let has_parts = bad.plain()[bad.value()..].starts_with(['{', '[']);
        let place = match has_parts {
            false => format!("rules.yaml:{line}:{column}: rules[0].{} ", bad.field),
            true => format!(": rules[0].{} ", bad.field),
        };
        (place, error)
    });
}

/// A rule as it travels: good, or with what is bad.
fn sent(change: impl FnOnce(&mut wire::Rule)) -> wire::PushedRule {
    with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.timeout = milliseconds(700);
        rule.methods = vec![idempotent("Unary"), unary("Put")];
        change(rule);
    })
}

#[tokio::test]
async fn control_applies_none_of_it() {
    let cluster = cluster!().control().launch().await;
    let control = cluster.control();
    control.ready().await;
    let channel = client::channel(control.listen()).await.unwrap();
    let mut mesh = MeshClient::new(channel);
    let request = |rule| ApplyRulesRequest {
        rules: vec![rule],
        ..ApplyRulesRequest::default()
    };
    mesh.apply_rules(request(sent(|_| ()))).await.unwrap();
    let listed = |answer: tonic::Response<_>| answer.into_inner();
    let before = listed(mesh.list_rules(ListRulesRequest::default()).await.unwrap());
    let mut answers = Vec::new();
    for bad in all() {
        let answer = mesh.apply_rules(request(sent(bad.sent))).await.unwrap();
        let refused = answer.into_inner().refused;
        assert_eq!(refused.len(), 1, "{}: {refused:?}", bad.text);
        let text = format!("{} {}", refused[0].field, refused[0].problem);
        answers.push((bad.text, bad.field, text));
    }
    hold("control", |bad| {
        let is = |it: &&(_, _, _)| it.0 == bad.text && it.1 == bad.field;
        let (_, field, text) = answers.iter().find(is).unwrap();
        (format!("rules[0].rule.{field} "), text.clone())
    });
    let after = listed(mesh.list_rules(ListRulesRequest::default()).await.unwrap());
    assert_eq!(after.rules, before.rules);
}

#[tokio::test]
async fn a_sidecar_takes_none_of_it_and_goes_on_with_the_last_good_one() {
    let control = FakeControl::start().await;
    let upstream = Upstream::named("callee").start().await;
    let cluster = cluster!()
        .node("callee")
        .running(unruled!())
        .with("--control", &control.address())
        .serving(services::ECHO, &upstream)
        .launch()
        .await;
    let mut session = control.session().await;
    session.welcome().await;
    session.update(full(1, Vec::new())).await.unwrap();
    let pushed = |counter, rule| Update {
        version: Some(version(counter)),
        rules: vec![at(counter, rule)],
        ..Update::default()
    };
    let good = session.update(pushed(2, sent(|_| ()))).await.unwrap();
    assert_eq!(good.refused, []);
    let mut answers = Vec::new();
    for (counter, bad) in (3..).zip(all()) {
        let update = pushed(counter, sent(bad.sent));
        let refused = session.update(update).await.unwrap().refused;
        assert_eq!(refused.len(), 1, "{}: {refused:?}", bad.text);
        let text = format!("{} {}", refused[0].field, refused[0].problem);
        answers.push((bad.text, bad.field, text));
    }
    hold("the sidecar", |bad| {
        let is = |it: &&(_, _, _)| it.0 == bad.text && it.1 == bad.field;
        let (_, field, text) = answers.iter().find(is).unwrap();
        (format!("rules[0].rule.{field} "), text.clone())
    });
    let callee = cluster.node("callee");
    let config = callee.config().await;
    assert_eq!(config["rules"]["held"], 1);
    let explained = callee.explain("/sidelane.test.v1.Echo/Unary").await.body;
    assert!(explained.contains("700 ms"), "{explained}");
    let counted = callee
        .metrics()
        .await
        .sum("sidelane_rules_refused_total", &[]);
    #[allow(clippy::cast_precision_loss, reason = "a few dozen")]
    let expected = answers.len() as f64;
    assert_eq!(counted, expected);
}
