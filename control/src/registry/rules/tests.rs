//! The book of applied rules: whoever follows its changes ends with the same rules, also if what
//! was taken back long ago is forgotten.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::registry::fixtures::{network, pushed, service};

/// What a session holds that is told what changed after `since`, or all.
fn follow(held: &mut BTreeMap<ServiceName, u64>, book: &RuleBook, since: u64) {
    let network = network();
    if since < book.floor() {
        held.clear();
    }
    let told = book.services(&network);
    let told = told.filter(|(_, version)| since < book.floor() || *version > since);
    for (service, _) in told {
        match book.get(&network, service) {
            Some(rule) => held.insert(service.clone(), rule.version),
            None => held.remove(service),
        };
    }
}

fn all(book: &RuleBook) -> BTreeMap<ServiceName, u64> {
    let named = |rule: &Arc<PushedRule>| (service(&rule.rule.service), rule.version);
    book.of(&network()).map(named).collect()
}

proptest! {
    #[test]
    fn changes_add_up_to_the_book_and_survive_a_store(
        edits in prop::collection::vec((0_u8..6, prop::option::of(1_u64..4), any::<bool>()), 0..60),
    ) {
        let mut book = RuleBook::default();
        let (mut held, mut since) = (BTreeMap::new(), 0);
        for (version, (number, seconds, look)) in (1..).zip(edits) {
            let name = format!("a.S{number}");
            let rule = seconds.map(|seconds| Arc::new(pushed(&name, seconds)));
            let before = book.get(&network(), &service(&name)).cloned();
            let changed = book.change(&network(), &service(&name), version, rule.as_ref());
            let says = |rule: &Option<Arc<PushedRule>>| rule.as_ref().map(|it| it.rule.timeout);
            prop_assert_eq!(changed, says(&before) != says(&rule));
            if look {
                follow(&mut held, &book, since);
                since = version;
                prop_assert_eq!(&held, &all(&book));
            }
        }
        prop_assert_eq!(book.count(), all(&book).len());
        let bytes = book.rules().map(|(_, rule)| rule.to_bytes().len());
        prop_assert_eq!(book.bytes(), bytes.sum::<usize>());
        let loaded = RuleBook::load(book.since(0), book.floor(), 1_000);
        prop_assert_eq!(all(&loaded), all(&book));
        prop_assert_eq!((loaded.count(), loaded.bytes()), (book.count(), book.bytes()));
        prop_assert_eq!(loaded.newest(), book.newest());
    }
}

#[test]
fn a_rule_has_the_version_that_brought_it() {
    let mut book = RuleBook::default();
    let (network, name) = (network(), service("a.A"));
    let rule = Arc::new(pushed("a.A", 1));
    assert!(book.change(&network, &name, 7, Some(&rule)));
    assert!(!book.change(&network, &name, 8, Some(&rule)));
    assert_eq!(book.get(&network, &name).unwrap().version, 7);
    assert_eq!((book.changed(&network, &name), book.newest()), (7, 7));
    assert!(book.change(&network, &name, 9, None));
    assert!(!book.change(&network, &name, 10, None));
    assert!(book.may_be_removed(&network, &name));
    assert!(!book.may_be_removed(&network, &service("b.B")));
    assert_eq!((book.count(), book.bytes()), (0, 0));
}

#[test]
fn what_came_to_the_disk_and_no_further_has_the_version_of_the_start() {
    let applied = |name: &str, version, rule| AppliedRule {
        network: network(),
        service: service(name),
        version,
        rule,
    };
    let rule = || Some(Arc::new(pushed("a.A", 1)));
    let book = RuleBook::load(
        [
            applied("a.A", 0, rule()),
            applied("b.B", 0, None),
            applied("c.C", 5, None),
        ],
        0,
        20,
    );
    let network = network();
    assert_eq!(book.get(&network, &service("a.A")).unwrap().version, 20);
    assert_eq!(book.changed(&network, &service("b.B")), 20);
    let mut since: Vec<_> = book.since(20).map(|rule| rule.service).collect();
    since.sort();
    assert_eq!(since, [service("a.A"), service("b.B")]);
}

#[test]
fn past_the_bound_the_oldest_removals_are_forgotten_and_old_sessions_are_told_all() {
    let mut book = RuleBook::default();
    let network = network();
    let mut version = 0;
    for number in 0..=REMOVED_LIMIT {
        let name = service(&format!("a.S{number}"));
        for rule in [Some(Arc::new(pushed(name.as_str(), 1))), None] {
            version += 1;
            book.change(&network, &name, version, rule.as_ref());
        }
    }
    assert!(book.floor() > 0 && book.floor() < version);
    assert_eq!(book.services(&network).count(), REMOVED_LIMIT * 7 / 8);
    assert!(book.may_be_removed(&network, &service("a.S0")));
    let (known, _) = book.services(&network).next().unwrap();
    assert!(book.changed(&network, known) > book.floor());
}
