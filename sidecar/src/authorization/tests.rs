use std::borrow::Cow;

use proptest::prelude::*;
use sidelane_proto::model::{MethodRule, PushedRule, Rule};

use super::*;

const SHOP: &[Allow] = &[Allow::namespace("shop")];
const CART: &[Allow] = &[Allow::identity("spiffe://a/ns/shop/sa/cart")];
const ANYONE: &[Allow] = &[Allow::ANYONE];
const INTERNAL: ConnectionClass = ConnectionClass::Internal;

fn rule(of_service: Option<&'static [Allow]>, of_get: Option<&'static [Allow]>, at: &str) -> Rule {
    Rule {
        authorization: of_service.map(Authorization::of),
        methods: Cow::Owned(vec![MethodRule {
            authorization: of_get.map(Authorization::of),
            ..MethodRule::unary("Get")
        }]),
        origin: Cow::Owned(at.to_owned()),
        ..Rule::new("a.A", INTERNAL, Lane::GENERAL, &[], "")
    }
}

fn said(compiled: Option<Rule>, pushed: Option<Rule>, offered: Option<Rule>) -> Said {
    Said {
        compiled: compiled.map(Arc::new),
        pushed: pushed.map(|rule| PushedRule {
            rule: rule.into(),
            tuning_only: true,
            version: 7,
        }),
        offered: offered.map(Arc::new),
    }
}

fn permitted(said: &Said, here: bool) -> Option<Arc<Permitted>> {
    Permitted::under(said, here, || {
        Arc::new(AuthorizationCounters::new(Arc::default()))
    })
}

/// The verdict on a call of this method by this service account of `spiffe://a`, and whose word it is.
fn verdict(permitted: &Permitted, account: &str, method: &str) -> (&'static str, String) {
    let id = SpiffeId::new(&format!("spiffe://a/ns/{account}")).unwrap();
    let asked = Asked {
        identity: Some(&id),
        node: &NodeId::new("caller").unwrap(),
        callee: Some(&id),
        service: "a.A",
        method,
        class: INTERNAL,
        lane: Lane::GENERAL,
    };
    let verdict = permitted.judge(&asked);
    (verdict.word(), verdict.origin.to_owned())
}

#[test]
fn where_nobody_says_anything_a_call_asks_nothing() {
    assert!(permitted(&Said::default(), true).is_none());
    let silent = rule(None, None, "a.proto:1");
    let all = said(Some(silent.clone()), Some(silent.clone()), Some(silent));
    assert!(permitted(&all, true).is_none());
}

#[test]
fn what_is_applied_comes_before_what_is_compiled_in() {
    let compiled = || rule(Some(SHOP), Some(CART), "a.proto:1");
    let pushed = rule(Some(ANYONE), None, "rules.yaml:2");
    let both = permitted(&said(Some(compiled()), Some(pushed), None), true).unwrap();
    let by_push = "pushed rule, version 7, rules.yaml:2".to_owned();
    let by_build = "compiled a.proto:1".to_owned();
    assert_eq!(verdict(&both, "x/sa/y", "Put"), ("allowed", by_push));
    // The method's own list is nobody's to change but who speaks of the method.
    let own = verdict(&both, "shop/sa/other", "Get");
    assert_eq!(own, ("denied", by_build.clone()));
    let alone = permitted(&said(Some(compiled()), None, None), true).unwrap();
    assert_eq!(
        verdict(&alone, "x/sa/y", "Put"),
        ("denied", by_build.clone())
    );
    assert_eq!(
        verdict(&alone, "shop/sa/cart", "Get"),
        ("allowed", by_build)
    );
}

#[test]
fn what_others_offer_neither_opens_nor_closes_a_door_here() {
    let offered = || rule(Some(ANYONE), Some(ANYONE), "theirs.proto:1");
    assert!(permitted(&said(None, None, Some(offered())), true).is_none());
    let compiled = rule(Some(SHOP), None, "a.proto:1");
    let both = permitted(&said(Some(compiled), None, Some(offered())), true).unwrap();
    assert_eq!(verdict(&both, "x/sa/y", "Get").0, "denied");
    // To explain a call to others it is all that is known.
    let known = permitted(&said(None, None, Some(offered())), false).unwrap();
    let theirs = "offered theirs.proto:1".to_owned();
    assert_eq!(verdict(&known, "x/sa/y", "Get"), ("allowed", theirs));
}

#[test]
fn a_method_without_a_list_is_nobodys_where_others_have_one() {
    let own = rule(None, Some(ANYONE), "a.proto:1");
    let listed = permitted(&said(Some(own.clone()), None, None), true).unwrap();
    assert_eq!(verdict(&listed, "shop/sa/cart", "Get").0, "allowed");
    assert_eq!(verdict(&listed, "shop/sa/cart", "Put").0, "denied");
    assert_eq!(listed.list("Put"), (None, "compiled a.proto:1", false));
    let mut dry = own;
    let list = &mut dry.methods.to_mut()[0].authorization;
    *list = list.take().map(Authorization::dry_run);
    let dry = permitted(&said(Some(dry), None, None), true).unwrap();
    assert_eq!(verdict(&dry, "shop/sa/cart", "Put").0, "would be denied");
}

/// What a rule that names this identity is refused for.
fn refused(text: String) -> Option<String> {
    let allow = Allow {
        identity: Some(Cow::Owned(text)),
        ..Allow::NOTHING_SAID
    };
    let list = Authorization {
        allow: Cow::Owned(vec![allow]),
        dry_run: false,
    };
    let rule = Rule {
        authorization: Some(list),
        ..Rule::new("a.A", INTERNAL, Lane::GENERAL, &[], "")
    };
    rule.check().err().map(|error| error.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Rules take the ids that certificates can have, and no others; a whole trust domain is said by
    /// a field of its own.
    #[test]
    fn rules_and_certificates_know_the_same_ids(
        text in "(spiffe|Spiffe|http)://[a-zA._:-]{0,3}((/[a.]{0,3}){0,3}|/ns/[a-b%]{1,2}/sa/[a-b]{0,2})",
    ) {
        let id = SpiffeId::new(&text).ok().filter(|id| !id.path().is_empty());
        let refused = refused(text.clone());
        prop_assert_eq!(refused.is_none(), id.is_some(), "{}: {:?}", text, refused);
    }
}
