//! Tables of made-up services with names as people give them.

use std::borrow::Cow;

use sidelane::routing::{ConnectionClass, Lane, MethodRule, RouteTable, Rule, rule};

/// Methods of each service.
pub(crate) const METHODS: usize = 10;

const TEAMS: [&str; 7] = [
    "shop", "billing", "search", "media", "people", "fleet", "risk",
];
const KINDS: [&str; 4] = ["Order", "Account", "Inventory", "Session"];
const VERBS: [&str; 5] = ["Get", "List", "Create", "Update", "Watch"];

/// Rules of so many services. They are never freed: a route table is made of constants.
pub(crate) fn rules(count: usize) -> &'static [Rule] {
    let class = ConnectionClass::Internal;
    let rules = (0..count).map(|index| Rule {
        service: Cow::Owned(format!(
            "acme.{}.v1.{}Service{index}",
            TEAMS[index % TEAMS.len()],
            KINDS[index % KINDS.len()]
        )),
        methods: (0..METHODS)
            .map(|method| MethodRule {
                name: Cow::Owned(format!("{}Entry{method}", VERBS[method % VERBS.len()])),
                ..MethodRule::unary("")
            })
            .collect(),
        ..rule("", class, Lane::GENERAL, &[], "made up")
    });
    Vec::leak(rules.collect())
}

/// A table of them.
pub(crate) fn table(rules: &'static [Rule]) -> RouteTable {
    RouteTable::new(rules)
}

/// Every path of every method.
pub(crate) fn paths(rules: &[Rule]) -> Vec<String> {
    let of = |rule: &Rule| -> Vec<String> {
        let methods = rule.methods.iter();
        methods
            .map(|method| format!("/{}/{}", rule.service, method.name))
            .collect()
    };
    rules.iter().flat_map(of).collect()
}
