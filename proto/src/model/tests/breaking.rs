//! Which changes break a mesh that runs: each kind by an example, and all of them against what two
//! nodes must agree on.

use std::borrow::Cow;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::breaking::{Break, Described, DescribedService, What, breaking};
use super::super::lane::{LaneBounds, LaneDefinition};
use super::super::{
    Allow, Authorization, ClassDefinition, ConnectionClass, Hedge, Lane, MethodRule, OwnClass, Rule,
};

fn service<'a>(name: &'a str, methods: &[&'a str], rule: Option<&'a Rule>) -> DescribedService<'a> {
    DescribedService {
        name,
        origin: "shop.proto:3",
        methods: methods.to_vec(),
        rule,
    }
}

fn alone(service: DescribedService<'_>) -> Described<'_> {
    Described {
        services: vec![service],
        ..Described::default()
    }
}

fn rule(change: impl FnOnce(&mut Rule)) -> Rule {
    let methods = [
        MethodRule::unary("Get").idempotent(),
        MethodRule::unary("Put"),
    ];
    let mut rule = Rule {
        methods: methods.to_vec().into(),
        origin: "old.proto:7".into(),
        ..Rule::new("a.A", ConnectionClass::Internal, Lane::GENERAL, &[], "")
    };
    change(&mut rule);
    rule
}

/// What breaks where the rule of one service becomes another.
fn breaks(change: impl FnOnce(&mut Rule)) -> Vec<What> {
    let (old, new) = (rule(|_| ()), rule(change));
    let methods = ["Get", "Put"];
    let old = alone(service("a.A", &methods, Some(&old)));
    let new = alone(service("a.A", &methods, Some(&new)));
    let breaks = breaking(&old, &new).into_iter();
    breaks.map(|found| found.what).collect()
}

#[test]
fn what_two_nodes_must_agree_on_breaks() {
    assert_eq!(
        breaks(|rule| rule.lane = Lane::GOSSIP),
        [What::LaneMoved("general".to_owned(), "gossip".to_owned())]
    );
    assert_eq!(
        breaks(|rule| rule.class = ConnectionClass::External),
        [What::ClassMoved("Internal", "External")]
    );
    assert_eq!(breaks(|rule| rule.secure = true), [What::SecureAdded]);
    let (secure, open) = (rule(|rule| rule.secure = true), rule(|_| ()));
    let old = alone(service("a.A", &[], Some(&secure)));
    let new = alone(service("a.A", &[], Some(&open)));
    assert_eq!(breaking(&old, &new)[0].what, What::SecureDropped);
    let withdrawn = [What::IdempotentWithdrawn("Get".to_owned())];
    let once = |rule: &mut Rule| rule.methods.to_mut()[0].idempotent = false;
    assert_eq!(breaks(once), withdrawn);
    let unnamed = |rule: &mut Rule| rule.methods.to_mut().clear();
    assert_eq!(
        breaks(unnamed),
        withdrawn,
        "a method without a rule is not idempotent"
    );
}

#[test]
fn who_comes_in_beside_those_before_is_told() {
    const SHOP: &[Allow] = &[Allow::namespace("shop")];
    const CART: &[Allow] = &[Allow::identity("spiffe://mesh.example/ns/shop/sa/cart")];
    const BOTH: &[Allow] = &[Allow::namespace("shop"), Allow::trust_domain("other")];
    let list = |allow| Some(Authorization::of(allow));
    let told =
        |old: Option<Authorization>, new: Option<Authorization>, put: Option<Authorization>| {
            let old = rule(|rule| rule.authorization = old);
            let new = rule(|rule| {
                rule.authorization = new;
                rule.methods.to_mut()[1].authorization = put;
            });
            let methods = ["Get", "Put"];
            let old = alone(service("a.A", &methods, Some(&old)));
            let new = alone(service("a.A", &methods, Some(&new)));
            let breaks = breaking(&old, &new).into_iter();
            breaks.map(|found| found.what).collect::<Vec<_>>()
        };
    let more = |method: Option<&str>, who: &str| {
        What::LetsMoreIn(method.map(str::to_owned), who.to_owned())
    };
    assert_eq!(told(list(SHOP), list(SHOP), None), []);
    assert_eq!(told(list(BOTH), list(SHOP), None), []);
    assert_eq!(told(None, list(SHOP), None), []);
    assert_eq!(
        told(list(SHOP), list(BOTH), None),
        [more(None, "trust domain other")]
    );
    assert_eq!(told(list(SHOP), None, None), [more(None, "everybody")]);
    let dry = list(SHOP).map(Authorization::dry_run);
    assert_eq!(told(list(SHOP), dry, None), [more(None, "everybody")]);
    // The trust domain of `shop` is not written here.
    let cart = "identity spiffe://mesh.example/ns/shop/sa/cart";
    assert_eq!(
        told(list(SHOP), list(SHOP), list(CART)),
        [more(Some("Put"), cart)]
    );
    assert_eq!(told(list(BOTH), list(BOTH), list(SHOP)), []);
    let text = more(Some("Put"), "everybody").to_string();
    assert_eq!(text, "lets callers in whom it refused, to `Put`: everybody");
}

#[test]
fn a_hedge_breaks_where_nodes_of_the_other_build_do_not_bear_it() {
    let hedge = Hedge::after(std::time::Duration::from_millis(20));
    // `Get` could run twice before, `Put` could not.
    assert_eq!(breaks(|it| it.methods.to_mut()[0].hedge = Some(hedge)), []);
    let put = |hedge| {
        move |rule: &mut Rule| {
            let put = &mut rule.methods.to_mut()[1];
            (put.idempotent, put.hedge) = (true, Some(hedge));
        }
    };
    let too_soon = [What::HedgedTooSoon("Put".to_owned())];
    assert_eq!(breaks(put(hedge)), too_soon);
    assert_eq!(breaks(put(Hedge::OFF)), []);

    let hedged = rule(|it| it.methods.to_mut()[0].hedge = Some(hedge));
    let once = rule(|it| it.methods.to_mut()[0].idempotent = false);
    let again = rule(|_| ());
    let from_hedged = |new: &Rule| {
        let old = alone(service("a.A", &["Get", "Put"], Some(&hedged)));
        let new = alone(service("a.A", &["Get", "Put"], Some(new)));
        let breaks = breaking(&old, &new).into_iter();
        breaks.map(|found| found.what).collect::<Vec<_>>()
    };
    let withdrawn = [What::HedgedWithdrawn("Get".to_owned())];
    assert_eq!(from_hedged(&once), withdrawn);
    assert_eq!(from_hedged(&again), []);
}

#[test]
fn what_tunes_breaks_nothing() {
    let time = std::time::Duration::from_secs(9);
    assert_eq!(breaks(|_| ()), []);
    assert_eq!(breaks(|rule| rule.timeout = Some(time)), []);
    assert_eq!(breaks(|rule| rule.persistent = true), []);
    assert_eq!(
        breaks(|rule| rule.methods.to_mut()[1].idempotent = true),
        []
    );
}

#[test]
fn what_is_gone_breaks_and_what_is_new_does_not() {
    let first = rule(|_| ());
    let both = || service("a.A", &["Get", "Put"], Some(&first));
    let broken = |old: DescribedService<'_>, new: Option<DescribedService<'_>>| {
        let new = Described {
            services: new.into_iter().collect(),
            ..Described::default()
        };
        breaking(&alone(old), &new)
    };
    let found = |what, old: &str, new: &str| Break {
        subject: "a.A".to_owned(),
        what,
        old: old.to_owned(),
        new: new.to_owned(),
    };
    assert_eq!(
        broken(both(), None),
        [found(What::ServiceRemoved, "shop.proto:3", "")]
    );
    assert_eq!(
        broken(both(), Some(service("a.A", &["Get", "Put"], None))),
        [found(What::RuleRemoved, "old.proto:7", "shop.proto:3")]
    );
    assert_eq!(
        broken(both(), Some(service("a.A", &["Put"], Some(&first)))),
        [found(
            What::MethodRemoved("Get".to_owned()),
            "old.proto:7",
            "old.proto:7"
        )]
    );
    let bare = || service("a.A", &["Get"], None);
    assert_eq!(broken(bare(), Some(both())), []);
    let new = Described {
        services: vec![bare(), service("b.B", &[], None)],
        ..Described::default()
    };
    assert_eq!(breaking(&alone(bare()), &new), []);
}

fn lane(id: u16, name: &'static str, window: u32) -> Lane {
    Lane::define(Box::leak(Box::new(LaneDefinition {
        id,
        name,
        classes: &[ConnectionClass::Internal],
        bounds: Some(LaneBounds::new(window, 8)),
    })))
}

#[test]
fn a_lane_or_class_that_becomes_another_breaks() {
    let of = |lane: Lane| Described {
        lanes: vec![(lane, "lanes.proto:1")],
        ..Described::default()
    };
    let redefined = |old: Lane, new: Lane| {
        let breaks = breaking(&of(old), &of(new));
        let texts = breaks.into_iter().map(|found| match found.what {
            What::LaneRedefined(how) => how,
            other => panic!("{other:?}"),
        });
        texts.collect::<Vec<_>>()
    };
    let old = lane(800, "bulk", 65_536);
    assert_eq!(redefined(old, lane(800, "bulk", 65_536)), [""; 0]);
    assert_eq!(redefined(old, lane(801, "other", 65_536)), [""; 0]);
    assert_eq!(
        redefined(old, lane(800, "bulk", 131_072)),
        ["window from 65536 to 131072, connection_window from 262144 to 524288"]
    );
    assert_eq!(
        redefined(old, lane(801, "bulk", 65_536)),
        ["id from 800 to 801"]
    );
    assert_eq!(
        redefined(old, lane(800, "heavy", 65_536)),
        ["name from bulk to heavy"]
    );
    let class = |number, lanes| {
        OwnClass::define(Box::leak(Box::new(ClassDefinition {
            number,
            name: "partner",
            lanes,
        })))
    };
    let of = |class: OwnClass| Described {
        classes: vec![(class, "lanes.proto:2")],
        ..Described::default()
    };
    let old = of(class(80, &[Lane::GENERAL]));
    assert_eq!(breaking(&old, &of(class(80, &[Lane::GENERAL]))), []);
    assert_eq!(
        breaking(&old, &of(class(81, &[]))),
        [Break {
            subject: "partner".to_owned(),
            what: What::ClassRedefined("number from 80 to 81, lanes from general to ".to_owned()),
            old: "lanes.proto:2".to_owned(),
            new: "lanes.proto:2".to_owned(),
        }]
    );
}

const METHODS: [&str; 3] = ["Get", "Put", "Watch"];
const SERVICES: [&str; 3] = ["a.A", "b.B", "c.C"];

/// A service: its methods, and its rule with those that are idempotent.
#[derive(Debug, Clone)]
struct Model {
    name: &'static str,
    methods: Vec<&'static str>,
    rule: Option<Rule>,
}

prop_compose! {
    fn any_rule()(
        pair in 0_usize..4,
        secure: bool,
        persistent: bool,
        idempotent in prop::sample::subsequence(METHODS.to_vec(), 0..=3),
    ) -> (Rule, Vec<&'static str>) {
        let (class, lane) = [
            (ConnectionClass::Internal, Lane::GENERAL),
            (ConnectionClass::Internal, Lane::GOSSIP),
            (ConnectionClass::External, Lane::GENERAL),
            (ConnectionClass::External, Lane::INGRESS_DATA),
        ][pair];
        let rule = Rule { secure, persistent, ..Rule::new("x.X", class, lane, &[], "") };
        (rule, idempotent)
    }
}

prop_compose! {
    fn any_service(name: &'static str)(
        methods in prop::sample::subsequence(METHODS.to_vec(), 1..=3),
        rule in prop::option::weighted(0.8, any_rule()),
    ) -> Model {
        let rule = rule.map(|(rule, idempotent)| {
            let methods = methods.iter().map(|method| MethodRule {
                idempotent: idempotent.contains(method),
                ..MethodRule::unary(method)
            });
            Rule { service: Cow::Borrowed(name), methods: methods.collect(), ..rule }
        });
        Model { name, methods, rule }
    }
}

fn any_services() -> impl Strategy<Value = Vec<Model>> {
    let each = SERVICES.map(|name| prop::option::weighted(0.8, any_service(name)));
    each.prop_map(|services| services.into_iter().flatten().collect())
}

fn described(services: &[Model]) -> Described<'_> {
    let services = services.iter().map(|model| DescribedService {
        name: model.name,
        origin: "",
        methods: model.methods.clone(),
        rule: model.rule.as_ref(),
    });
    Described {
        services: services.collect(),
        ..Described::default()
    }
}

/// May a caller of the old build call the new one as before?
fn goes_on(old: &Model, new: Option<&Model>) -> bool {
    let Some(new) = new else { return false };
    let methods: BTreeSet<_> = new.methods.iter().collect();
    let all_there = old.methods.iter().all(|method| methods.contains(method));
    let Some(rule) = &old.rule else {
        return all_there;
    };
    let Some(after) = &new.rule else { return false };
    let again = |rule: &Rule| -> BTreeSet<String> {
        let methods = rule.methods.iter().filter(|method| method.idempotent);
        methods.map(|method| method.name.to_string()).collect()
    };
    all_there && rule.agreement() == after.agreement() && again(rule).is_subset(&again(after))
}

proptest! {
    #[test]
    fn it_breaks_exactly_where_a_caller_of_the_old_build_could_not_go_on(
        old in any_services(),
        new in any_services(),
    ) {
        let breaks = breaking(&described(&old), &described(&new));
        for before in &old {
            let after = new.iter().find(|after| after.name == before.name);
            let broken = breaks.iter().any(|found| found.subject == before.name);
            prop_assert_eq!(broken, !goes_on(before, after), "{:?}\n{:?}", before, after);
        }
        let known = |found: &Break| old.iter().any(|before| before.name == found.subject);
        prop_assert!(breaks.iter().all(known));
        prop_assert_eq!(breaking(&described(&old), &described(&old)), []);
    }

    #[test]
    fn agreement_that_differs_is_named_and_only_then(
        old in any_service("a.A"),
        new in any_service("a.A"),
    ) {
        let [before, after] = [&old, &new].map(std::slice::from_ref);
        let breaks = breaking(&described(before), &described(after));
        let moved = |found: &Break| matches!(
            found.what,
            What::ClassMoved(..) | What::LaneMoved(..) | What::SecureAdded | What::SecureDropped
        );
        let (Some(old), Some(new)) = (old.rule, new.rule) else {
            prop_assert!(!breaks.iter().any(moved));
            return Ok(());
        };
        prop_assert_eq!(breaks.iter().any(moved), old.agreement() != new.agreement());
        let same = Rule::digest([&old]) == Rule::digest([&new]);
        prop_assert_eq!(breaks.iter().any(moved), !same);
    }
}
