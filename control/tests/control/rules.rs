//! Rules that are applied to a running mesh: what is refused, who is told, who refuses, and what is
//! left after a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sidelane_control::registry::Terms;
use sidelane_control::rules::Validations;
use sidelane_proto::model::{FieldError, Problem, PushedRule, Rule, ServiceName, Validation};
use sidelane_proto::wire::admin::v1::mesh_client::MeshClient;
use sidelane_proto::wire::admin::v1::{
    ApplyRulesRequest, ApplyRulesResponse, ListNodesRequest, ListRulesRequest, ListRulesResponse,
    NodeRefusal, RuleChange, WaitRevisionRequest,
};
use sidelane_proto::wire::control::v1::{
    Ack, Hello, RuleRefusal, Subscribe, Update, sync_request::Message as Said,
};
use sidelane_proto::wire::routing::v1 as routing;
use tonic::transport::Channel;

use crate::process::start;
use crate::sidecar::{Control, PATIENCE, Sidecar, channel, hello, offer, watcher};

fn rule(service: &str) -> routing::Rule {
    routing::Rule {
        service: service.to_owned(),
        connection: routing::Connection::Internal.into(),
        lane: "general".to_owned(),
        origin: "rules.yaml:1".to_owned(),
        ..routing::Rule::default()
    }
}

fn pushed(rule: routing::Rule) -> routing::PushedRule {
    routing::PushedRule {
        rule: Some(rule),
        ..routing::PushedRule::default()
    }
}

/// A rule that only tunes: a time limit of so many seconds.
fn timeout(service: &str, seconds: u64) -> routing::PushedRule {
    let rule = Rule {
        timeout: Some(Duration::from_secs(seconds)),
        ..Rule::default_for(&ServiceName::new(service).unwrap())
    };
    let pushed = PushedRule {
        rule: Arc::new(rule),
        tuning_only: true,
        version: 0,
    };
    (&pushed).into()
}

type Change = fn(&mut routing::Rule);

struct Client(MeshClient<Channel>);

impl Client {
    async fn of(control: &Control) -> Self {
        Self::over(control.channel().await)
    }

    fn over(channel: Channel) -> Self {
        let client = MeshClient::new(channel).max_decoding_message_size(64 << 20);
        Self(client)
    }

    async fn ask(&mut self, request: ApplyRulesRequest) -> ApplyRulesResponse {
        self.0.apply_rules(request).await.unwrap().into_inner()
    }

    /// Applies what must be taken. Returns the version.
    async fn apply(&mut self, rules: Vec<routing::PushedRule>, remove: &[&str]) -> u64 {
        let answer = self
            .ask(ApplyRulesRequest {
                rules,
                remove: remove.iter().map(|&name| name.to_owned()).collect(),
                ..ApplyRulesRequest::default()
            })
            .await;
        assert_eq!(answer.refused, []);
        answer.version.unwrap().counter
    }

    /// Applies what must be refused. Returns fields and problems.
    async fn refused(&mut self, rules: Vec<routing::PushedRule>) -> Vec<String> {
        let request = ApplyRulesRequest {
            rules,
            ..ApplyRulesRequest::default()
        };
        let answer = self.ask(request).await;
        assert_eq!(answer.outcomes, []);
        let refused = answer.refused.iter();
        refused
            .map(|it| format!("{} {}", it.field, it.problem))
            .collect()
    }

    async fn list(&mut self, request: ListRulesRequest) -> ListRulesResponse {
        self.0.list_rules(request).await.unwrap().into_inner()
    }

    /// Services that have a rule, with its version.
    async fn applied(&mut self) -> Vec<(String, u64)> {
        let listed = self.list(ListRulesRequest::default()).await;
        let rules = listed
            .rules
            .into_iter()
            .map(|applied| applied.rule.unwrap());
        let named = rules.map(|pushed| (pushed.rule.unwrap().service, pushed.version));
        named.collect()
    }
}

/// Names and versions of the rules in an update, and names of those that are taken back.
fn told(update: &Update) -> (Vec<(String, u64)>, Vec<String>) {
    let rules = update.rules.iter();
    let named = |rule: &routing::PushedRule| {
        let service = rule.rule.as_ref().unwrap().service.clone();
        (service, rule.version)
    };
    (rules.map(named).collect(), update.rules_removed.clone())
}

fn named(names: &[(&str, u64)]) -> Vec<(String, u64)> {
    let owned = names
        .iter()
        .map(|(name, version)| ((*name).to_owned(), *version));
    owned.collect()
}

/// A node that was compiled with this rule of what it offers.
fn compiled(node: &str, rule: routing::Rule) -> Hello {
    let mut offer = offer(&rule.service);
    offer.rule = Some(rule);
    Hello {
        offers: vec![offer],
        ..hello(node, 1, &[])
    }
}

#[tokio::test]
async fn a_rule_goes_to_who_subscribes_to_its_service_and_to_who_offers_it() {
    let control = Control::start().await;
    let mut caller = control.join(watcher("caller", &["a.A"])).await;
    let mut callee = control.join(hello("callee", 1, &["a.A"])).await;
    let mut stranger = control.join(watcher("stranger", &["b.B"])).await;
    let all = Hello {
        subscribe: Some(Subscribe {
            all: true,
            ..Subscribe::default()
        }),
        ..hello("all", 1, &[])
    };
    let mut all = control.join(all).await;
    caller.take_until(|held| held.len() == 1).await;
    all.take_until(|held| held.len() == 1).await;
    callee.take().await;
    stranger.take().await;

    let mut client = Client::of(&control).await;
    let first = client.apply(vec![pushed(rule("a.A"))], &[]).await;
    for sidecar in [&mut caller, &mut callee, &mut all] {
        let update = sidecar.take().await;
        assert!(!update.full);
        assert_eq!(told(&update), (named(&[("a.A", first)]), vec![]));
        assert_eq!(update.version.unwrap().counter, first);
    }
    let second = client.apply(vec![timeout("b.B", 2)], &["a.A"]).await;
    assert_eq!(second, first + 1);
    for sidecar in [&mut caller, &mut callee] {
        let update = sidecar.take().await;
        assert_eq!(told(&update), (vec![], vec!["a.A".to_owned()]));
    }
    let update = all.take().await;
    let expected = (named(&[("b.B", second)]), vec!["a.A".to_owned()]);
    assert_eq!(told(&update), expected);
    let update = stranger.take().await;
    assert_eq!(told(&update), (named(&[("b.B", second)]), vec![]));

    // Who comes later is told all that there is, and who offers more, of that.
    let mut later = control.join(hello("later", 1, &["b.B"])).await;
    let update = later.take().await;
    assert!(update.full);
    assert_eq!(told(&update).0, named(&[("b.B", second)]));
    callee.offer(vec![offer("a.A"), offer("b.B")]).await;
    let update = callee.take().await;
    assert_eq!(told(&update).0, named(&[("b.B", second)]));
}

#[tokio::test]
async fn what_is_applied_is_listed_and_answered_against_what_was() {
    let control = Control::start().await;
    let mut client = Client::of(&control).await;
    let outcomes = async |client: &mut Client, rules, remove: &[&str], dry_run| {
        let request = ApplyRulesRequest {
            rules,
            remove: remove.iter().map(|&name| name.to_owned()).collect(),
            dry_run,
            ..ApplyRulesRequest::default()
        };
        let answer = client.ask(request).await;
        assert_eq!((answer.refused.len(), answer.refused_count), (0, 0));
        let outcomes = answer.outcomes.iter();
        let outcomes = outcomes.map(|it| (it.service.clone(), it.change()));
        (
            answer.version.unwrap().counter,
            outcomes.collect::<Vec<_>>(),
        )
    };
    let both = || vec![timeout("b.B", 1), pushed(rule("a.A"))];
    let (version, changes) = outcomes(&mut client, both(), &[], false).await;
    let change = |name: &str, change| (name.to_owned(), change);
    assert_eq!(
        changes,
        [
            change("b.B", RuleChange::Added),
            change("a.A", RuleChange::Added)
        ]
    );
    let applied = named(&[("a.A", version), ("b.B", version)]);
    assert_eq!(client.applied().await, applied);

    let (again, changes) = outcomes(&mut client, both(), &[], false).await;
    assert_eq!(again, version, "nothing changed");
    assert!(changes.iter().all(|(_, it)| *it == RuleChange::Unchanged));

    let changed = || vec![timeout("b.B", 2), timeout("c.C", 1)];
    let (dry, changes) = outcomes(&mut client, changed(), &["a.A"], true).await;
    assert_eq!(
        changes,
        [
            change("b.B", RuleChange::Changed),
            change("c.C", RuleChange::Added),
            change("a.A", RuleChange::Removed)
        ]
    );
    assert_eq!(dry, version);
    assert_eq!(client.applied().await, applied, "a dry run applies nothing");
    let (next, same) = outcomes(&mut client, changed(), &["a.A"], false).await;
    assert_eq!((next, same), (version + 1, changes));
    assert_eq!(
        client.applied().await,
        named(&[("b.B", next), ("c.C", next)])
    );

    let one = ListRulesRequest {
        service: "c.C".to_owned(),
        ..ListRulesRequest::default()
    };
    let listed = client.list(one).await;
    assert_eq!(listed.rules.len(), 1);
    assert_eq!(listed.rules[0].network, "default");
    assert_eq!(listed.version.unwrap().counter, next);
    let expected = routing::PushedRule {
        version: next,
        ..timeout("c.C", 1)
    };
    assert_eq!(listed.rules[0].rule, Some(expected));
}

#[tokio::test]
async fn networks_have_rules_of_their_own() {
    let control = Control::start().await;
    let mut client = Client::of(&control).await;
    let request = |network: &str, rules| ApplyRulesRequest {
        network: network.to_owned(),
        rules,
        ..ApplyRulesRequest::default()
    };
    let answer = client.ask(request("other", vec![timeout("a.A", 1)])).await;
    assert_eq!(answer.refused, []);
    let mut ours = control.join(watcher("ours", &["a.A"])).await;
    assert_eq!(told(&ours.take().await), (vec![], vec![]));
    let theirs = Hello {
        network: "other".to_owned(),
        ..watcher("theirs", &["a.A"])
    };
    let mut theirs = control.join(theirs).await;
    assert_eq!(told(&theirs.take().await).0.len(), 1);
    let list = |network: &str| ListRulesRequest {
        network: network.to_owned(),
        ..ListRulesRequest::default()
    };
    assert_eq!(client.list(list("other")).await.rules.len(), 1);
    assert_eq!(client.list(list("default")).await.rules.len(), 0);
    let status = client.0.apply_rules(request("a b", vec![])).await;
    assert_eq!(
        status.unwrap_err().message(),
        "network `a b` is not a network name (letters, digits, `.`, `_`, `-`)"
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_field_and_the_last_good_rules_stay() {
    let control = Control::start().await;
    let fixed = routing::Rule {
        origin: "shop.proto:12".to_owned(),
        ..rule("a.Compiled")
    };
    let node = control.join(compiled("n-1", fixed)).await;
    let mut client = Client::of(&control).await;
    let version = client.apply(vec![timeout("a.Good", 1)], &[]).await;
    let before = client.applied().await;

    let cases: [(&str, Change); 12] = [
        (
            "rules[1].rule.lane is compiled in as general (shop.proto:12)",
            |rule| {
                rule.service = "a.Compiled".to_owned();
                (rule.lane_id, rule.lane) = (1, "gossip".to_owned());
            },
        ),
        (
            "rules[1].rule.connection is compiled in as Internal (shop.proto:12)",
            |rule| {
                rule.service = "a.Compiled".to_owned();
                rule.connection = routing::Connection::External.into();
            },
        ),
        (
            "rules[1].rule.secure is compiled in as false (shop.proto:12)",
            |rule| {
                rule.service = "a.Compiled".to_owned();
                rule.secure = true;
            },
        ),
        ("rules[1].rule.lane_id 99 is not a known lane", |rule| {
            (rule.lane_id, rule.lane) = (99, "unheard_of".to_owned());
        }),
        (
            "rules[1].rule.lane Internal and lane `ingress_data` do not go together",
            |rule| {
                (rule.lane_id, rule.lane) = (3, "ingress_data".to_owned());
            },
        ),
        (
            "rules[1].rule.methods[0].retry `Pay` is not idempotent",
            |rule| {
                rule.methods = vec![routing::Method {
                    name: "Pay".to_owned(),
                    retry: Some(routing::Retry {
                        attempts: 3,
                        ..routing::Retry::default()
                    }),
                    ..routing::Method::default()
                }];
            },
        ),
        (
            "rules[1].rule.service has 300 bytes, at most 255 are allowed",
            |rule| {
                rule.service = "s".repeat(300);
            },
        ),
        ("rules[1].rule.methods[0].name has 300 bytes", |rule| {
            rule.methods = vec![routing::Method {
                name: "M".repeat(300),
                ..routing::Method::default()
            }];
        }),
        ("rules[1].rule.origin has 2000 bytes", |rule| {
            rule.origin = "o".repeat(2_000);
        }),
        ("rules[1].rule.service `a.Fine` is named twice", |rule| {
            rule.service = "a.Fine".to_owned();
        }),
        ("rules[1].rule.lane_definition.window is missing", |rule| {
            (rule.lane_id, rule.lane) = (44, "short".to_owned());
            rule.lane_definition = Some(routing::Lane {
                id: 44,
                name: "short".to_owned(),
                connections: vec![routing::Connection::Internal.into()],
                ..routing::Lane::default()
            });
        }),
        ("rules[1].rule.max_timeout", |rule| {
            let long = timeout("a.Long", 90_000);
            rule.max_timeout = long.rule.unwrap().timeout;
        }),
    ];
    for (expected, change) in cases {
        let mut bad = rule("a.Bad");
        change(&mut bad);
        let errors = client
            .refused(vec![timeout("a.Fine", 1), pushed(bad)])
            .await;
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].starts_with(expected),
            "{}\nwanted: {expected}",
            errors[0]
        );
        if expected.contains("compiled") {
            assert!(errors[0].ends_with("(node `default/n-1`)"), "{}", errors[0]);
        }
        assert_eq!(client.applied().await, before);
    }
    let many = (0..20_001)
        .map(|n| timeout(&format!("a.S{n}"), 1))
        .collect();
    assert_eq!(
        client.refused(many).await,
        ["rules has 20001 entries, at most 20000 are allowed"]
    );
    let wrong = (0..150)
        .map(|n| pushed(rule(&format!("not a name {n}"))))
        .collect();
    let answer = client
        .ask(ApplyRulesRequest {
            rules: wrong,
            ..ApplyRulesRequest::default()
        })
        .await;
    assert_eq!((answer.refused.len(), answer.refused_count), (100, 150));
    assert_eq!(client.applied().await, before);
    assert_eq!(control.app.registry().snapshot().counter(), version);
    drop(node);
}

#[tokio::test]
async fn the_project_has_a_say() {
    struct Named;
    impl Validation for Named {
        fn name(&self) -> &'static str {
            "names"
        }
        fn check(&self, rule: &Rule) -> Result<(), FieldError> {
            if rule.service.starts_with("shop.") {
                return Ok(());
            }
            let text = "ours begin with `shop.`".to_owned();
            Err(FieldError::new("service", Problem::Refused(text)))
        }
    }
    let mut validations = Validations::default();
    validations.add(Named);
    let control = Control::demanding(Terms::default(), None, validations).await;
    let mut client = Client::of(&control).await;
    let errors = client
        .refused(vec![timeout("shop.A", 1), timeout("a.B", 1)])
        .await;
    assert_eq!(
        errors,
        ["rules[1].rule.service ours begin with `shop.` (validation `names`)"]
    );
    client.apply(vec![timeout("shop.A", 1)], &[]).await;
}

#[tokio::test]
async fn a_refusal_by_a_sidecar_is_kept_and_shown_until_it_is_settled() {
    let control = Control::start().await;
    let mut picky = control.join(watcher("picky", &["a.A", "b.B"])).await;
    picky.take().await;
    let mut client = Client::of(&control).await;
    let version = client
        .apply(vec![timeout("a.A", 1), timeout("b.B", 1)], &[])
        .await;
    let update = picky.update().await;
    let refusal = RuleRefusal {
        service: "b.B".to_owned(),
        version,
        field: "rules[1].rule.timeout".to_owned(),
        problem: "is above the ceiling".to_owned(),
    };
    let ack = Ack {
        version: update.version.clone(),
        refused: vec![refusal.clone()],
    };
    picky.say(Said::Ack(ack)).await;
    let wait = WaitRevisionRequest {
        revision: version,
        timeout_ms: u32::try_from(PATIENCE.as_millis()).unwrap(),
    };
    let waited = client.0.wait_revision(wait).await.unwrap().into_inner();
    assert!(waited.reached, "it was acknowledged");
    assert_eq!((waited.refused.len(), waited.refused_count), (1, 1));
    assert_eq!(waited.refused[0].node_id, "picky");
    assert_eq!(waited.refused[0].network, "default");
    assert_eq!(waited.refused[0].refusal.as_ref(), Some(&refusal));

    let request = ListNodesRequest::default();
    let listed = client.0.list_nodes(request.clone()).await.unwrap();
    let node = &listed.into_inner().nodes[0];
    assert_eq!(
        node.refused,
        format!("the rule of b.B, version {version}: rules[1].rule.timeout is above the ceiling")
    );
    assert_eq!(
        (&node.refused_rules[..], node.refused_rules_count),
        (&[refusal][..], 1)
    );
    let url = format!("http://{}/metrics", control.app.admin());
    let page = sidelane_process::fetch::get(&url, PATIENCE).await;
    let page = page.unwrap().text();
    for line in [
        "sidelane_control_rules 2",
        "sidelane_control_rules_refused 1",
        "sidelane_control_rule_refusals_total 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }

    let next = client.apply(vec![timeout("b.B", 2)], &[]).await;
    let update = picky.take().await;
    assert_eq!(told(&update).0, named(&[("b.B", next)]));
    let wait = WaitRevisionRequest {
        revision: next,
        ..wait
    };
    let waited = client.0.wait_revision(wait).await.unwrap().into_inner();
    assert!(waited.reached && waited.refused.is_empty());
    let listed = client.0.list_nodes(request).await.unwrap();
    assert_eq!(listed.into_inner().nodes[0].refused, "");
}

#[tokio::test]
async fn a_wait_for_a_revision_of_rules_names_who_has_not_taken_them() {
    let control = Control::start().await;
    let mut slow = control.join(watcher("slow", &["a.A"])).await;
    let mut other = control.join(watcher("other", &["b.B"])).await;
    slow.take().await;
    other.take().await;
    let mut client = Client::of(&control).await;
    let revision = client.apply(vec![timeout("a.A", 1)], &[]).await;
    let wait = |timeout_ms| WaitRevisionRequest {
        revision,
        timeout_ms,
    };
    let waited = client
        .0
        .wait_revision(wait(200))
        .await
        .unwrap()
        .into_inner();
    assert!(!waited.reached);
    let laggards: Vec<_> = waited
        .laggards
        .iter()
        .map(|it| it.node_id.as_str())
        .collect();
    assert_eq!(laggards, ["slow"]);
    slow.take().await;
    let waited = client.0.wait_revision(wait(20_000)).await.unwrap();
    assert!(waited.into_inner().reached);
}

#[tokio::test]
async fn rules_survive_a_restart_and_who_comes_back_is_told_what_changed() {
    let control = Control::start().await;
    let mut client = Client::of(&control).await;
    let lane = routing::Lane {
        id: 1_024,
        name: "kept_lane".to_owned(),
        connections: vec![routing::Connection::Internal.into()],
        window: 65_536,
        max_streams: 8,
        ..routing::Lane::default()
    };
    let own = routing::Rule {
        lane_id: 1_024,
        lane: "kept_lane".to_owned(),
        lane_definition: Some(lane),
        ..rule("own.Lane")
    };
    let first = client
        .apply(vec![pushed(own), timeout("a.A", 1), timeout("b.B", 1)], &[])
        .await;
    let mut session = control
        .join(watcher("w", &["a.A", "b.B", "own.Lane"]))
        .await;
    assert_eq!(told(&session.take().await).0.len(), 3);
    let held = session.taken();
    let second = client.apply(vec![timeout("a.A", 2)], &["b.B"]).await;
    drop(client);
    drop(session);
    let control = control.restart().await;
    let mut client = Client::of(&control).await;
    let expected = named(&[("a.A", second), ("own.Lane", first)]);
    assert_eq!(client.applied().await, expected);
    let resumed = Hello {
        held: Some(held.clone()),
        ..watcher("w", &["a.A", "b.B", "own.Lane"])
    };
    let mut session = control.join(resumed).await;
    let update = session.take().await;
    assert!(!update.full);
    let expected = (named(&[("a.A", second)]), vec!["b.B".to_owned()]);
    assert_eq!(told(&update), expected);
    let third = client.apply(vec![timeout("c.C", 1)], &[]).await;
    assert!(third > second, "one counter, which never goes back");
    let listed = client.list(ListRulesRequest::default()).await;
    let own = listed.rules.last().unwrap().rule.as_ref().unwrap();
    let definition = own.rule.as_ref().unwrap().lane_definition.as_ref();
    assert_eq!(definition.unwrap().name, "kept_lane");
}

/// What was answered is on disk: a SIGKILL right after it takes nothing away.
#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let (program, address) = start(folder.path());
        let mut client = Client::over(channel(address).await);
        if round > 1 {
            let before = client.applied().await;
            assert_eq!(before.len(), 1, "{before:?}");
            assert_eq!(before[0].0, format!("a.S{}", round - 1));
        }
        let remove = format!("a.S{}", round - 1);
        let remove: &[&str] = if round > 1 { &[&remove] } else { &[] };
        let rules = vec![timeout(&format!("a.S{round}"), 1)];
        client.apply(rules, remove).await;
        drop(program);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_very_many_refusals_the_first_are_told_and_all_are_counted() {
    const SIDECARS: usize = 130;
    const RULES: usize = 10;
    let control = Control::start().await;
    let names: Vec<String> = (0..RULES).map(|n| format!("a.S{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut sidecars = Vec::new();
    for number in 0..SIDECARS {
        let hello = watcher(&format!("n-{number:03}"), &names);
        let mut sidecar = control.join(hello).await;
        sidecar.take().await;
        sidecars.push(sidecar);
    }
    let mut client = Client::of(&control).await;
    let rules = names.iter().map(|name| timeout(name, 1)).collect();
    let revision = client.apply(rules, &[]).await;
    for sidecar in &mut sidecars {
        let update = sidecar.update().await;
        let refused = names.iter().map(|name| RuleRefusal {
            service: (*name).to_owned(),
            version: revision,
            field: "rules[0].rule.timeout".to_owned(),
            problem: "p".repeat(2_000),
        });
        let ack = Ack {
            version: update.version,
            refused: refused.collect(),
        };
        sidecar.say(Said::Ack(ack)).await;
    }
    let wait = WaitRevisionRequest {
        revision,
        timeout_ms: 20_000,
    };
    let waited = client.0.wait_revision(wait).await.unwrap().into_inner();
    assert!(waited.reached);
    assert_eq!(waited.refused_count as usize, SIDECARS * RULES);
    assert_eq!(waited.refused.len(), 1_000);
    assert_eq!(waited.refused[0].node_id, "n-000");
    let problem = |refused: &NodeRefusal| refused.refusal.as_ref().unwrap().problem.len();
    assert!(waited.refused.iter().all(|refused| problem(refused) == 512));
    let listed = client.0.list_nodes(ListNodesRequest::default()).await;
    let node = &listed.unwrap().into_inner().nodes[7];
    assert_eq!(
        (node.refused_rules.len(), node.refused_rules_count),
        (8, 10)
    );
    assert!(node.refused.ends_with(", and 9 more"), "{}", node.refused);
}

/// As many rules as there can be, with the longest names, and each refused at the greatest length.
#[tokio::test(flavor = "multi_thread")]
async fn all_rules_that_can_be_may_be_refused_at_once() {
    const RULES: usize = 20_000;
    let control = Control::start().await;
    let all = Hello {
        subscribe: Some(Subscribe {
            all: true,
            ..Subscribe::default()
        }),
        ..hello("all", 1, &[])
    };
    let mut session = control.join(all).await;
    session.take().await;
    let names = (0..RULES).map(|number| format!("{number:S>255}"));
    let names: Vec<String> = names.collect();
    let mut client = Client::of(&control).await;
    let rules = names.iter().map(|name| timeout(name, 1)).collect();
    let revision = client.apply(rules, &[]).await;
    let update = session.update().await;
    assert_eq!(update.rules.len(), RULES);
    let refused = names.iter().map(|name| RuleRefusal {
        service: name.clone(),
        version: revision,
        field: "f".repeat(256),
        problem: "p".repeat(512),
    });
    let ack = Ack {
        version: update.version,
        refused: refused.collect(),
    };
    session.say(Said::Ack(ack)).await;
    let wait = WaitRevisionRequest {
        revision,
        timeout_ms: 20_000,
    };
    let waited = client.0.wait_revision(wait).await.unwrap().into_inner();
    assert!(waited.reached, "the stream goes on");
    assert_eq!(waited.refused_count as usize, RULES);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_and_control_goes_on() {
    let control = Control::start().await;
    let mut client = Client::of(&control).await;
    let request = ApplyRulesRequest {
        network: "n".repeat(sidelane_control::admin::REQUEST_LIMIT),
        ..ApplyRulesRequest::default()
    };
    let status = client.0.apply_rules(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
    client.apply(vec![timeout("a.A", 1)], &[]).await;
}

/// Ten thousand at once, to one who wants to know all.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_rules_at_once() {
    const RULES: usize = 10_000;
    let control = Control::start().await;
    let mut client = Client::of(&control).await;
    let all = Hello {
        subscribe: Some(Subscribe {
            all: true,
            ..Subscribe::default()
        }),
        ..hello("all", 1, &[])
    };
    let mut session = control.join(all.clone()).await;
    session.take().await;
    let rules = |seconds| -> Vec<_> {
        let methods = ["Get", "List", "Put"].map(|name| routing::Method {
            name: name.to_owned(),
            idempotent: name != "Put",
            ..routing::Method::default()
        });
        let rule = |n: usize| {
            let mut pushed = timeout(&format!("shop.v1.Service{n}"), seconds);
            pushed.rule.as_mut().unwrap().methods = methods.to_vec();
            pushed
        };
        (0..RULES).map(rule).collect()
    };
    for seconds in [1, 2] {
        let began = Instant::now();
        client.apply(rules(seconds), &[]).await;
        let applied = began.elapsed();
        let update = session.take().await;
        assert_eq!((update.rules.len(), update.full), (RULES, false));
        println!(
            "applied after {applied:?}, told after {:?}",
            began.elapsed()
        );
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    let version = client
        .apply(vec![timeout("shop.v1.Service7", 9)], &[])
        .await;
    let update = session.take().await;
    assert_eq!(told(&update).0, named(&[("shop.v1.Service7", version)]));
    assert_eq!(client.applied().await.len(), RULES);

    let names: Vec<String> = (0..RULES).map(|n| format!("shop.v1.Service{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    client.apply(vec![], &names).await;
    assert_eq!(session.take().await.rules_removed.len(), RULES);
    let mut late = Sidecar::join(
        control.channel().await,
        Hello {
            node_id: "late".to_owned(),
            ..all
        },
    )
    .await;
    assert_eq!(told(&late.take().await), (vec![], vec![]));
}
