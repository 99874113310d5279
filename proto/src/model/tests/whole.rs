//! A rule that says everything there is to say survives the wire. Its parts are written out without
//! a default, so that a new field cannot be left out here, and each must arrive as a field that the
//! `.proto` names, so that none can be left out on the way.

use std::collections::BTreeSet;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use super::*;

const PROTO: &str = include_str!("../../../sidelane/routing/v1/routing.proto");

/// The numbers of the fields that the `.proto` gives this message.
fn known(message: &str) -> BTreeSet<u32> {
    let begin = format!("\nmessage {message} {{\n");
    let body = PROTO.split_once(&begin).expect("the message").1;
    let body = body.split_once("\n}").expect("its end").0;
    let lines = body.lines().filter(|line| !line.trim().starts_with("//"));
    let numbers = lines.filter_map(|line| line.rsplit_once(" = ")?.1.strip_suffix(';'));
    numbers.map(|number| number.parse().unwrap()).collect()
}

/// The numbers of the fields that this one sends: those that say more than nothing.
fn sent(message: &impl Message) -> BTreeSet<u32> {
    let bytes = message.encode_to_vec();
    let (mut rest, mut numbers) = (bytes.as_slice(), BTreeSet::new());
    while rest.has_remaining() {
        let (number, kind) = decode_key(&mut rest).unwrap();
        skip_field(kind, number, &mut rest, DecodeContext::default()).unwrap();
        numbers.insert(number);
    }
    numbers
}

/// Each of these fields is sent by one of these.
fn all_are_sent(message: &str, sent_by: &[BTreeSet<u32>]) {
    let sent: BTreeSet<u32> = sent_by.iter().flatten().copied().collect();
    assert_eq!(sent, known(message), "of {message}");
}

fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn retry() -> Retry {
    Retry {
        attempts: 4,
        on: Statuses::of(&[4, 10]),
        budget_percent: Some(31),
        budget_per_second: Some(7),
        pause: milliseconds(33),
        max_pause: milliseconds(1_717),
    }
}

fn admission(concurrency: Option<Concurrency>) -> Admission {
    Admission {
        limits: Cow::Owned(vec![
            Limit {
                requests_per_second: 19,
                burst: 23,
                per: Per {
                    caller: true,
                    method: true,
                    lane: true,
                },
                outbound: false,
            },
            Limit {
                outbound: true,
                ..Limit::of(3)
            },
        ]),
        concurrency,
        fault: Some(Fault {
            delay: Some(Delay {
                percent: 11,
                time: milliseconds(29),
            }),
            abort: Some(Abort {
                percent: 13,
                status: 8,
            }),
            header: Some(Cow::Borrowed("x-drill")),
            header_value: Some(Cow::Borrowed("on")),
        }),
    }
}

fn authorization() -> Authorization {
    let nobody = Allow {
        anyone: false,
        identity: None,
        namespace: None,
        trust_domain: None,
        prefix: None,
        class: None,
        lane: None,
    };
    let account = "spiffe://mesh.example/ns/shop/sa/orders";
    Authorization {
        allow: Cow::Owned(vec![
            Allow {
                anyone: true,
                class: Some(ConnectionClass::Own(rules::PARTNER)),
                lane: Some(rules::TELEMETRY),
                ..nobody.clone()
            },
            Allow {
                identity: Some(Cow::Borrowed(account)),
                class: Some(ConnectionClass::Internal),
                ..nobody.clone()
            },
            Allow {
                namespace: Some(Cow::Borrowed("shop")),
                trust_domain: Some(Cow::Borrowed("mesh.example")),
                ..nobody.clone()
            },
            Allow {
                prefix: Some(Cow::Borrowed("spiffe://mesh.example/ns/shop/sa/w-")),
                ..nobody
            },
        ]),
        dry_run: true,
    }
}

fn concurrency(bound: Bound) -> Concurrency {
    Concurrency {
        bound,
        queue: 37,
        longest_wait: milliseconds(41),
    }
}

/// Everything; only what contradicts it is not in it.
fn whole() -> Rule {
    let adaptive = Adaptive {
        min: 2,
        max: 43,
        tolerance_percent: 47,
        remeasure: milliseconds(5_300),
    };
    Rule {
        service: Cow::Borrowed("shop.v1.Orders"),
        category: Category::Metadata,
        class: ConnectionClass::Own(rules::PARTNER),
        lane: rules::TELEMETRY,
        secure: true,
        persistent: true,
        load_balancing: Some(LoadBalancing::ConsistentHash),
        strategy: None,
        balancing: Balancing {
            hash_header: Some(Cow::Borrowed("x-user")),
            locality: Some(LocalityPreference::Ignore),
            slow_start: Some(milliseconds(59_000)),
        },
        timeout: Some(milliseconds(61)),
        max_timeout: Some(milliseconds(67_000)),
        retry: Some(retry()),
        breaker: Some(Breaker {
            off: true,
            consecutive_failures: 71,
            success_percent: 73,
            min_calls: 79,
            interval: milliseconds(8_300),
            open: milliseconds(8_900),
            max_open: milliseconds(97_000),
            probes: 3,
            successes: 5,
        }),
        outlier: Some(Outlier {
            off: true,
            below_mean: 17,
            min_calls: 101,
            max_percent: 19,
        }),
        split: Some(Split {
            label: Cow::Borrowed("track"),
            parts: Cow::Owned(vec![
                SplitPart {
                    value: Cow::Borrowed("stable"),
                    percent: 97,
                    header: None,
                },
                SplitPart {
                    value: Cow::Borrowed("canary"),
                    percent: 3,
                    header: Some(HeaderMatch {
                        name: Cow::Borrowed("x-canary"),
                        value: Cow::Borrowed("yes"),
                    }),
                },
            ]),
            strict: true,
        }),
        admission: admission(Some(concurrency(Bound::Adaptive(adaptive)))),
        authorization: Some(authorization()),
        methods: Cow::Owned(vec![
            MethodRule {
                name: Cow::Borrowed("Get"),
                client_streaming: false,
                server_streaming: false,
                idempotent: true,
                timeout: Some(milliseconds(103)),
                hash_on: Some(Cow::Borrowed("order.id")),
                retry: Some(Retry {
                    budget_percent: None,
                    budget_per_second: None,
                    ..retry()
                }),
                hedge: Some(Hedge {
                    off: true,
                    after: milliseconds(107),
                    max_attempts: 5,
                }),
                admission: admission(None),
                authorization: Some(authorization()),
            },
            MethodRule::streaming("Chat", true, true),
        ]),
        origin: Cow::Borrowed("orders.proto:7"),
    }
}

/// The same with what contradicts it instead.
fn others() -> Rule {
    Rule {
        class: ConnectionClass::Internal,
        load_balancing: None,
        strategy: Some(Cow::Borrowed("nearest")),
        admission: admission(Some(concurrency(Bound::Fixed(53)))),
        ..whole()
    }
}

#[test]
fn a_rule_that_says_everything_survives_the_wire() {
    rules::PARTNER.remember();
    rules::TELEMETRY.remember();
    for rule in [whole(), others()] {
        rule.check().unwrap();
        let sent = routing::Rule::from(&rule);
        assert_eq!(Rule::try_from(sent.clone()).unwrap(), rule);
        let pushed = routing::PushedRule {
            rule: Some(sent),
            tuning_only: false,
            version: 3,
        };
        let read = PushedRule::try_from(pushed.clone()).unwrap();
        assert_eq!(routing::PushedRule::from(&read), pushed);
    }
}

#[test]
fn every_field_of_the_proto_is_sent() {
    let rules = [
        routing::Rule::from(&whole()),
        routing::Rule::from(&others()),
    ];
    let each = |of: &dyn Fn(&routing::Rule) -> BTreeSet<u32>| rules.each_ref().map(of);
    all_are_sent("Rule", &each(&|it| sent(it)));
    let methods: Vec<_> = rules[0].methods.iter().map(sent).collect();
    all_are_sent("Method", &methods);
    all_are_sent("Retry", &each(&|it| sent(it.retry.as_ref().unwrap())));
    let hedge = rules[0].methods[0].hedge.as_ref().unwrap();
    all_are_sent("Hedge", &[sent(hedge)]);
    all_are_sent("Breaker", &each(&|it| sent(it.breaker.as_ref().unwrap())));
    all_are_sent("Outlier", &each(&|it| sent(it.outlier.as_ref().unwrap())));
    let split = rules[0].split.as_ref().unwrap();
    all_are_sent("Split", &[sent(split)]);
    all_are_sent("SplitPart", &[sent(&split.parts[1])]);
    let limits: Vec<_> = rules[0].limits.iter().map(sent).collect();
    all_are_sent("Limit", &limits);
    let concurrency = each(&|it| sent(it.concurrency.as_ref().unwrap()));
    all_are_sent("Concurrency", &concurrency);
    let adaptive = rules[0].concurrency.as_ref().unwrap().adaptive.as_ref();
    all_are_sent("Adaptive", &[sent(adaptive.unwrap())]);
    let authorization = rules[0].authorization.as_ref().unwrap();
    all_are_sent("Authorization", &[sent(authorization)]);
    let allow: Vec<_> = rules
        .iter()
        .flat_map(|it| it.authorization.as_ref().unwrap().allow.iter().map(sent))
        .collect();
    all_are_sent("Allow", &allow);
    all_are_sent("Fault", &each(&|it| sent(it.fault.as_ref().unwrap())));
}
