//! Who may call, as it is written, checked and decided.

use std::fmt;

use super::*;
use crate::model::authorization::ENTRIES_LIMIT;
use crate::model::{Allow, Approach, Authorization, Holds};

const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";
const CALLEE: &str = "spiffe://mesh.example/ns/shop/sa/orders";
const INTERNAL: ConnectionClass = ConnectionClass::Internal;
const EXTERNAL: ConnectionClass = ConnectionClass::External;

/// Few enough that entries and callers meet.
const IDS: [&str; 8] = [
    CART,
    "spiffe://mesh.example/ns/shop/sa/cart-2",
    "spiffe://mesh.example/ns/shop/sa/cart/deep",
    "spiffe://mesh.example/ns/shopping/sa/cart",
    "spiffe://mesh.example/job/7",
    "spiffe://mesh.example.org/ns/shop/sa/cart",
    "spiffe://other/ns/shop/sa/cart",
    "spiffe://other/ns/billing/sa/cart",
];
const PREFIXES: [&str; 6] = [
    "spiffe://mesh.example/",
    "spiffe://mesh.example/ns/shop/",
    "spiffe://mesh.example/ns/shop/sa/cart",
    "spiffe://mesh.example/job/",
    "spiffe://other/ns/",
    "spiffe://other/ns/shop/sa/c",
];

fn chosen<T: Clone + fmt::Debug + 'static>(
    from: &[T],
) -> impl Strategy<Value = Option<T>> + use<T> {
    prop::option::weighted(0.35, prop::sample::select(from.to_vec()))
}

prop_compose! {
    fn any_allow()(
        identity in chosen(&IDS),
        namespace in chosen(&["shop", "shopping", "billing"]),
        trust_domain in chosen(&["mesh.example", "other"]),
        prefix in chosen(&PREFIXES),
        class in chosen(&[INTERNAL, EXTERNAL]),
        lane in chosen(&[Lane::GENERAL, Lane::GOSSIP]),
    ) -> Allow {
        let text = |text: Option<&'static str>| text.map(Cow::Borrowed);
        let [identity, namespace, trust_domain, prefix] =
            [identity, namespace, trust_domain, prefix].map(text);
        let who = [&identity, &namespace, &trust_domain, &prefix];
        let anyone = who.iter().all(|it| it.is_none());
        Allow { anyone, identity, namespace, trust_domain, prefix, class, lane }
    }
}

prop_compose! {
    pub(super) fn any_authorization()(
        allow in prop::collection::vec(any_allow(), 1..6),
        dry_run: bool,
    ) -> Authorization {
        Authorization { allow: Cow::Owned(allow), dry_run }
    }
}

prop_compose! {
    fn any_approach()(
        identity in prop::option::weighted(0.9, prop::sample::select(IDS.to_vec())),
        callee in prop::sample::select(vec![None, Some(CALLEE), Some("spiffe://other/ns/a/sa/b")]),
        class in prop::sample::select(vec![INTERNAL, EXTERNAL]),
        lane in prop::sample::select(vec![Lane::GENERAL, Lane::GOSSIP]),
    ) -> Approach<'static> {
        Approach { identity, callee, class, lane }
    }
}

fn from(identity: &str) -> Approach<'_> {
    Approach {
        identity: Some(identity),
        callee: Some(CALLEE),
        class: INTERNAL,
        lane: Lane::GENERAL,
    }
}

#[test]
fn each_operator_fits_what_it_says_and_nothing_beside_it() {
    let other = |allow: Allow, domain| Allow {
        trust_domain: Some(Cow::Borrowed(domain)),
        ..allow
    };
    // Which of `IDS` fit.
    let cases: [(Allow, &[usize]); 14] = [
        (Allow::ANYONE, &[0, 1, 2, 3, 4, 5, 6, 7]),
        (Allow::identity(CART), &[0]),
        (Allow::identity(IDS[4]), &[4]),
        (Allow::namespace("shop"), &[0, 1]),
        (Allow::namespace("billing"), &[]),
        (other(Allow::namespace("billing"), "other"), &[7]),
        (other(Allow::namespace("shop"), "mesh.example"), &[0, 1]),
        (Allow::trust_domain("mesh.example"), &[0, 1, 2, 3, 4]),
        (Allow::trust_domain("other"), &[6, 7]),
        (Allow::prefix("spiffe://mesh.example/"), &[0, 1, 2, 3, 4]),
        (Allow::prefix("spiffe://mesh.example/ns/shop/"), &[0, 1, 2]),
        (Allow::prefix(CART), &[0, 1, 2]),
        (
            other(Allow::prefix("spiffe://other/ns/"), "mesh.example"),
            &[],
        ),
        (other(Allow::identity(CART), "other"), &[]),
    ];
    for (allow, fitting) in cases {
        let fits = |place: &usize| allow.fits(&from(IDS[*place]));
        let found: Vec<usize> = (0..IDS.len()).filter(fits).collect();
        assert_eq!(found, fitting, "{allow}");
        let unknown = Approach {
            identity: None,
            ..from(CART)
        };
        assert_eq!(allow.fits(&unknown), allow == Allow::ANYONE, "{allow}");
    }
}

#[test]
fn the_way_is_asked_beside_who_calls() {
    let gossip = Allow {
        lane: Some(Lane::GOSSIP),
        ..Allow::identity(CART)
    };
    let external = Allow {
        class: Some(EXTERNAL),
        ..Allow::ANYONE
    };
    let by = |class, lane, identity| Approach {
        class,
        lane,
        identity,
        callee: None,
    };
    assert!(gossip.fits(&by(INTERNAL, Lane::GOSSIP, Some(CART))));
    assert!(!gossip.fits(&by(INTERNAL, Lane::GENERAL, Some(CART))));
    assert!(!gossip.fits(&by(INTERNAL, Lane::GOSSIP, Some(CALLEE))));
    assert!(external.fits(&by(EXTERNAL, Lane::GENERAL, None)));
    assert!(!external.fits(&by(INTERNAL, Lane::GENERAL, Some(CART))));
    // Whoever does not know who he is knows no namespace of his own.
    let home = by(INTERNAL, Lane::GENERAL, Some(CART));
    assert!(!Allow::namespace("shop").fits(&home));
}

fn read(entries: Vec<routing::Allow>) -> Result<Rule, FieldError> {
    let mut rule = wire_rule();
    rule.authorization = Some(routing::Authorization {
        allow: entries,
        dry_run: false,
    });
    Rule::try_from(rule)
}

fn entry(change: impl FnOnce(&mut routing::Allow)) -> routing::Allow {
    let mut allow = routing::Allow::default();
    change(&mut allow);
    allow
}

#[test]
fn what_cannot_be_is_refused_with_its_path() {
    let who = |field: fn(&mut routing::Allow) -> &mut String, text: &str| {
        entry(|allow| text.clone_into(field(allow)))
    };
    let identity = |text| who(|allow| &mut allow.identity, text);
    let prefix = |text| who(|allow| &mut allow.prefix, text);
    let domain = |text| who(|allow| &mut allow.trust_domain, text);
    let namespace = |text| who(|allow| &mut allow.namespace, text);
    let long = "a".repeat(256);
    let cases = [
        (entry(|_| ()), "anyone is missing, and the entry says"),
        (
            entry(|allow| (allow.anyone, allow.namespace) = (true, "shop".to_owned())),
            "anyone is said beside who may call",
        ),
        (identity("orders"), "identity is no SPIFFE id such as"),
        (identity("spiffe://"), "identity has no trust domain"),
        (
            identity("spiffe:///ns/a/sa/b"),
            "identity has no trust domain",
        ),
        (
            identity("spiffe://Mesh/ns/a/sa/b"),
            "identity has no trust domain",
        ),
        (
            identity("spiffe://mesh.example"),
            "identity names a whole trust domain",
        ),
        (
            identity("spiffe://mesh.example/"),
            "identity has a path that no",
        ),
        (
            identity("spiffe://mesh.example/ns//sa/b"),
            "identity has a path that no",
        ),
        (
            identity("spiffe://mesh.example/ns/../sa/b"),
            "identity has a path that no",
        ),
        (
            identity("spiffe://mesh.example/ns/*"),
            "identity has a path that no",
        ),
        (namespace("shop/sa"), "namespace is no namespace"),
        (namespace("*"), "namespace is no namespace"),
        (
            domain("spiffe://mesh.example"),
            "trust_domain is no trust domain",
        ),
        (domain(&long), "trust_domain is no trust domain"),
        (
            prefix("mesh.example/"),
            "prefix is no beginning of a SPIFFE id",
        ),
        (
            prefix("spiffe://mesh.ex"),
            "prefix ends within the trust domain",
        ),
        (
            prefix("spiffe://mesh.example"),
            "prefix ends within the trust domain",
        ),
        (prefix("spiffe:///"), "prefix has no trust domain"),
        (
            prefix("spiffe://mesh.example/ns/sh"),
            "prefix ends within a namespace",
        ),
        (
            prefix("spiffe://mesh.example/ns//"),
            "prefix has a path that no",
        ),
        (
            prefix("spiffe://mesh.example/ns/a/*"),
            "prefix has a path that no",
        ),
        (
            entry(|allow| allow.connection = 9),
            "connection 9 is not a known connection class",
        ),
        (
            entry(|allow| "partnr".clone_into(&mut allow.connection_custom)),
            "connection_custom `partnr` is not a known connection class of one's own",
        ),
        (
            entry(|allow| "genral".clone_into(&mut allow.lane)),
            "lane `genral` is not a known lane; did you mean `general`?",
        ),
    ];
    for (wrong, says) in cases {
        let error = read(vec![identity(CART), wrong]).unwrap_err().to_string();
        let begins = format!("authorization.allow[1].{says}");
        assert!(error.starts_with(&begins), "{error}\nwanted {begins}");
    }
    let none = read(vec![]).unwrap_err().to_string();
    assert!(
        none.starts_with("authorization.allow names nobody"),
        "{none}"
    );
    let many = vec![identity(CART); ENTRIES_LIMIT + 1];
    let many = read(many).unwrap_err().to_string();
    assert_eq!(
        many,
        "authorization.allow has 65 entries, at most 64 are allowed"
    );
    assert!(read(vec![identity(CART); ENTRIES_LIMIT]).is_ok());
    for good in PREFIXES {
        assert!(read(vec![prefix(good)]).is_ok(), "{good}");
    }
}

#[test]
fn a_methods_flaw_is_told_at_the_method() {
    let mut rule = wire_rule();
    rule.methods = vec![routing::Method {
        name: "Get".to_owned(),
        authorization: Some(routing::Authorization::default()),
        ..Default::default()
    }];
    let error = Rule::try_from(rule).unwrap_err();
    assert_eq!(error.path, "methods[0].authorization.allow");
}

#[test]
fn rules_in_rust_are_refused_for_the_same() {
    let rule = |authorization| Rule {
        authorization: Some(authorization),
        ..Rule::new("a.A", INTERNAL, Lane::GENERAL, &[], "")
    };
    let prefix = const { &[Allow::ANYONE, Allow::prefix("spiffe://mesh")] };
    let path = |authorization| rule(authorization).check().unwrap_err().path;
    assert_eq!(
        path(Authorization::of(prefix)),
        "authorization.allow.prefix"
    );
    assert_eq!(path(Authorization::of(&[])), "authorization.allow");
    let many = Authorization {
        allow: Cow::Owned(vec![Allow::ANYONE; ENTRIES_LIMIT + 1]),
        dry_run: true,
    };
    assert_eq!(path(many), "authorization.allow");
    let method = MethodRule::unary("Get").with_authorization(Authorization::of(prefix));
    let rule = Rule {
        methods: Cow::Owned(vec![method]),
        ..Rule::new("a.A", INTERNAL, Lane::GENERAL, &[], "")
    };
    let path = rule.check().unwrap_err().path;
    assert_eq!(path, "methods[0].authorization.allow.prefix");
}

#[test]
fn a_methods_list_stands_instead_of_its_services() {
    const OF_SERVICE: &[Allow] = &[Allow::namespace("shop")];
    const OF_METHOD: &[Allow] = &[Allow::identity(CART)];
    let (service, own) = (Authorization::of(OF_SERVICE), Authorization::of(OF_METHOD));
    let rule = |of_service: Option<&Authorization>, of_put: Option<&Authorization>| Rule {
        authorization: of_service.cloned(),
        methods: Cow::Owned(vec![MethodRule {
            authorization: of_put.cloned(),
            ..MethodRule::unary("Put")
        }]),
        ..Rule::new("a.A", INTERNAL, Lane::GENERAL, &[], "")
    };
    let both = rule(Some(&service), Some(&own));
    assert_eq!(Holds::of(&both, "Put"), Holds::List(&own));
    assert_eq!(Holds::of(&both, "Get"), Holds::List(&service));
    let alone = rule(None, Some(&own));
    assert_eq!(Holds::of(&alone, "Put"), Holds::List(&own));
    assert_eq!(Holds::of(&alone, "Get"), Holds::Nobody);
    let dry = own.clone().dry_run();
    assert_eq!(Holds::of(&rule(None, Some(&dry)), "Get"), Holds::Nothing);
    assert_eq!(Holds::of(&rule(None, None), "Put"), Holds::Nothing);
}

#[test]
fn a_pushed_list_replaces_a_compiled_one_whole() {
    const COMPILED: &[Allow] = &[Allow::namespace("shop")];
    const PUSHED: &[Allow] = &[Allow::identity(CART)];
    let of = |list, methods| Rule {
        authorization: Some(Authorization::of(list)),
        methods,
        ..Rule::new("a.A", INTERNAL, Lane::GENERAL, &[], "")
    };
    let own = MethodRule::unary("Get").with_authorization(Authorization::of(COMPILED));
    let base = of(COMPILED, Cow::Owned(vec![own.clone()]));
    let pushed = |rule: Rule| PushedRule {
        rule: rule.into(),
        tuning_only: true,
        version: 1,
    };
    for compiled in [true, false] {
        let held = pushed(of(PUSHED, Cow::Borrowed(&[]))).beside(&base, compiled);
        assert_eq!(held.authorization, Some(Authorization::of(PUSHED)));
        // What it does not speak of stays.
        assert_eq!(held.methods[0].authorization, own.authorization);
        let silent = Rule::new("a.A", INTERNAL, Lane::GENERAL, &[], "");
        let held = pushed(silent).beside(&base, compiled);
        assert_eq!(held.authorization, base.authorization);
        let get = MethodRule::unary("Get").with_authorization(Authorization::of(PUSHED));
        let held = pushed(of(PUSHED, Cow::Owned(vec![get]))).beside(&base, compiled);
        assert_eq!(
            held.methods[0].authorization,
            Some(Authorization::of(PUSHED))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn one_more_entry_never_keeps_out_who_came_in(
        list in any_authorization(),
        more in any_allow(),
        place in 0_usize..6,
        approach in any_approach(),
    ) {
        let mut longer = list.clone();
        let place = place.min(longer.allow.len());
        longer.allow.to_mut().insert(place, more);
        if list.fitted(&approach).is_some() {
            prop_assert!(longer.fitted(&approach).is_some());
        }
    }

    #[test]
    fn what_is_covered_fits_wherever_the_narrower_does(
        wide in any_allow(),
        narrow in any_allow(),
        approach in any_approach(),
    ) {
        prop_assert!(wide.covers(&wide));
        if wide.covers(&narrow) && narrow.fits(&approach) {
            prop_assert!(wide.fits(&approach), "{wide} covers {narrow}");
        }
    }

    #[test]
    fn what_widens_nothing_lets_nobody_more_in(
        old in prop::option::of(any_authorization()),
        new in prop::option::of(any_authorization()),
        of_old in prop::option::of(any_authorization()),
        of_new in prop::option::of(any_authorization()),
        approach in any_approach(),
    ) {
        let rule = |authorization: &Option<Authorization>, own: &Option<Authorization>| Rule {
            authorization: authorization.clone(),
            methods: Cow::Owned(vec![MethodRule {
                authorization: own.clone(),
                ..MethodRule::unary("Put")
            }]),
            ..Rule::new("a.A", INTERNAL, Lane::GENERAL, &[], "")
        };
        let (old, new) = (rule(&old, &of_old), rule(&new, &of_new));
        for method in ["Get", "Put"] {
            let comes_in = |rule| match Holds::of(rule, method) {
                Holds::Nothing => true,
                Holds::Nobody => false,
                Holds::List(list) => list.dry_run || list.fitted(&approach).is_some(),
            };
            let widens = Holds::of(&new, method).widens(Holds::of(&old, method));
            if widens.is_none() && comes_in(&new) {
                prop_assert!(comes_in(&old), "{method}: {old:?} {new:?}");
            }
        }
    }

    #[test]
    fn a_list_survives_the_wire(list in any_authorization()) {
        let mut rule = wire_rule();
        rule.authorization = Some(list.to_wire());
        prop_assert_eq!(Rule::try_from(rule).unwrap().authorization, Some(list));
    }
}
