//! What stands in the way of rules that are right in themselves.

use std::time::Duration;

use sidelane_proto::model::lane::{LaneBounds, LaneDefinition};
use sidelane_proto::model::{MethodRule, Network, NodeId};

use super::*;
use crate::registry::AppliedRule;
use crate::registry::fixtures::{network, offer, pushed, record, service};

fn proposal(rules: Vec<PushedRule>, remove: &[&str]) -> Proposal {
    Proposal {
        network: network(),
        rules,
        remove: remove.iter().map(|&name| name.to_owned()).collect(),
        dry_run: false,
    }
}

fn whole(name: &str, lane: Lane) -> PushedRule {
    let rule = Rule {
        lane,
        ..Rule::default_for(&service(name))
    };
    PushedRule {
        rule: Arc::new(rule),
        tuning_only: false,
        version: 0,
    }
}

fn book(rules: Vec<PushedRule>) -> RuleBook {
    let applied = rules.into_iter().map(|rule| AppliedRule {
        network: network(),
        service: service(&rule.rule.service),
        version: 3,
        rule: Some(Arc::new(rule)),
    });
    RuleBook::load(applied, 0, 3)
}

/// A node that was compiled with this rule.
fn node(name: &str, rule: Rule) -> (Origin, Arc<NodeRecord>) {
    let mut node = record(name, &[]);
    let mut offer = offer(&rule.service);
    offer.rule = Some(Arc::new(rule));
    node.offers = vec![offer];
    (Origin::Registration, Arc::new(node))
}

fn errors(
    proposal: &Proposal,
    book: &RuleBook,
    nodes: &[(Origin, Arc<NodeRecord>)],
) -> Vec<String> {
    let wrong = check(proposal, book, nodes, &[]).err().unwrap_or_default();
    let errors = wrong.iter().map(|refused| refused.error.to_string());
    errors.collect()
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
fn what_a_live_node_was_compiled_with_is_not_moved_and_the_node_is_named() {
    let compiled = Rule {
        methods: vec![MethodRule::unary("Get")].into(),
        origin: "shop.proto:12".into(),
        ..Rule::default_for(&service("a.A"))
    };
    let nodes = [node("n-1", compiled.clone()), node("n-2", compiled)];
    let secure = Rule {
        secure: true,
        ..Rule::default_for(&service("a.A"))
    };
    let secure = PushedRule {
        rule: Arc::new(secure),
        ..whole("a.A", Lane::GENERAL)
    };
    let mut external = whole("a.A", Lane::GENERAL);
    Arc::make_mut(&mut external.rule).class = ConnectionClass::External;
    for (rule, field) in [
        (whole("a.A", Lane::GOSSIP), "lane is compiled in as general"),
        (secure, "secure is compiled in as false"),
        (external, "connection is compiled in as Internal"),
    ] {
        let rules = vec![whole("b.B", Lane::GOSSIP), rule];
        let errors = errors(&proposal(rules, &[]), &book(vec![]), &nodes);
        assert_eq!(errors.len(), 1, "{errors:?}");
        let begin = format!("rules[1].rule.{field} (shop.proto:12)");
        assert!(errors[0].starts_with(&begin), "{}", errors[0]);
        assert!(errors[0].ends_with("(node `default/n-1`)"), "{}", errors[0]);
    }
    let tuned = proposal(vec![pushed("a.A", 2)], &[]);
    assert_eq!(errors(&tuned, &book(vec![]), &nodes), [""; 0]);
}

#[test]
fn nodes_of_another_network_have_no_say() {
    let (origin, mut stranger) = node("n", Rule::default_for(&service("a.A")));
    Arc::make_mut(&mut stranger).key = NodeKey {
        network: Network::new("other").unwrap(),
        node: NodeId::new("n").unwrap(),
    };
    let moved = proposal(vec![whole("a.A", Lane::GOSSIP)], &[]);
    assert_eq!(
        errors(&moved, &book(vec![]), &[(origin, stranger)]),
        [""; 0]
    );
}

#[test]
fn only_what_is_applied_is_taken_back_and_only_once() {
    let book = book(vec![pushed("shop.v1.Orders", 1), pushed("b.B", 1)]);
    let proposal = proposal(
        vec![pushed("b.B", 2)],
        &[
            "shop.v1.Ordres",
            "b.B",
            "shop.v1.Orders",
            "shop.v1.Orders",
            "a b",
        ],
    );
    assert_eq!(
        errors(&proposal, &book, &[]),
        [
            "remove[0] `shop.v1.Ordres` has no applied rule in network `default`; did you mean \
             `shop.v1.Orders`? (`sidelane rules` lists all 2)",
            "remove[1] contradicts another field: `b.B` is given a rule as well: which of both is \
             meant?",
            "remove[3] `shop.v1.Orders` is named twice",
            "remove[4] `a b` is not a gRPC service name such as `shop.v1.Orders`",
        ]
    );
}

#[test]
fn a_lane_that_others_have_is_not_defined_again() {
    let applied = book(vec![whole("a.A", lane(700, "reports", 65_536))]);
    let nodes = [node(
        "n",
        whole("b.B", lane(701, "bulk", 65_536))
            .rule
            .as_ref()
            .clone(),
    )];
    for (id, name, expected) in [
        (
            700,
            "logs",
            "lane_definition.id 700 is taken by lane `reports` of the applied rule of `a.A`; \
             take another id",
        ),
        (
            702,
            "reports",
            "lane_definition.name is taken by lane `reports` of the applied rule of \
             `a.A`; take another name",
        ),
        (
            701,
            "logs",
            "lane_definition.id 701 is taken by lane `bulk` of node `default/n`; take another id",
        ),
    ] {
        let proposal = proposal(vec![whole("c.C", lane(id, name, 65_536))], &[]);
        let errors = errors(&proposal, &applied, &nodes);
        assert_eq!(errors, [format!("rules[0].rule.{expected}")]);
    }
    // Whoever had it gives it up in the same step.
    let moved = proposal(vec![whole("a.A", lane(700, "logs", 65_536))], &[]);
    assert_eq!(errors(&moved, &applied, &[]), [""; 0]);
    let removed = proposal(vec![whole("c.C", lane(700, "logs", 65_536))], &["a.A"]);
    assert_eq!(errors(&removed, &applied, &[]), [""; 0]);
}

#[test]
fn a_lane_that_the_process_knows_keeps_its_figures() {
    let first = proposal(vec![whole("a.A", lane(710, "kept", 65_536))], &[]);
    learn(&first).unwrap();
    assert_eq!(errors(&first, &book(vec![]), &[]), [""; 0]);
    let second = proposal(vec![whole("a.A", lane(710, "kept", 131_072))], &[]);
    let errors = errors(&second, &book(vec![]), &[]);
    assert_eq!(
        errors,
        [
            "rules[0].rule.lane_definition.name lane `kept` is known here with another definition, \
             and sidecars that run may hold it: it is not changed under them; take another id and \
             name"
        ]
    );
}

#[test]
fn the_project_judges_what_would_hold() {
    struct TimeLimits;
    impl Validation for TimeLimits {
        fn name(&self) -> &'static str {
            "time-limits"
        }
        fn check(&self, rule: &Rule) -> Result<(), FieldError> {
            match rule.timeout {
                Some(_) => Ok(()),
                None => Err(FieldError::new("timeout", Problem::Missing)),
            }
        }
    }
    let validations: [Arc<dyn Validation>; 1] = [Arc::new(TimeLimits)];
    let judge = |rule: PushedRule, nodes: &[(Origin, Arc<NodeRecord>)]| {
        let judged = check(
            &proposal(vec![rule], &[]),
            &book(vec![]),
            nodes,
            &validations,
        );
        judged.map_err(|wrong| wrong[0].error.to_string())
    };
    let expected = "rules[0].rule.timeout is missing (validation `time-limits`)";
    let bare = whole("a.A", Lane::GENERAL);
    assert_eq!(judge(bare.clone(), &[]).unwrap_err(), expected);
    assert!(judge(pushed("a.A", 1), &[]).is_ok());
    let compiled = Rule {
        timeout: Some(Duration::from_secs(1)),
        ..Rule::default_for(&service("a.A"))
    };
    assert!(
        judge(bare, &[node("n", compiled)]).is_ok(),
        "beside that, it has one"
    );
}

#[test]
fn what_is_applied_has_bounds() {
    let many = |from: usize, to: usize| -> Vec<PushedRule> {
        (from..to).map(|n| pushed(&format!("a.S{n}"), 1)).collect()
    };
    let full = book(many(0, RULES_LIMIT));
    let one_more = proposal(many(RULES_LIMIT, RULES_LIMIT + 1), &[]);
    assert_eq!(
        errors(&one_more, &full, &[]),
        ["rules is out of bounds: 20001 rules would be applied, and no more than 20000 can be"]
    );
    let exchanged = proposal(many(RULES_LIMIT, RULES_LIMIT + 1), &["a.S0"]);
    assert_eq!(errors(&exchanged, &full, &[]), [""; 0]);
    assert_eq!(errors(&proposal(many(0, 9), &[]), &full, &[]), [""; 0]);

    let large = |n: usize| {
        let mut rule = pushed(&format!("a.S{n}"), 1);
        let methods = (0..1_000).map(|m| MethodRule {
            name: format!("{}{m}", "M".repeat(100)).into(),
            ..MethodRule::unary("M")
        });
        Arc::make_mut(&mut rule.rule).methods = methods.collect();
        rule
    };
    let count = RULES_BYTES_LIMIT / large(0).to_bytes().len();
    let fits = proposal((0..count).map(large).collect(), &[]);
    assert_eq!(errors(&fits, &book(vec![]), &[]), [""; 0]);
    let too_large = proposal((0..=count).map(large).collect(), &[]);
    let errors = errors(&too_large, &book(vec![]), &[]);
    assert!(
        errors[0].starts_with("rules is out of bounds: all rules would have "),
        "{errors:?}"
    );
}
