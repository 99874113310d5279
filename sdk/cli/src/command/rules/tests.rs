//! How applied rules are shown.

use sidelane_proto::wire::admin::v1 as admin;
use sidelane_proto::wire::control::v1::Version;
use sidelane_proto::wire::routing::v1 as wire;

use super::*;

fn listed() -> ListRulesResponse {
    let method = |name: &str, idempotent| wire::Method {
        name: name.to_owned(),
        idempotent,
        ..wire::Method::default()
    };
    let whole = wire::Rule {
        service: "shop.v1.Orders".to_owned(),
        connection: wire::Connection::Internal.into(),
        lane_id: 1,
        lane: "gossip".to_owned(),
        persistent: true,
        load_balancing: wire::LoadBalancing::Random.into(),
        retry: Some(wire::Retry {
            attempts: 3,
            on: vec!["ABORTED".to_owned(), "UNAVAILABLE".to_owned()],
            ..wire::Retry::default()
        }),
        limits: vec![wire::Limit {
            requests_per_second: 20,
            ..wire::Limit::default()
        }],
        methods: vec![method("Get", true), method("Put", false)],
        origin: "rules.yaml:3".to_owned(),
        ..wire::Rule::default()
    };
    let tuning = wire::Rule {
        service: "shop.v1.Billing".to_owned(),
        load_balancing_custom: "nearest".to_owned(),
        ..wire::Rule::default()
    };
    let applied = |rule, tuning_only, version| admin::AppliedRule {
        network: "default".to_owned(),
        rule: Some(wire::PushedRule {
            rule: Some(rule),
            tuning_only,
            version,
        }),
    };
    ListRulesResponse {
        rules: vec![applied(tuning, true, 9), applied(whole, false, 7)],
        version: Some(Version {
            store_id: "s".to_owned(),
            counter: 12,
        }),
    }
}

fn rows(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect()
}

#[test]
fn people_see_what_each_rule_says_and_where_it_is_from() {
    let rules = read(listed()).unwrap();
    assert_eq!(
        rows(&text(&rules, false)),
        [
            "SERVICE REVISION SAYS WHERE",
            "shop.v1.Billing 9 strategy nearest -",
            "shop.v1.Orders 7 Internal gossip, persistent, RANDOM, 3 attempts on ABORTED \
             UNAVAILABLE, limit 20 calls/s, 20 at once, 2 methods rules.yaml:3",
        ]
    );
    let one = only(rules, "shop.v1.Orders").ok().unwrap();
    let rows = rows(&text(&one, true));
    assert_eq!(rows[2..], ["Get: idempotent", "Put"]);
    assert!(text(&[], false).contains("no rule is applied"));
}

#[test]
fn networks_are_told_apart_where_there_are_several() {
    let mut listed = listed();
    listed.rules[1].network = "other".to_owned();
    let rows = rows(&text(&read(listed).unwrap(), false));
    assert!(rows[0].ends_with("WHERE NETWORK"), "{rows:?}");
    assert!(rows[2].ends_with("rules.yaml:3 other"), "{rows:?}");
}

#[test]
fn a_service_without_a_rule_names_the_nearest() {
    let error = |service: &str, listed| {
        let rules = read(listed).unwrap();
        only(rules, service).err().unwrap().to_string()
    };
    assert_eq!(
        error("shop.v1.Ordres", listed()),
        "no rule is applied to `shop.v1.Ordres`; did you mean `shop.v1.Orders`? (`sidelane rules` \
         lists all)"
    );
    assert_eq!(
        error("a.A", ListRulesResponse::default()),
        "no rule is applied to `a.A`; none is applied to any service (`sidelane apply --file \
         rules.yaml`)"
    );
}

#[test]
fn programs_see_every_field() {
    let json = json(&read(listed()).unwrap(), 12);
    assert_eq!(json["revision"], 12);
    let (tuning, whole) = (&json["rules"][0], &json["rules"][1]);
    assert_eq!(
        (&tuning["tuning_only"], &tuning["lane"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(tuning["load_balancing_custom"], "nearest");
    assert_eq!(whole["lane"], "gossip");
    assert_eq!(whole["retry"]["on"][1], "UNAVAILABLE");
    assert_eq!(whole["limits"][0]["burst"], 20);
    assert_eq!(whole["methods"][0]["idempotent"], true);
    assert_eq!(whole["origin"], "rules.yaml:3");
    assert_eq!(whole.as_object().unwrap().len(), 26);
}
