//! Rules from the wire: what is taken obeys the one check, is written as it was read, and stands
//! beside itself.

use prost::Message;
use sidelane_proto::model::breaking::{Described, DescribedService, breaking};
use sidelane_proto::model::{PushedRule, Rule};
use sidelane_proto::wire::routing::v1 as wire;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "rules",
    run,
    seeds,
};

fn run(data: &[u8]) {
    if let Ok(pushed) = PushedRule::from_bytes(data) {
        holds(&pushed);
    }
    let Ok(rule) = wire::Rule::decode(data) else {
        return;
    };
    if let Ok(rule) = Rule::try_from(rule) {
        sound(&rule);
    }
}

/// What holds of every rule that was taken.
pub(crate) fn holds(pushed: &PushedRule) {
    sound(&pushed.rule);
    let again = PushedRule::from_bytes(&pushed.to_bytes()).expect("what was written");
    assert_eq!(&again, pushed);
    let compiled = pushed.beside(&pushed.rule, true);
    assert_eq!(compiled, *pushed.rule, "beside itself it changes nothing");
    pushed
        .check_against(&pushed.rule)
        .expect("it moves nothing");
    let base = pushed.beside(&other(), false);
    assert_eq!(pushed.beside(&base, false), base, "once is enough");
}

fn sound(rule: &Rule) {
    rule.check().expect("it was checked");
    assert!(rule.class.allows(rule.lane));
    let described = Described {
        services: vec![DescribedService {
            name: &rule.service,
            origin: "",
            methods: rule.methods.iter().map(|method| &*method.name).collect(),
            rule: Some(rule),
        }],
        ..Described::default()
    };
    let breaks = breaking(&described, &described);
    assert!(breaks.is_empty(), "it breaks itself: {breaks:?}");
}

/// The default rule, of some service.
fn other() -> Rule {
    Rule::default_for(&"shop.v1.Other".parse().expect("a name"))
}

fn seeds() -> Vec<Vec<u8>> {
    crate::yaml::rules()
        .iter()
        .map(Message::encode_to_vec)
        .collect()
}
