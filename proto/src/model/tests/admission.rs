//! What is admitted, as it is written, pushed and checked.

use super::*;
use crate::model::admission::{HEADER_LIMIT, LIMITS_LIMIT};
use crate::model::{Abort, Adaptive, Bound, Concurrency, Delay, Fault, Limit, Per};

prop_compose! {
    fn any_limit()(
        requests_per_second in 1_u32..=1_000_000,
        burst in 1_u32..=1_000_000,
        method: bool,
        lane: bool,
        side in prop::sample::select(vec![(false, false), (false, true), (true, false)]),
    ) -> Limit {
        let (outbound, caller) = side;
        Limit { requests_per_second, burst, per: Per { caller, method, lane }, outbound }
    }
}

prop_compose! {
    fn any_fault()(
        delay in prop::option::of((1_u32..=100, 1_u64..=60_000)),
        abort in prop::option::of((1_u32..=100, 1_u32..=16)),
        header in prop::option::of("[a-z][a-z0-9-]{0,20}"),
        value in prop::option::of("[ -~]{1,20}"),
    ) -> Option<Fault> {
        let of = |(percent, time)| Delay { percent, time: Duration::from_millis(time) };
        let header_value = value.filter(|_| header.is_some()).map(Cow::Owned);
        let fault = Fault {
            delay: delay.map(of),
            abort: abort.map(|(percent, status)| Abort { percent, status }),
            header: header.map(Cow::Owned),
            header_value,
        };
        (fault.delay.is_some() || fault.abort.is_some()).then_some(fault)
    }
}

fn any_bound() -> impl Strategy<Value = Bound> {
    let numbers = (
        1_u32..=65_536,
        0_u32..=65_535,
        1_u32..=400,
        1_000_u64..=600_000,
    );
    let adaptive = numbers.prop_map(|(min, more, tolerance_percent, remeasure)| Adaptive {
        min,
        max: (min + more).min(65_536),
        tolerance_percent,
        remeasure: Duration::from_millis(remeasure),
    });
    prop_oneof![
        (1_u32..=65_536).prop_map(Bound::Fixed),
        adaptive.prop_map(Bound::Adaptive),
    ]
}

prop_compose! {
    pub(super) fn any_admission()(
        limits in prop::collection::vec(any_limit(), 0..=LIMITS_LIMIT),
        concurrency in prop::option::of((any_bound(), 1_u32..=4_096, 1_u64..=10_000)),
        fault in any_fault(),
    ) -> Admission {
        let concurrency = concurrency.map(|(bound, queue, wait)| Concurrency {
            bound,
            queue,
            longest_wait: Duration::from_millis(wait),
        });
        Admission { limits: Cow::Owned(limits), concurrency, fault }
    }
}

fn read(change: impl FnOnce(&mut routing::Rule)) -> Result<Rule, String> {
    let mut rule = wire_rule();
    rule.methods.push(routing::Method {
        name: "Get".to_owned(),
        ..Default::default()
    });
    change(&mut rule);
    Rule::try_from(rule).map_err(|error| error.to_string())
}

fn limit(requests_per_second: u32) -> routing::Limit {
    routing::Limit {
        requests_per_second,
        ..Default::default()
    }
}

fn fault(change: impl FnOnce(&mut routing::Fault)) -> Option<routing::Fault> {
    let mut fault = routing::Fault {
        abort_percent: 10,
        abort_status: "UNAVAILABLE".to_owned(),
        ..Default::default()
    };
    change(&mut fault);
    Some(fault)
}

fn concurrency(max_in_flight: u32, queue: u32, wait: &str) -> Option<routing::Concurrency> {
    Some(routing::Concurrency {
        max_in_flight,
        queue,
        longest_wait: wait.to_owned(),
        adaptive: None,
    })
}

fn adaptive(change: impl FnOnce(&mut routing::Adaptive)) -> Option<routing::Concurrency> {
    let mut adaptive = routing::Adaptive::default();
    change(&mut adaptive);
    Some(routing::Concurrency {
        adaptive: Some(adaptive),
        ..Default::default()
    })
}

#[test]
fn what_is_left_out_has_a_default() {
    let rule = read(|rule| {
        rule.limits = vec![limit(20)];
        rule.concurrency = concurrency(10, 5, "");
        rule.fault = fault(|_| ());
    });
    let admission = rule.unwrap().admission;
    assert_eq!(*admission.limits, [Limit::of(20)]);
    let concurrency = admission.concurrency.unwrap();
    assert_eq!(concurrency.longest_wait, Duration::from_millis(100));
    assert_eq!(admission.fault.unwrap().delay, None);
    let rule = read(|rule| rule.concurrency = adaptive(|_| ())).unwrap();
    let bound = rule.admission.concurrency.map(|it| it.bound);
    assert_eq!(bound, Some(Bound::Adaptive(Adaptive::DEFAULT)));
    assert!(read(|_| ()).unwrap().admission.is_none());
}

#[test]
fn what_cannot_be_is_refused_with_its_path() {
    type Change = fn(&mut routing::Rule);
    let cases: [(&str, Change); 33] = [
        ("limits has 9 entries, at most 8", |rule| {
            rule.limits = vec![limit(1); LIMITS_LIMIT + 1];
        }),
        ("limits[1].requests_per_second is 1 to 1000000", |rule| {
            rule.limits = vec![limit(1), limit(0)];
        }),
        ("limits[0].requests_per_second is 1", |rule| {
            rule.limits = vec![limit(1_000_001)];
        }),
        ("limits[0].burst is 1 to 1000000", |rule| {
            rule.limits = vec![routing::Limit {
                burst: 1_000_001,
                ..limit(1)
            }];
        }),
        ("limits[0].per[1] `METHOD` is named twice", |rule| {
            let per = vec![routing::Per::Method.into(); 2];
            rule.limits = vec![routing::Limit { per, ..limit(1) }];
        }),
        ("limits[0].per[0] 9 is not a known share", |rule| {
            rule.limits = vec![routing::Limit {
                per: vec![9],
                ..limit(1)
            }];
        }),
        ("limits[0].per names CALLER, and a sidecar counts", |rule| {
            rule.limits = vec![routing::Limit {
                per: vec![routing::Per::Caller.into()],
                outbound: true,
                ..limit(1)
            }];
        }),
        ("methods[0].limits[0].requests_per_second is 1", |rule| {
            rule.methods[0].limits = vec![limit(0)];
        }),
        ("concurrency.max_in_flight is 1 to 65536", |rule| {
            rule.concurrency = concurrency(0, 0, "");
        }),
        ("concurrency.max_in_flight is 1", |rule| {
            rule.concurrency = concurrency(65_537, 0, "");
        }),
        (
            "concurrency.adaptive contradicts another field: is given",
            |rule| {
                rule.concurrency = adaptive(|_| ()).map(|it| routing::Concurrency {
                    max_in_flight: 5,
                    ..it
                });
            },
        ),
        ("concurrency.adaptive.min is 1 to 65536", |rule| {
            rule.concurrency = adaptive(|it| it.min = Some(0));
        }),
        ("concurrency.adaptive.max is 1 to 65536", |rule| {
            rule.concurrency = adaptive(|it| it.max = Some(65_537));
        }),
        ("concurrency.adaptive.max is 1 to 65536", |rule| {
            rule.concurrency = adaptive(|it| it.max = Some(0));
        }),
        ("concurrency.adaptive.min is above `max`", |rule| {
            rule.concurrency = adaptive(|it| it.min = Some(1_001));
        }),
        (
            "concurrency.adaptive.tolerance_percent is 1 to 400",
            |rule| rule.concurrency = adaptive(|it| it.tolerance_percent = Some(0)),
        ),
        (
            "concurrency.adaptive.tolerance_percent is 1 to 400",
            |rule| rule.concurrency = adaptive(|it| it.tolerance_percent = Some(401)),
        ),
        (
            "concurrency.adaptive.remeasure is whole milliseconds from 1s to 10m",
            |rule| {
                rule.concurrency = adaptive(|it| it.remeasure = "999ms".to_owned());
            },
        ),
        ("concurrency.adaptive.remeasure `-1s` is", |rule| {
            rule.concurrency = adaptive(|it| it.remeasure = "-1s".to_owned());
        }),
        ("concurrency.queue is at most 4096", |rule| {
            rule.concurrency = concurrency(1, 4_097, "");
        }),
        ("concurrency.longest_wait is whole milliseconds", |rule| {
            rule.concurrency = concurrency(1, 1, "10001ms");
        }),
        ("concurrency.longest_wait is whole milliseconds", |rule| {
            rule.concurrency = concurrency(1, 1, "0s");
        }),
        ("concurrency.longest_wait `soon` is not a time", |rule| {
            rule.concurrency = concurrency(1, 1, "soon");
        }),
        ("concurrency.longest_wait contradicts", |rule| {
            rule.concurrency = concurrency(1, 0, "10ms");
        }),
        ("fault.abort_percent is 1 to 100", |rule| {
            rule.fault = fault(|fault| fault.abort_percent = 101);
        }),
        ("fault.abort_percent contradicts", |rule| {
            rule.fault = fault(|fault| fault.abort_percent = 0);
        }),
        ("fault.abort_percent is missing, and so is", |rule| {
            rule.fault = Some(routing::Fault::default());
        }),
        (
            "fault.abort_status `UNAVAILABEL` is not a known gRPC status; did you mean",
            |rule| rule.fault = fault(|fault| fault.abort_status = "UNAVAILABEL".to_owned()),
        ),
        ("fault.delay_percent is 1 to 100", |rule| {
            rule.fault = fault(|fault| {
                fault.delay_percent = 101;
                fault.delay = "1s".to_owned();
            });
        }),
        (
            "fault.delay is whole milliseconds from 1ms to 60s",
            |rule| {
                rule.fault = fault(|fault| {
                    fault.delay_percent = 1;
                    fault.delay = "61s".to_owned();
                });
            },
        ),
        ("fault.header is made of lower-case letters", |rule| {
            rule.fault = fault(|fault| fault.header = "X-Test".to_owned());
        }),
        ("fault.header begins with `sidelane-`", |rule| {
            rule.fault = fault(|fault| fault.header = "sidelane-node".to_owned());
        }),
        ("methods[0].fault.header_value is given, and no", |rule| {
            rule.methods[0].fault = fault(|fault| fault.header_value = "1".to_owned());
        }),
    ];
    for (expected, change) in cases {
        let error = read(change).unwrap_err();
        assert!(error.starts_with(expected), "{error}\nwanted: {expected}");
    }
    let long = "x".repeat(HEADER_LIMIT + 1);
    let error = read(|rule| rule.fault = fault(|fault| fault.header = long)).unwrap_err();
    assert!(error.starts_with("fault.header is a name of"), "{error}");
}

#[test]
fn a_constant_knows_that_what_it_admits_cannot_be() {
    const LIMITS: &[Limit] = &[Limit::of(1), Limit::of(0)];
    const WRONG: Admission = Admission {
        limits: Cow::Borrowed(LIMITS),
        ..Admission::NONE
    };
    static METHODS: &[MethodRule] = &[MethodRule::unary("Get").with_admission(Admission {
        concurrency: Some(Concurrency::fixed(1)),
        ..Admission::NONE
    })];
    let of = |methods, admission| Rule {
        admission,
        ..Rule::new(
            "a.B",
            ConnectionClass::Internal,
            Lane::GENERAL,
            methods,
            "here",
        )
    };
    let flawed = of(&[], WRONG);
    let flaw = flawed.flaw().unwrap();
    assert_eq!(flaw.field(), "limits.requests_per_second");
    let error = flawed.check().unwrap_err();
    assert_eq!(error.path, "limits[1].requests_per_second");
    // What a rule says in words has no part of a millisecond.
    let half = Duration::from_micros(500);
    let waits = |longest_wait| Concurrency {
        longest_wait,
        ..Concurrency::fixed(1)
    };
    let remeasured = |remeasure| {
        Concurrency::adaptive(Adaptive {
            remeasure,
            ..Adaptive::DEFAULT
        })
    };
    let second = Duration::from_secs(1);
    for (concurrency, field) in [
        (waits(half), "concurrency.longest_wait"),
        (waits(second + half), "concurrency.longest_wait"),
        (remeasured(second + half), "concurrency.adaptive.remeasure"),
        (
            Concurrency::adaptive(Adaptive::between(0, 9)),
            "concurrency.adaptive.min",
        ),
        (Concurrency::fixed(0), "concurrency.max_in_flight"),
    ] {
        let admission = Admission {
            concurrency: Some(concurrency),
            ..Admission::NONE
        };
        let error = of(&[], admission).check().unwrap_err();
        assert_eq!(error.path, field);
    }
    let held_back = Fault {
        delay: Some(Delay {
            percent: 1,
            time: half,
        }),
        abort: None,
        header: None,
        header_value: None,
    };
    let admission = Admission {
        fault: Some(held_back),
        ..Admission::NONE
    };
    let error = of(&[], admission).check().unwrap_err();
    assert_eq!(error.path, "fault.delay");
    let error = of(METHODS, Admission::NONE).check().unwrap_err();
    assert_eq!(error.path, "methods[0].concurrency");
}

#[test]
fn what_is_pushed_replaces_what_was_compiled_in_part_by_part() {
    let base = Admission {
        limits: Cow::Owned(vec![Limit::of(1), Limit::of(2)]),
        concurrency: Some(Concurrency::fixed(3)),
        fault: None,
    };
    let pushed = Admission {
        limits: Cow::Owned(vec![Limit::of(9)]),
        ..Admission::NONE
    };
    let both = pushed.or(&base);
    assert_eq!(*both.limits, [Limit::of(9)]);
    assert_eq!(both.concurrency, base.concurrency);
    assert_eq!(Admission::NONE.or(&base), base);
}

#[test]
fn people_read_what_is_admitted() {
    let rule = read(|rule| {
        rule.limits = vec![routing::Limit {
            burst: 5,
            per: vec![routing::Per::Lane.into(), routing::Per::Caller.into()],
            ..limit(20)
        }];
        rule.concurrency = concurrency(10, 5, "50ms");
        rule.fault = fault(|fault| {
            fault.header = "x-test".to_owned();
            fault.header_value = "1".to_owned();
        });
    });
    let admission = rule.unwrap().admission;
    assert_eq!(
        admission.limits[0].to_string(),
        "20 calls/s, 5 at once, per CALLER and LANE"
    );
    assert_eq!(
        admission.concurrency.unwrap().to_string(),
        "10 calls at once, 5 wait up to 50ms"
    );
    assert_eq!(
        admission.fault.unwrap().to_string(),
        "10 % fail with UNAVAILABLE, where x-test is `1`"
    );
}
