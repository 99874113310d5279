//! What a file says, and what is wrong with one: with line and column.

use std::time::Duration;

use sidelane_proto::model::{Breaker, LocalityPreference, Outlier, PushedRule, pushed_set};

use super::*;

const FILE: &str = "rules.yaml";

/// Everything that is wrong with a text, as it is printed.
fn wrong(text: &str) -> Vec<String> {
    let read = read(FILE, text).and_then(|written| {
        let vocabulary = written.vocabulary()?;
        written.rules(&vocabulary)
    });
    let wrong = read.err().unwrap_or_default();
    wrong.iter().map(|wrong| wrong.text(FILE)).collect()
}

fn right(text: &str) -> Vec<PushedRule> {
    let written = read(FILE, text).unwrap();
    let rules = written.rules(&written.vocabulary().unwrap()).unwrap();
    pushed_set::read(rules).unwrap()
}

#[test]
fn the_example_is_right_and_says_everything() {
    let rules = right(EXAMPLE);
    let orders = &rules[0];
    assert!(!orders.tuning_only);
    let rule = &orders.rule;
    assert_eq!(rule.service, "shop.v1.Orders");
    assert_eq!(rule.origin, "rules.yaml:18");
    assert_eq!(
        (rule.class.name(), rule.lane.name()),
        ("Internal", "telemetry")
    );
    assert_eq!(rule.category.name(), "WORKER");
    assert!(!rule.secure && rule.persistent);
    assert_eq!(rule.load_balancing.unwrap().name(), "CONSISTENT_HASH");
    assert_eq!(rule.timeout, Some(Duration::from_secs(2)));
    assert_eq!(rule.max_timeout, Some(Duration::from_secs(10)));
    let get = rule.method("Get").unwrap();
    assert!(get.idempotent);
    assert_eq!(get.timeout, Some(Duration::from_millis(800)));
    assert_eq!(get.hash_on.as_deref(), Some("order_id"));
    let retry = rule.retry_of(get).unwrap();
    assert_eq!(retry.attempts, 2);
    assert_eq!(
        (retry.pause, retry.max_pause),
        (Duration::from_millis(10), Duration::from_millis(200))
    );
    let hedge = get.hedged().unwrap();
    let after = Duration::from_millis(50);
    assert_eq!((hedge.after, hedge.max_attempts), (after, 2));
    // What the example writes out are the defaults.
    assert_eq!(rule.breaker, Some(Breaker::DEFAULT));
    assert_eq!(rule.outlier, Some(Outlier::DEFAULT));
    let split = rules[1].rule.split.as_ref().unwrap();
    assert_eq!(
        split.to_string(),
        "by label version: v1 90 %, v2 10 % (or `x-canary: yes`); a part without endpoints falls to \
         the others"
    );
    let watch = rule.method("Watch").unwrap();
    assert_eq!(
        (watch.client_streaming, watch.server_streaming),
        (false, true)
    );
    let balancing = &rules[1].rule.balancing;
    assert_eq!(balancing.hash_header.as_deref(), Some("x-user-id"));
    assert_eq!(
        balancing.locality.map(LocalityPreference::name),
        Some("IGNORE")
    );
    assert_eq!(balancing.slow_start, Some(Duration::from_secs(10)));
    let bounds = rule.lane.bounds().unwrap();
    assert_eq!(
        (
            bounds.window,
            bounds.connection_window,
            bounds.dscp,
            bounds.priority
        ),
        (262_144, 1_048_576, 8, 0)
    );
    let classes: Vec<_> = rule
        .lane
        .definition()
        .classes
        .iter()
        .map(|it| it.name())
        .collect();
    assert_eq!(classes, ["Internal", "partner"]);
    let admission = &rule.admission;
    assert_eq!(
        admission.limits[0].to_string(),
        "500 calls/s, 100 at once, per CALLER"
    );
    assert_eq!(admission.concurrency.unwrap().queue, 32);
    let fault = admission.fault.as_ref().unwrap();
    assert_eq!(fault.header_value.as_deref(), Some("drill"));
    let authorization = rule.authorization.as_ref().unwrap();
    assert_eq!(
        authorization.to_string(),
        "dry run, allow identity spiffe://mesh.example/ns/shop/sa/cart; or namespace billing, trust \
         domain mesh.example; or prefix spiffe://mesh.example/ns/shop/sa/worker-, class Internal, \
         lane telemetry"
    );
    let own = get.authorization.as_ref().unwrap();
    assert_eq!(own.to_string(), "allow anyone");
    let billing = &rules[1];
    assert!(billing.tuning_only);
    let budget = billing.rule.retry_budget();
    assert_eq!((budget.percent, budget.per_second), (10, 5));
    assert_eq!(billing.rule.timeout, Some(Duration::from_secs(5)));
    assert_eq!(billing.rule.origin, "rules.yaml:60");
}

#[test]
fn a_rule_only_tunes_where_it_says_nothing_of_where_and_how() {
    for (line, tuning_only) in [
        ("timeout: 1s", true),
        ("load_balancing: RANDOM", true),
        ("{connection: INTERNAL, lane: general}", false),
    ] {
        let text = match line.strip_prefix('{') {
            Some(rest) => format!("rules: [{{service: a.A, {rest}]"),
            None => format!("rules:\n- service: a.A\n  {line}\n"),
        };
        assert_eq!(right(&text)[0].tuning_only, tuning_only, "{text}");
    }
    // One of them is enough to be meant as a whole rule, which lacks the others then.
    for line in [
        "secure: false",
        "persistent: true",
        "category: WORKER",
        "lane: gossip",
    ] {
        let text = format!("rules:\n- service: a.A\n  {line}\n");
        let wrong = wrong(&text);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(
            wrong[0].starts_with("rules.yaml:2:12: rules[0].connection is missing"),
            "{wrong:?}"
        );
    }
}

#[test]
fn mistakes_are_named_with_line_and_column() {
    let cases = [
        (
            "rules:\n  - service: a.A\n    connection: INTERNAL\n    lane: genral\n",
            "rules.yaml:4:11: rules[0].lane `genral` is not a known lane; did you mean `general`?",
        ),
        (
            "rules:\n  - service: a.A\n    connection: INTERNAL\n    lan: general\n",
            "rules.yaml:4:5: `lan` is not a key here; did you mean `lane`? (keys are service, ",
        ),
        (
            "rules:\n  - service: a.A\n    connection: INTERNAL\n    lane: ingress_data\n",
            "rules.yaml:4:11: rules[0].lane Internal and lane `ingress_data` do not go together",
        ),
        (
            "rules:\n  - service: a.A\n    connection: INTRENAL\n    lane: general\n",
            "rules.yaml:3:17: rules[0].connection `INTRENAL` is not a known connection; did you \
             mean `INTERNAL`? (known are INTERNAL, EXTERNAL)",
        ),
        (
            "rules:\n  - service: a.A\n    load_balancing: RANDON\n",
            "rules.yaml:3:21: rules[0].load_balancing `RANDON` is not a known load balancing; did \
             you mean `RANDOM`?",
        ),
        (
            "rules:\n  - service: a.A\n    timeout: 30\n",
            "rules.yaml:3:14: rules[0].timeout `30` is not a time limit: a whole number and a unit",
        ),
        (
            "rules:\n  - service: not a name\n    timeout: 3s\n",
            "rules.yaml:2:14: rules[0].service `not a name` is not a gRPC service name",
        ),
        (
            "rules:\n  - service: a.A\n    methods:\n      - name: Get\n        retry: {attempts: 3}\n",
            "rules.yaml:5:27: rules[0].methods[0].retry `Get` is not idempotent",
        ),
        (
            "rules:\n  - service: a.A\n    methods:\n      - name: Get\n        idempotent: true\n        \
             hedge: {after: 0ms}\n",
            "rules.yaml:6:24: rules[0].methods[0].hedge.after is whole milliseconds from 1ms to 1m",
        ),
        (
            "rules:\n  - service: a.A\n    methods:\n      - name: Get\n        idempotent: true\n        \
             retry: {attempts: 3, on: [UNAVAILABLE, ABORTD]}\n",
            "rules.yaml:6:48: rules[0].methods[0].retry.on[1] `ABORTD` is not a known gRPC status; \
             did you mean `ABORTED`?",
        ),
        (
            "rules:\n  - service: a.A\n    timeout: 5s\n    max_timeout: 2s\n",
            "rules.yaml:3:14: rules[0].timeout is out of bounds: 5s is above the service's ceiling",
        ),
        (
            "rules:\n  - service: a.A\n    limits:\n      - {requests_per_second: 9, per: [CALLR]}\n",
            "rules.yaml:4:40: rules[0].limits[0].per[0] `CALLR` is not a known share; did you mean \
             `CALLER`? (known are CALLER, METHOD, LANE)",
        ),
        (
            "rules:\n  - service: a.A\n    fault: {abort_percent: 101, abort_status: ABORTED}\n",
            "rules.yaml:3:28: rules[0].fault.abort_percent is 1 to 100",
        ),
        (
            "rules:\n  - service: a.A\n    concurrency: {max_in_flight: 0}\n",
            "rules.yaml:3:34: rules[0].concurrency.max_in_flight is 1 to 65536",
        ),
        (
            "rules:\n  - service: a.A\n    concurrency: {adaptive: {min: 2000}}\n",
            "rules.yaml:3:35: rules[0].concurrency.adaptive.min is above `max`, which is 1000 if",
        ),
        (
            "rules:\n  - service: a.A\n    concurrency: {max_in_flight: 9, adaptive: {min: 0}}\n",
            "rules.yaml:3:47: rules[0].concurrency.adaptive contradicts another field: is given \
             beside `max_in_flight`; keep one of them",
        ),
        (
            "rules:\n  - timeout: 5s\n",
            "rules.yaml:2:5: the key `service` is missing",
        ),
        (
            "lanes:\n  - name: telemetry\n    id: 20\n    connections: [INTERNAL]\n",
            "rules.yaml:2:11: lanes[0].window",
        ),
        (
            "lanes:\n  - {name: a, id: 20, connections: [INTERNAL], window: 65536, max_streams: 4}\n  \
             - {name: b, id: 20, connections: [INTERNAL], window: 65536, max_streams: 4}\n",
            "rules.yaml:3:19: lanes[1].id 20 is taken by lane `a` (rules.yaml:2); take another id",
        ),
        (
            "classes:\n  - name: partner\n    number: 40\n    lanes: [genral]\n",
            "rules.yaml:4:13: classes[0].lanes[0] `genral` is not a known lane of Sidelane's own",
        ),
        (
            "rules:\n  - service: a.A\n    service: b.B\n",
            "rules.yaml:3:5: `service` is there twice",
        ),
        (
            "rules:\n  - service: a.A\n    secure: perhaps\n",
            "rules.yaml:3:13: ",
        ),
        ("rules:\n  service: a.A\n", "rules.yaml:2:"),
        ("rules: [\n", "rules.yaml:"),
    ];
    for (text, expected) in cases {
        let wrong = wrong(text);
        assert_eq!(wrong.len(), 1, "{text}\n{wrong:#?}");
        assert!(
            wrong[0].starts_with(expected),
            "{}\nwanted: {expected}",
            wrong[0]
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text =
        "rules:\n- {service: a.A, timeout: x}\n- {service: b.B}\n- {service: c.C, timeout: y}\n";
    let wrong = wrong(text);
    assert_eq!(wrong.len(), 2);
    assert!(
        wrong[0].starts_with("rules.yaml:2:27: rules[0].timeout"),
        "{}",
        wrong[0]
    );
    assert!(
        wrong[1].starts_with("rules.yaml:4:27: rules[2].timeout"),
        "{}",
        wrong[1]
    );
}

#[test]
fn what_others_say_of_a_field_gets_its_place() {
    let written = read(FILE, EXAMPLE).unwrap();
    for (field, place) in [
        ("rules[0].lane", "21:11"),
        ("rules[0].methods[1].server_streaming", "59:27"),
        ("rules[0].methods[1].timeout", "57:15"),
        ("rules[1].lane", "60:14"),
        ("rules[1].service", "60:14"),
        ("rules[1].split.parts[1].percent", "67:33"),
        ("rules[1].split.strict", "68:15"),
    ] {
        let text = written.at(field, "is wrong").text(FILE);
        assert_eq!(text, format!("rules.yaml:{place}: {field} is wrong"));
    }
    assert_eq!(
        written.at("rules", "too many").text(FILE),
        "rules.yaml: rules too many"
    );
}

#[test]
fn a_lane_of_the_mesh_is_asked_for_and_one_of_the_file_is_not() {
    let named = |text: &str| {
        let written = read(FILE, text).unwrap();
        written.names_others(&written.vocabulary().unwrap())
    };
    assert!(!named(EXAMPLE));
    assert!(named(
        "rules: [{service: a.A, connection: INTERNAL, lane: theirs}]"
    ));
    assert!(named(
        "rules: [{service: a.A, connection_custom: theirs, lane: general}]"
    ));
}

#[test]
fn an_empty_file_has_no_rules() {
    for text in ["", "# nothing\n", "rules: []\n", "---\n"] {
        assert_eq!(read(FILE, text).unwrap().rules.len(), 0, "{text:?}");
    }
}

/// As many as may be applied, each with some methods.
#[test]
fn a_file_of_the_largest_set_is_read() {
    let mut text = "rules:\n".to_owned();
    for number in 0..20_000 {
        let _ = writeln!(text, "  - service: shop.v1.Service{number}");
        text.push_str(
            "    connection: INTERNAL\n    lane: general\n    timeout: 2s\n    methods:\n",
        );
        for method in ["Get", "List", "Put", "Watch"] {
            let _ = writeln!(text, "      - {{name: {method}, idempotent: true}}");
        }
    }
    assert_eq!(right(&text).len(), 20_000);
}
