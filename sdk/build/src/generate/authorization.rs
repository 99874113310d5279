//! Who may call, as Rust code.

use std::borrow::Cow;

use sidelane_proto::model::{Allow, Authorization};

use super::names::Places;
use super::routes::some;
use crate::rules::RuleSet;

const ROUTING: &str = "::sidelane::routing";
const COW: &str = "::std::borrow::Cow::Borrowed";

/// An expression that can stand in a constant, in the code of `package`.
pub(super) fn code(
    authorization: &Authorization,
    package: &str,
    rules: &RuleSet,
    places: &Places<'_>,
) -> String {
    let entries = authorization.allow.iter();
    let entries: Vec<_> = entries
        .map(|entry| allow(entry, package, rules, places))
        .collect();
    format!(
        "{{
        const ALLOW: &[{ROUTING}::Allow] = &[{}];
        {ROUTING}::Authorization {{ allow: {COW}(ALLOW), dry_run: {} }}
    }}",
        entries.join(", "),
        authorization.dry_run
    )
}

fn allow(allow: &Allow, package: &str, rules: &RuleSet, places: &Places<'_>) -> String {
    let Allow {
        anyone,
        identity,
        namespace,
        trust_domain,
        prefix,
        class,
        lane,
    } = allow;
    let text = |text: &Option<Cow<'static, str>>| {
        option(text.as_ref().map(|text| format!("{COW}({text:?})")))
    };
    let class = class.map(|class| {
        let class = places.class(rules, package, class);
        format!("<{class} as {ROUTING}::ConnectionMarker>::CLASS")
    });
    let lane = lane.map(|lane| {
        let lane = places.lane(rules, package, lane);
        format!("<{lane} as {ROUTING}::LaneMarker>::LANE")
    });
    format!(
        "{ROUTING}::Allow {{ anyone: {anyone}, identity: {}, namespace: {}, trust_domain: {}, \
         prefix: {}, class: {}, lane: {} }}",
        text(identity),
        text(namespace),
        text(trust_domain),
        text(prefix),
        option(class),
        option(lane),
    )
}

fn option(value: Option<String>) -> String {
    value.map_or_else(|| "::core::option::Option::None".to_owned(), |it| some(&it))
}
