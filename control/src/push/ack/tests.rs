//! What a session is told next, after each way to answer.

use sidelane_proto::model::NodeId;
use sidelane_proto::wire::control::v1 as wire;

use super::*;
use crate::registry::edition::Editor;
use crate::registry::fixtures::{network, pushed, record, removal, service, upsert};
use crate::registry::{Change, NodeRecord, RuleBook};

/// A registry by hand: each step is a version.
struct World {
    editor: Editor,
    now: Snapshot,
    revision: u64,
}

fn world() -> World {
    World {
        editor: Editor::default(),
        now: Snapshot::start("store".into(), 1, []),
        revision: 0,
    }
}

impl World {
    fn apply(&mut self, change: Change) {
        self.editor.take(change);
        if let Some((next, _)) = self.editor.finish(&self.now).next {
            self.now = next;
        }
    }

    fn up(&mut self, node: &str, services: &[&str]) {
        self.revision += 1;
        self.apply(upsert(record(node, services), self.revision));
    }

    fn drain(&mut self, node: &str, services: &[&str]) {
        self.revision += 1;
        let draining = NodeRecord {
            draining: true,
            ..record(node, services)
        };
        self.apply(upsert(draining, self.revision));
    }

    fn down(&mut self, node: &str) {
        self.revision += 1;
        self.apply(removal(node, 1, self.revision));
    }

    fn session(&self, services: &[&str], held: Option<u64>) -> Progress {
        let held = held.map(|counter| self.version(counter));
        Progress::new(network(), add(services), held.as_ref(), &self.now)
    }

    fn version(&self, counter: u64) -> Version {
        Version {
            store: self.now.store().to_string(),
            counter,
        }
    }

    /// Takes what the session is told, and tells it that.
    fn told(&self, session: &mut Progress) -> Brief {
        let update = session.next(&self.now).expect("something to tell");
        let brief = brief(&update);
        assert!(session.next(&self.now).is_none(), "one update at a time");
        assert!(
            session
                .ack(&self.version(brief.version), Vec::new())
                .is_some()
        );
        brief
    }
}

fn add(services: &[&str]) -> Subscription {
    Subscription {
        add: services.iter().map(|name| service(name)).collect(),
        ..Subscription::default()
    }
}

/// An update, short.
#[derive(Debug, PartialEq, Eq)]
struct Brief {
    version: u64,
    full: bool,
    states: Vec<(String, bool, Vec<String>)>,
    upserts: Vec<String>,
    removals: Vec<String>,
}

fn brief(news: &News) -> Brief {
    let update = wire::Update::from(news);
    let state = |state: &wire::ServiceState| {
        let endpoints = state.endpoints.iter().map(|e| e.node_id.clone());
        (state.service.clone(), state.ever_seen, endpoints.collect())
    };
    Brief {
        version: update.version.as_ref().unwrap().counter,
        full: update.full,
        states: update.services.iter().map(state).collect(),
        upserts: update.upserts.iter().map(|e| e.node_id.clone()).collect(),
        removals: update.removals.iter().map(|r| r.node_id.clone()).collect(),
    }
}

fn state(name: &str, ever_seen: bool, nodes: &[&str]) -> (String, bool, Vec<String>) {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    (name.to_owned(), ever_seen, nodes)
}

#[test]
fn the_first_update_is_full_also_if_there_is_nothing_in_it() {
    let mut world = world();
    world.up("n", &["a.A"]);
    world.down("n");
    let mut session = world.session(&["a.A", "b.B"], None);
    let first = world.told(&mut session);
    assert!(first.full);
    assert_eq!(
        first.states,
        [state("a.A", true, &[]), state("b.B", false, &[])]
    );
    assert!(session.next(&world.now).is_none());
    let mut nothing = world.session(&[], None);
    let first = world.told(&mut nothing);
    assert_eq!((first.full, first.states.len()), (true, 0));
}

#[test]
fn after_that_only_changes_are_told_and_only_those_that_concern_it() {
    let mut world = world();
    world.up("n", &["a.A"]);
    let mut session = world.session(&["a.A"], None);
    world.told(&mut session);
    world.up("stranger", &["b.B"]);
    assert!(session.next(&world.now).is_none());
    assert!(session.has(world.now.counter(), &world.now));
    world.up("m", &["a.A"]);
    world.down("n");
    let update = world.told(&mut session);
    assert_eq!(update.upserts, ["m"]);
    assert_eq!(update.removals, ["n"]);
    assert!(!update.full && update.states.is_empty());
    assert_eq!(update.version, world.now.counter());
}

#[test]
fn a_session_that_does_not_answer_gets_the_newest_state_once() {
    let mut world = world();
    world.up("n", &["a.A"]);
    let mut session = world.session(&["a.A"], None);
    let first = brief(&session.next(&world.now).unwrap());
    for _ in 0..5 {
        world.drain("n", &["a.A"]);
        world.up("n", &["a.A"]);
        world.up("m", &["a.A"]);
        world.down("m");
        assert!(session.next(&world.now).is_none());
    }
    assert!(!session.has(world.now.counter(), &world.now));
    assert!(
        session
            .ack(&world.version(first.version), Vec::new())
            .is_some()
    );
    let newest = world.told(&mut session);
    assert_eq!(newest.version, world.now.counter());
    assert_eq!(newest.upserts, ["n"]);
    assert!(newest.removals.is_empty(), "m came and went unseen");
    assert!(session.next(&world.now).is_none());
}

#[test]
fn after_an_answer_there_is_more_only_if_something_happened_meanwhile() {
    let mut world = world();
    world.up("n", &["a.A"]);
    let mut session = world.session(&["a.A"], None);
    let first = session.next(&world.now).unwrap().counter;
    assert!(session.waits());
    session.ack(&world.version(first), Vec::new()).unwrap();
    assert!(!session.waits() && !session.has_more());
    world.drain("n", &["a.A"]);
    let second = session.next(&world.now).unwrap().counter;
    world.up("m", &["a.A"]);
    assert!(session.next(&world.now).is_none());
    session.ack(&world.version(second), Vec::new()).unwrap();
    assert!(session.has_more());
    assert_eq!(world.told(&mut session).upserts, ["m"]);
    session.subscribe(&add(&["b.B"]), &world.now);
    assert!(session.has_more(), "a new wish is always more");
}

#[test]
fn answers_to_other_versions_count_for_nothing() {
    let mut world = world();
    world.up("n", &["a.A"]);
    let mut session = world.session(&["a.A"], None);
    let first = brief(&session.next(&world.now).unwrap());
    assert!(
        session
            .ack(&world.version(first.version + 1), Vec::new())
            .is_none()
    );
    assert!(!session.nack(&world.version(first.version - 1), "x", "y"));
    assert_eq!(session.acknowledged(), 0);
    assert!(
        session
            .ack(&world.version(first.version), Vec::new())
            .is_some()
    );
    assert!(
        session
            .ack(&world.version(first.version), Vec::new())
            .is_none()
    );
}

#[test]
fn a_resumed_session_gets_what_changed_since() {
    let mut world = world();
    world.up("n", &["a.A"]);
    world.up("m", &["b.B"]);
    let held = world.now.counter();
    world.up("l", &["a.A"]);
    let mut session = world.session(&["a.A", "b.B"], Some(held));
    let first = world.told(&mut session);
    assert_eq!(first.upserts, ["l"]);
    assert!(!first.full && first.states.is_empty());
    let mut current = world.session(&["a.A"], Some(world.now.counter()));
    let first = world.told(&mut current);
    assert!(!first.full && first.upserts.is_empty() && first.states.is_empty());
}

#[test]
fn what_cannot_be_resumed_is_told_in_full() {
    let mut world = world();
    world.up("n", &["a.A"]);
    let mut future = world.session(&["a.A"], Some(world.now.counter() + 1));
    assert!(world.told(&mut future).full);
    let foreign = Version {
        store: "another".to_owned(),
        counter: 1,
    };
    let mut foreign = Progress::new(network(), add(&["a.A"]), Some(&foreign), &world.now);
    assert!(world.told(&mut foreign).full);
    // Held before this process began to count: a state for each service, but not full.
    let mut before = world.session(&["a.A", "b.B"], Some(0));
    let first = world.told(&mut before);
    assert!(!first.full);
    assert_eq!(
        first.states,
        [state("a.A", true, &["n"]), state("b.B", false, &[])]
    );
}

#[test]
fn a_subscription_is_answered_with_the_whole_state() {
    let mut world = world();
    world.up("n", &["a.A", "b.B"]);
    let mut session = world.session(&["a.A"], None);
    world.told(&mut session);
    session.subscribe(&add(&["b.B", "c.C"]), &world.now);
    assert!(!session.has(world.now.counter(), &world.now));
    let update = world.told(&mut session);
    assert_eq!(
        update.states,
        [state("b.B", true, &["n"]), state("c.C", false, &[])]
    );
    // The first endpoint of a service nobody knew: a state, because it is now known as seen.
    world.up("m", &["c.C"]);
    let update = world.told(&mut session);
    assert_eq!(update.states, [state("c.C", true, &["m"])]);
}

#[test]
fn what_is_unsubscribed_is_told_no_more() {
    let mut world = world();
    world.up("n", &["a.A"]);
    let mut session = world.session(&["a.A"], None);
    world.told(&mut session);
    let remove = Subscription {
        remove: vec![service("a.A")],
        ..Subscription::default()
    };
    session.subscribe(&remove, &world.now);
    world.down("n");
    assert!(session.next(&world.now).is_none());
    assert!(!session.wants(&service("a.A")));
}

#[test]
fn asking_again_while_an_update_is_on_its_way_is_answered_again() {
    let mut world = world();
    world.up("n", &["a.A"]);
    let mut session = world.session(&["a.A"], None);
    let first = brief(&session.next(&world.now).unwrap());
    session.subscribe(&add(&["a.A"]), &world.now);
    assert!(
        session
            .ack(&world.version(first.version), Vec::new())
            .is_some()
    );
    assert_eq!(
        world.told(&mut session).states,
        [state("a.A", true, &["n"])]
    );
}

#[test]
fn a_session_that_wants_all_learns_of_services_to_come() {
    let mut world = world();
    world.up("n", &["a.A"]);
    let all = Subscription {
        all: true,
        ..Subscription::default()
    };
    let mut session = Progress::new(network(), all, None, &world.now);
    assert_eq!(
        world.told(&mut session).states,
        [state("a.A", true, &["n"])]
    );
    world.up("m", &["b.B"]);
    assert_eq!(
        world.told(&mut session).states,
        [state("b.B", true, &["m"])]
    );
    world.down("n");
    assert_eq!(world.told(&mut session).removals, ["n"]);
}

#[test]
fn a_refused_update_is_kept_back_until_its_service_changes() {
    let mut world = world();
    world.up("n", &["a.A"]);
    let mut session = world.session(&["a.A"], None);
    world.told(&mut session);
    world.up("m", &["a.A"]);
    let update = brief(&session.next(&world.now).unwrap());
    let field = "upserts[0].addresses.internal";
    assert!(session.nack(&world.version(update.version), field, "is missing"));
    let refused = session.refused().unwrap();
    assert_eq!(
        (refused.version, refused.field.as_str()),
        (update.version, field)
    );
    assert!(session.next(&world.now).is_none(), "not again in a loop");
    assert!(!session.has(world.now.counter(), &world.now));
    world.up("stranger", &["b.B"]);
    assert!(session.next(&world.now).is_none());
    world.down("m");
    let update = world.told(&mut session);
    assert_eq!(update.states, [state("a.A", true, &["n"])]);
    assert_eq!(session.refused(), None);
    assert!(session.has(world.now.counter(), &world.now));
}

#[test]
fn what_else_was_in_a_refused_update_is_told_without_it() {
    let mut world = world();
    let mut session = world.session(&["a.A", "b.B", "c.C"], None);
    world.told(&mut session);
    world.up("n", &["a.A", "b.B", "c.C"]);
    let update = brief(&session.next(&world.now).unwrap());
    assert_eq!(update.states.len(), 3);
    let field = "services[1].endpoints[0].generation";
    assert!(session.nack(&world.version(update.version), field, "is missing"));
    let again = world.told(&mut session);
    let names: Vec<&str> = again
        .states
        .iter()
        .map(|(name, ..)| name.as_str())
        .collect();
    assert_eq!(names, ["a.A", "c.C"]);
    assert!(session.next(&world.now).is_none());
    assert!(session.refused().is_some(), "b.B is still kept back");
}

#[test]
fn a_refusal_that_names_no_service_keeps_back_all_of_the_update() {
    let mut world = world();
    world.up("n", &["a.A", "b.B"]);
    let mut session = world.session(&["a.A", "b.B"], None);
    let update = brief(&session.next(&world.now).unwrap());
    let long = "é".repeat(600);
    assert!(session.nack(&world.version(update.version), "version.counter", &long));
    assert!(session.refused().unwrap().problem.len() <= 512);
    assert!(session.next(&world.now).is_none());
    session.subscribe(&add(&["a.A"]), &world.now);
    let asked = world.told(&mut session);
    assert_eq!(asked.states, [state("a.A", true, &["n"])]);
}

#[test]
fn an_endpoint_of_another_generation_is_removed_by_the_one_that_was_told() {
    let mut world = world();
    world.up("n", &["a.A"]);
    let mut session = world.session(&["a.A"], None);
    world.told(&mut session);
    // A newer generation comes and goes unseen.
    let newer = NodeRecord {
        generation: crate::registry::fixtures::generation(2),
        ..record("n", &["a.A"])
    };
    world.apply(upsert(newer, 100));
    world.apply(removal("n", 2, 101));
    let update = session.next(&world.now).unwrap();
    assert_eq!(update.removals.len(), 1);
    assert_eq!(update.removals[0].generation.number(), 1);
    assert_eq!(update.removals[0].node, NodeId::new("n").unwrap());
}

/// Names of rules that are told, and of those that are taken back.
fn ruled(news: &News) -> (Vec<String>, Vec<String>) {
    let update = wire::Update::from(news);
    let name = |rule: sidelane_proto::wire::routing::v1::PushedRule| rule.rule.unwrap().service;
    let rules = update.rules.into_iter().map(name).collect();
    (rules, update.rules_removed)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

impl World {
    /// Applies a rule of so many seconds, or takes it back.
    fn rule(&mut self, name: &str, seconds: Option<u64>) {
        let rule = seconds.map(|seconds| Arc::new(pushed(name, seconds)));
        self.editor.apply(&network(), [(service(name), rule)]);
        if let Some((next, _)) = self.editor.finish(&self.now).next {
            self.now = next;
        }
    }

    /// Takes the rules that the session is told, and tells it that.
    fn told_rules(&self, session: &mut Progress) -> (Vec<String>, Vec<String>) {
        let news = session.next(&self.now).expect("something to tell");
        let version = self.version(news.counter);
        assert_eq!(session.ack(&version, Vec::new()), Some(0));
        ruled(&news)
    }
}

#[test]
fn rules_are_told_of_what_is_wanted_and_of_what_is_offered() {
    let mut world = world();
    for name in ["wanted.A", "offered.B", "other.C"] {
        world.rule(name, Some(1));
    }
    let mut session = world.session(&["wanted.A"], None);
    session.offer(&[service("offered.B"), service("offered.D")]);
    let first = session.next(&world.now).unwrap();
    assert!(first.full);
    assert_eq!(ruled(&first), (names(&["offered.B", "wanted.A"]), vec![]));
    assert!(!session.has(world.now.counter(), &world.now));
    session
        .ack(&world.version(first.counter), Vec::new())
        .unwrap();
    assert!(session.has(world.now.counter(), &world.now));

    world.rule("other.C", Some(2));
    assert!(session.next(&world.now).is_none());
    assert!(session.has(world.now.counter(), &world.now));
    world.rule("wanted.A", Some(2));
    world.rule("offered.D", Some(1));
    world.rule("offered.B", None);
    assert!(!session.has(world.now.counter(), &world.now));
    assert_eq!(
        world.told_rules(&mut session),
        (names(&["offered.D", "wanted.A"]), names(&["offered.B"]))
    );
    assert!(session.has(world.now.counter(), &world.now));
    assert!(session.next(&world.now).is_none());
}

#[test]
fn who_offers_something_new_is_told_whether_there_is_a_rule() {
    let mut world = world();
    world.rule("a.A", Some(1));
    let mut session = world.session(&[], None);
    world.told_rules(&mut session);
    session.offer(&[service("a.A"), service("b.B")]);
    assert_eq!(
        world.told_rules(&mut session),
        (names(&["a.A"]), names(&["b.B"]))
    );
    session.offer(&[service("b.B")]);
    assert!(session.next(&world.now).is_none());
    world.rule("a.A", None);
    assert!(session.next(&world.now).is_none(), "no more its concern");
    session.offer(&[service("a.A")]);
    assert_eq!(world.told_rules(&mut session).1, ["a.A"]);
}

#[test]
fn a_new_subscription_brings_the_rule_or_its_end() {
    let mut world = world();
    world.rule("a.A", Some(1));
    world.rule("b.B", Some(1));
    world.rule("b.B", None);
    let mut session = world.session(&[], None);
    world.told_rules(&mut session);
    session.subscribe(&add(&["a.A", "b.B", "never.C"]), &world.now);
    assert_eq!(
        world.told_rules(&mut session),
        (names(&["a.A"]), names(&["b.B"]))
    );
    let remove = Subscription {
        remove: vec![service("a.A")],
        ..Subscription::default()
    };
    session.subscribe(&remove, &world.now);
    world.rule("a.A", Some(2));
    assert!(session.next(&world.now).is_none());
    assert!(session.has(world.now.counter(), &world.now));
}

#[test]
fn who_wants_all_is_told_all_rules_of_its_network() {
    let mut world = world();
    world.rule("a.A", Some(1));
    let all = Subscription {
        all: true,
        ..Subscription::default()
    };
    let mut session = Progress::new(network(), all.clone(), None, &world.now);
    assert_eq!(world.told_rules(&mut session), (names(&["a.A"]), vec![]));
    world.rule("b.B", Some(1));
    world.rule("a.A", None);
    assert_eq!(
        world.told_rules(&mut session),
        (names(&["b.B"]), names(&["a.A"]))
    );
    let other = sidelane_proto::model::Network::new("other").unwrap();
    let mut stranger = Progress::new(other, all.clone(), None, &world.now);
    assert_eq!(world.told_rules(&mut stranger), (vec![], vec![]));
    // One that asks for all later is told what was taken back, too: it may hold it.
    let mut later = world.session(&[], Some(world.now.counter()));
    world.told_rules(&mut later);
    later.subscribe(&all, &world.now);
    assert_eq!(
        world.told_rules(&mut later),
        (names(&["b.B"]), names(&["a.A"]))
    );
}

#[test]
fn a_session_that_comes_back_is_told_which_rules_changed() {
    let mut world = world();
    world.rule("a.A", Some(1));
    world.rule("b.B", Some(1));
    world.rule("o.O", Some(1));
    let held = world.now.counter();
    world.rule("b.B", None);
    let mut session = world.session(&["a.A", "b.B"], Some(held));
    // Whether it offered this when it was away nobody knows.
    session.offer(&[service("o.O")]);
    let news = session.next(&world.now).unwrap();
    assert!(!news.full);
    assert_eq!(ruled(&news), (names(&["o.O"]), names(&["b.B"])));
}

#[test]
fn who_was_away_for_longer_than_removals_are_known_is_told_all() {
    let mut world = world();
    world.rule("a.A", Some(1));
    let book = RuleBook::load(world.now.rules().since(0), 900, 1_000);
    let held = world.now.counter();
    let mut asleep = world.session(&["a.A", "b.B"], Some(held));
    world.told_rules(&mut asleep);
    let mut now = Snapshot::start("store".into(), 1_000, []).with_rules(book);
    std::mem::swap(&mut world.now, &mut now);
    let mut session = world.session(&["a.A", "b.B"], Some(held));
    for session in [&mut session, &mut asleep] {
        let news = session.next(&world.now).unwrap();
        assert!(news.full);
        assert_eq!(ruled(&news), (names(&["a.A"]), vec![]));
    }
    let mut recent = world.session(&["a.A"], Some(950));
    assert!(!recent.next(&world.now).unwrap().full);
}

fn refusal(name: &str, version: u64) -> RefusedRule {
    RefusedRule {
        service: service(name),
        version,
        field: "rules[0].rule.lane".to_owned(),
        problem: "is compiled in".to_owned(),
    }
}

#[test]
fn a_refused_rule_is_remembered_until_another_is_taken() {
    let mut world = world();
    world.rule("a.A", Some(1));
    world.rule("b.B", Some(1));
    let mut session = world.session(&["a.A", "b.B"], None);
    let first = world.version(session.next(&world.now).unwrap().counter);
    let refused = vec![refusal("a.A", 2), refusal("stranger.X", 2)];
    assert_eq!(session.ack(&first, refused), Some(1));
    assert_eq!(session.refused_rules(), (vec![refusal("a.A", 2)], 1));
    assert!(session.has(world.now.counter(), &world.now), "it was taken");
    assert!(session.next(&world.now).is_none(), "and not told again");

    world.rule("b.B", Some(2));
    world.told_rules(&mut session);
    assert_eq!(session.refused_rules().1, 1, "nothing was said of a.A");
    world.rule("a.A", Some(2));
    world.told_rules(&mut session);
    assert_eq!(session.refused_rules(), (vec![], 0));

    world.rule("a.A", Some(3));
    let version = world.version(session.next(&world.now).unwrap().counter);
    session.ack(&version, vec![refusal("a.A", 3)]).unwrap();
    world.rule("a.A", None);
    world.told_rules(&mut session);
    assert_eq!(session.refused_rules(), (vec![], 0));
}

#[test]
fn what_was_refused_on_another_stream_is_said_again_in_the_first_answer() {
    let mut world = world();
    world.rule("a.A", Some(1));
    let held = world.now.counter();
    let mut session = world.session(&["a.A"], Some(held));
    let first = session.next(&world.now).unwrap();
    assert_eq!(ruled(&first), (vec![], vec![]), "it is held");
    let refused = vec![refusal("a.A", held), refusal("stranger.X", held)];
    let version = world.version(first.counter);
    assert_eq!(session.ack(&version, refused), Some(1));
    assert_eq!(session.refused_rules(), (vec![refusal("a.A", held)], 1));
}

#[test]
fn of_many_refused_rules_the_text_of_the_first_is_kept() {
    let mut world = world();
    let services: Vec<String> = (0..REFUSALS_KEPT + 5).map(|n| format!("a.S{n}")).collect();
    for name in &services {
        world.rule(name, Some(1));
    }
    let all = Subscription {
        all: true,
        ..Subscription::default()
    };
    let mut session = Progress::new(network(), all, None, &world.now);
    let version = world.version(session.next(&world.now).unwrap().counter);
    let long = |name: &String| RefusedRule {
        problem: "é".repeat(600),
        ..refusal(name, 2)
    };
    let refused = services.iter().map(long).collect();
    assert_eq!(session.ack(&version, refused), Some(services.len()));
    let (texts, count) = session.refused_rules();
    assert_eq!((texts.len(), count), (REFUSALS_KEPT, services.len()));
    assert!(texts.iter().all(|refused| refused.problem.len() <= 512));
    // Of a newer one, the text is kept instead of an older one's.
    world.rule("a.New", Some(1));
    let newest = session.next(&world.now).unwrap().counter;
    let refused = vec![refusal("a.New", newest)];
    assert_eq!(session.ack(&world.version(newest), refused), Some(1));
    let (texts, count) = session.refused_rules();
    assert_eq!((texts.len(), count), (REFUSALS_KEPT, services.len() + 1));
    assert_eq!(texts[0].service.as_str(), "a.New");
}

#[test]
fn an_update_that_is_refused_for_a_rule_is_told_again_without_it() {
    let mut world = world();
    world.up("n", &["a.A"]);
    world.rule("a.A", Some(1));
    world.rule("b.B", Some(1));
    let mut session = world.session(&["a.A", "b.B"], None);
    let first = world.version(session.next(&world.now).unwrap().counter);
    assert!(session.nack(&first, "rules[1].rule", "is missing"));
    let again = session.next(&world.now).unwrap();
    assert_eq!(ruled(&again), (names(&["a.A"]), vec![]));
    assert_eq!(brief(&again).states.len(), 2, "its endpoints are told");
    session
        .ack(&world.version(again.counter), Vec::new())
        .unwrap();
    assert!(session.refused().is_some(), "b.B is still kept back");
    assert!(!session.has(world.now.counter(), &world.now));
    assert!(session.next(&world.now).is_none());
    world.rule("b.B", Some(2));
    assert_eq!(world.told_rules(&mut session).0, ["b.B"]);
    assert_eq!(session.refused(), None);

    // And the other way round: what is wrong with an endpoint does not cost a rule.
    world.up("m", &["a.A"]);
    world.rule("b.B", Some(3));
    let update = world.version(session.next(&world.now).unwrap().counter);
    assert!(session.nack(&update, "upserts[0].addresses", "is missing"));
    assert_eq!(world.told_rules(&mut session).0, ["b.B"]);
}
