//! Pushed rules: each is taken or refused by itself, the last good one stays, and what is held is
//! bounded, kept on disk and resumed from only where nothing can be missing.

use sidelane_proto::model::error::Problem;
use sidelane_proto::model::{ConnectionClass, FieldError, Lane, PushedRule, Rule};
use sidelane_proto::wire::control::v1::{self as wire, sync_request::Message as Said};

use super::control::{FakeControl, FakeStream, ack};
use super::*;

/// The lane tells a test which version of a rule holds.
fn rule(service: &str, lane: Lane, version: u64) -> PushedRule {
    let class = ConnectionClass::Internal;
    let mut rule = Rule::new("", class, lane, &[], "rules.yaml:1");
    rule.service = service.to_owned().into();
    PushedRule {
        rule: Arc::new(rule),
        tuning_only: false,
        version,
    }
}

fn with(update: Update, rules: Vec<PushedRule>) -> Update {
    Update { rules, ..update }
}

fn without(update: Update, services: &[&str]) -> Update {
    let rules_removed = services.iter().map(|name| service(name)).collect();
    Update {
        rules_removed,
        ..update
    }
}

fn lanes(held: &Held) -> Vec<(&str, Lane)> {
    held.rules()
        .map(|pushed| (&*pushed.rule.service, pushed.rule.lane))
        .collect()
}

const ORDERS: &str = "shop.v1.Orders";
const STOCK: &str = "shop.v1.Stock";
const FRONT: &str = "shop.v1.Front";

#[test]
fn a_delta_changes_what_it_names_and_a_full_update_is_all_there_is() {
    let mut held = Held::default();
    let rules = vec![rule(ORDERS, Lane::GOSSIP, 1), rule(STOCK, Lane::GOSSIP, 1)];
    let change = held.apply(with(full(1, Vec::new()), rules)).unwrap();
    assert_eq!(change.rules.len(), 2);

    let rules = vec![rule(ORDERS, Lane::GENERAL, 2)];
    let change = held
        .apply(without(with(update(2), rules), &[STOCK]))
        .unwrap();
    assert_eq!(lanes(&held), [(ORDERS, Lane::GENERAL)]);
    assert_eq!(change.rules, [rule(ORDERS, Lane::GENERAL, 2)]);
    assert_eq!(change.rules_dropped, [service(STOCK)]);

    // The same again is no news.
    let rules = vec![rule(ORDERS, Lane::GENERAL, 2)];
    let change = held.apply(with(full(3, Vec::new()), rules)).unwrap();
    assert!(change.is_empty(), "{change:?}");

    let change = held.apply(full(4, Vec::new())).unwrap();
    assert_eq!(change.rules_dropped, [service(ORDERS)]);
    assert_eq!(lanes(&held), []);
}

#[test]
fn the_last_good_rule_stays_until_a_good_one_comes_or_it_is_taken_back() {
    let mut held = Held::default();
    let good = vec![rule(ORDERS, Lane::GOSSIP, 1)];
    held.apply(with(full(1, Vec::new()), good)).unwrap();
    let refuse = |_: &PushedRule| {
        let problem = Problem::Refused("not here".to_owned());
        Err(FieldError::new("lane", problem))
    };
    // Also in a full update, which names it and nothing else.
    let mut bad = with(full(2, Vec::new()), vec![rule(ORDERS, Lane::GENERAL, 2)]);
    held.judge_rules(&mut bad, |_| true, refuse);
    let change = held.apply(bad).unwrap();
    assert!(change.is_empty(), "{change:?}");
    assert_eq!(lanes(&held), [(ORDERS, Lane::GOSSIP)]);
    let refused: Vec<_> = held.refused_rules().collect();
    assert_eq!(refused[0].error.path, "rules[0].rule.lane");
    assert_eq!((&*refused[0].service, refused[0].version), (ORDERS, 2));

    held.apply(with(update(3), vec![rule(ORDERS, Lane::GENERAL, 3)]))
        .unwrap();
    assert_eq!(lanes(&held), [(ORDERS, Lane::GENERAL)]);
    assert_eq!(held.refused_rules().count(), 0);

    let mut bad = with(update(4), vec![rule(STOCK, Lane::GENERAL, 4)]);
    held.judge_rules(&mut bad, |_| true, refuse);
    held.apply(bad).unwrap();
    assert_eq!(held.refused_rules().count(), 1);
    held.apply(without(update(5), &[STOCK, ORDERS])).unwrap();
    assert_eq!(held.refused_rules().count(), 0);
    assert_eq!(lanes(&held), []);
}

#[test]
fn one_rule_more_than_the_bound_is_refused_alone() {
    let mut held = Held::default();
    let all = (0..RULES_LIMIT).map(|number| rule(&format!("many.S{number}"), Lane::GOSSIP, 1));
    let mut all = with(full(1, Vec::new()), all.collect());
    let judge = |held: &Held, update: &mut Update| held.judge_rules(update, |_| true, |_| Ok(()));
    judge(&held, &mut all);
    held.apply(all).unwrap();
    assert_eq!(held.rules().len(), RULES_LIMIT);

    // One that is held already may change, and one that leaves makes room.
    let known = rule("many.S7", Lane::GENERAL, 2);
    let mut more = with(update(2), vec![known, rule(ORDERS, Lane::GENERAL, 2)]);
    judge(&held, &mut more);
    let change = held.apply(more).unwrap();
    assert_eq!(change.rules.len(), 1);
    assert_eq!(held.rules().len(), RULES_LIMIT);
    let refused: Vec<_> = held.refused_rules().cloned().collect();
    assert_eq!(
        refused[0].error.to_string(),
        "rules[1].rule.service is out of bounds: 20000 rules are held already, the most that a \
         sidecar takes"
    );
    let room = with(update(3), vec![rule(ORDERS, Lane::GENERAL, 3)]);
    let mut room = without(room, &["many.S7"]);
    judge(&held, &mut room);
    held.apply(room).unwrap();
    assert_eq!(held.rules().len(), RULES_LIMIT);
    assert_eq!(held.refused_rules().count(), 0);
}

#[test]
fn rules_survive_the_disk_with_what_is_known_to_have_none() {
    let directory = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(directory.path()).unwrap();
    let mut held = Held::default();
    held.resume([service(FRONT)]);
    let rules = vec![rule(ORDERS, Lane::GOSSIP, 1)];
    held.apply(with(full(1, Vec::new()), rules)).unwrap();
    disk::save(&folder, &network(), &held).unwrap();
    let mut loaded = disk::load(&folder, &network()).unwrap().unwrap();
    assert_eq!(lanes(&loaded), [(ORDERS, Lane::GOSSIP)]);

    // That Front has no rule is known, and so there is something to resume from.
    loaded.resume([service(FRONT)]);
    assert_eq!(loaded.whole_since(), Some(&version(1)));
    // Of Stock nobody has said anything.
    loaded.resume([service(FRONT), service(STOCK)]);
    assert_eq!(loaded.whole_since(), None);
    let rules = vec![rule(ORDERS, Lane::GOSSIP, 1)];
    loaded.apply(with(full(2, Vec::new()), rules)).unwrap();
    loaded.resume([service(STOCK)]);
    assert_eq!(loaded.whole_since(), Some(&version(2)));
}

#[test]
fn what_was_kept_is_judged_by_the_program_that_reads_it() {
    let mut held = Held::default();
    let rules = vec![rule(ORDERS, Lane::GOSSIP, 1), rule(STOCK, Lane::GOSSIP, 1)];
    held.apply(with(full(1, Vec::new()), rules)).unwrap();
    let judge: Judge = Arc::new(|pushed| {
        if pushed.rule.service == ORDERS {
            return Ok(());
        }
        Err(FieldError::new("lane", Problem::Missing))
    });
    let refused = held.recheck_rules(&judge);
    assert_eq!(refused[0].0.rule.service, STOCK);
    assert_eq!(lanes(&held), [(ORDERS, Lane::GOSSIP)]);
    // Control would not say again what it believes to be held.
    assert_eq!(held.whole_since(), None);
}

/// Refuses everything in lane Gossip.
fn no_gossip() -> Judge {
    Arc::new(|pushed| {
        if pushed.rule.lane != Lane::GOSSIP {
            return Ok(());
        }
        let problem = Problem::Refused("is compiled in as general".to_owned());
        Err(FieldError::new("lane", problem))
    })
}

async fn acknowledged(stream: &mut FakeStream, update: &Update) -> Vec<wire::RuleRefusal> {
    stream.update(update).await;
    match stream.next().await {
        Some(Said::Ack(ack)) => ack.refused,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refused_rule_is_told_in_the_acknowledgement_and_again_on_the_next_stream() {
    let mut control = FakeControl::start().await;
    let mut parameters = parameters(&[&control.address]);
    parameters.judge = no_gossip();
    let mut running = Running::start(parameters, None);
    running.discovery.want(&orders()).unwrap();
    let (mut stream, _) = control.welcomed().await;
    // Front is offered, Orders is subscribed to, and nobody here has asked about Stock.
    let rules = vec![
        rule(FRONT, Lane::GENERAL, 9),
        rule(STOCK, Lane::GENERAL, 9),
        rule(ORDERS, Lane::GOSSIP, 9),
    ];
    let states = vec![state(&orders(), vec![endpoint(&orders(), "a", 1)])];
    let refused = acknowledged(&mut stream, &with(full(10, states), rules)).await;
    let refusal = wire::RuleRefusal {
        service: ORDERS.to_owned(),
        version: 9,
        field: "rules[2].rule.lane".to_owned(),
        problem: "is compiled in as general".to_owned(),
    };
    assert_eq!(refused, std::slice::from_ref(&refusal));
    // All else was taken.
    assert_eq!(running.sink.nodes(&orders()).unwrap().len(), 1);
    let changes = running.sink.changes.lock().unwrap().clone();
    assert_eq!(
        changes.last().unwrap().rules,
        [rule(FRONT, Lane::GENERAL, 9)]
    );
    let status = running
        .until(|status| status.version == Some(version(10)))
        .await;
    assert_eq!(status.refused_rules.len(), 1);
    assert_eq!(status.refused_update, None);
    assert_eq!(running.discovery.counters().refused_rules, 1);

    // An update without rules brings no refusals, the first one on a stream brings all.
    assert_eq!(acknowledged(&mut stream, &update(11)).await, []);
    stream.fail(tonic::Status::unavailable("restarted")).await;
    let (mut stream, said) = control.welcomed().await;
    assert_eq!(said.held, Some((&version(11)).into()));
    assert_eq!(acknowledged(&mut stream, &update(12)).await, [refusal]);
    assert_eq!(running.discovery.counters().refused_rules, 1);

    let good = with(update(13), vec![rule(ORDERS, Lane::GENERAL, 13)]);
    assert_eq!(acknowledged(&mut stream, &good).await, []);
    running
        .until(|status| status.refused_rules.is_empty())
        .await;
    running.finish().await;
}

#[tokio::test]
async fn the_rule_of_what_is_forgotten_goes_and_that_of_what_is_offered_stays() {
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), None);
    running.discovery.want(&orders()).unwrap();
    running.discovery.want(&service(FRONT)).unwrap();
    let (mut stream, _) = control.welcomed().await;
    let rules = vec![rule(FRONT, Lane::GENERAL, 9), rule(ORDERS, Lane::GOSSIP, 9)];
    let states = vec![
        state(&orders(), Vec::new()),
        state(&service(FRONT), Vec::new()),
    ];
    stream.update_acked(&with(full(10, states), rules)).await;
    running
        .until(|status| status.version == Some(version(10)))
        .await;
    running.discovery.forget(&orders());
    running.discovery.forget(&service(FRONT));
    loop {
        if let Some(Said::Subscribe(_)) = stream.next().await {
            break;
        }
    }
    // What is said after the subscription comes after what follows from it.
    stream.update(&update(11)).await;
    assert_eq!(stream.next().await, Some(ack(11)));
    let changes = running.sink.changes.lock().unwrap().clone();
    let dropped: Vec<_> = changes.iter().flat_map(|it| &it.rules_dropped).collect();
    assert_eq!(dropped, [&orders()]);
    running.finish().await;
}
