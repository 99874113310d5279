//! Answers "why does this call go there?" by asking the functions that decide real calls, in the
//! same order, without making one. The rotation stays where it is; but control is asked about a
//! service that was never heard of, as a call would ask.

mod authorized;
mod policy;

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use serde::Serialize;
use sidelane::routing::Found;
use sidelane_proto::model::{Rule, Split};
use sidelane_proto::wire::admin::v1 as wire;

use crate::balance::{Nearness, Strategy, Unfit, Wanted};
use crate::call::{Call, Caller, HASH_HEADER, LANE_HEADER, NODE_HEADER, RULE_HEADER};
use crate::classify::{Classified, ClassifyError};
use crate::local::LocalService;
use crate::mesh::{RuleSource, Target, View};
use crate::parts::{Course, Why};
use crate::policy::deadline;
use crate::respond::Failure;
use crate::stack::Stack;
use crate::way::Beside;

/// A call that is asked about.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Its path.
    pub path: String,
    /// Its `sidelane-node`.
    pub node: Option<String>,
    /// Its `sidelane-lane`.
    pub lane: Option<String>,
    /// Its `sidelane-hash`.
    pub hash: Option<String>,
    /// Its `sidelane-rule`.
    pub rule: Option<String>,
    /// One more header of it, `name: value`.
    pub header: Option<String>,
    /// Who calls, instead of this sidecar's own identity.
    pub as_identity: Option<String>,
}

/// The answer, with the fields of `sidelane.admin.v1.ExplainResponse`.
#[derive(Debug, Default, Serialize)]
pub struct Explanation {
    path: String,
    rule: Option<RuleText>,
    rule_source: &'static str,
    policy: Vec<policy::Value>,
    authorized: Option<authorized::Authorized>,
    steps: Vec<String>,
    candidates: Vec<CandidateText>,
    pick: String,
    error: &'static str,
    message: String,
    #[serde(skip)]
    whole_rule: Option<Rule>,
}

#[derive(Debug, Serialize)]
struct RuleText {
    service: String,
    category: &'static str,
    class: &'static str,
    lane: &'static str,
    secure: bool,
    persistent: bool,
    load_balancing: &'static str,
    timeout_ms: Option<u128>,
    origin: String,
}

#[derive(Debug, Serialize)]
struct CandidateText {
    node_id: String,
    generation: u64,
    address: String,
    health: &'static str,
    in_flight: u64,
    eligible: bool,
    reason: String,
    weight: u32,
    warmth: u8,
    nearness: String,
    #[serde(skip)]
    wire_health: i32,
}

/// A question as the call that it is about.
type Read<'a> = (Call, Found<&'a Arc<Target>>, Parts);

/// Explains a call. Takes as long as control takes to say its first word about a service, at most
/// two seconds.
pub async fn explain(stack: &Stack, question: &Question) -> Explanation {
    heard_of(stack, question).await;
    let mut answer = Explanation {
        path: question.path.clone(),
        ..Explanation::default()
    };
    if let Err(failure) = steps(stack, question, &mut answer) {
        answer.error = failure.reason.name();
        answer
            .steps
            .push(format!("refused: {}", failure.reason.name()));
        answer.message = failure.text;
    }
    answer
}

/// Waits for control's first word where a call would. What it says is in the view then.
async fn heard_of(stack: &Stack, question: &Question) {
    let decided = || {
        let view = stack.mesh.view();
        let (call, found, head) = read(question, &view).ok()?;
        let service = call.path(&head).service;
        let decided = stack.decided(&view, head.uri.path(), service, found, &call)?;
        Some((decided, call, head))
    };
    if let Some((decided, mut call, head)) = decided() {
        // Whatever comes of it is explained step by step.
        let _ = stack.classified(decided, &mut call, &head).await;
    }
}

fn steps(stack: &Stack, question: &Question, answer: &mut Explanation) -> Result<(), Failure> {
    let view = stack.mesh.view();
    let (mut call, found, head) = read(question, &view)?;
    let path = call.path(&head);
    answer.steps.push(format!(
        "path: service {}, method {}",
        path.service, path.method
    ));
    let decided = stack.decided(&view, head.uri.path(), path.service, found, &call);
    let Some(decided) = decided else {
        answer.pick = stack.own.node.to_string();
        answer
            .steps
            .push("answered by this sidecar itself, for the mesh".to_owned());
        return Ok(());
    };
    // The answer shows the rule also where the rule is why the call is refused.
    if let Some(target) = found.service {
        let classified = decided.as_ref().ok();
        let strategy = classified.map_or_else(|| target.hub().strategy(), |it| stack.strategy(it));
        answer.note_rule(&target.rule, target.source, strategy.name());
        let method = found
            .method
            .and_then(|method| target.rule.methods.get(method));
        let callers = classified.and_then(Classified::callers);
        answer.policy = policy::values(target, method, strategy.name(), callers);
    }
    if let Err(ClassifyError::UnknownService { .. }) = decided
        && !stack
            .discovery
            .wanted()
            .iter()
            .any(|it| it.as_str() == path.service)
    {
        let text = "control is not asked about this service: too many are subscribed to already";
        answer.steps.push(text.to_owned());
    }
    if let Err(ClassifyError::UnknownService { .. }) = decided {
        let text = if stack.policy.passthrough {
            "a call that came by a tunnel (CONNECT) or a redirect would go on to where it was \
             meant to go (`--unknown passthrough`); one that was dialled has nowhere else to go"
        } else {
            "refused however it came (`--unknown refuse`)"
        };
        answer.steps.push(text.to_owned());
    }
    let classified = decided?;
    let said = call.hash.is_some();
    call.key_by(&head, classified.hash_header());
    if let (false, Some(_), Some(header)) = (said, call.hash, classified.hash_header()) {
        let text = format!("the call's `{header}` stands for its `sidelane-hash`");
        answer.steps.push(text);
    }
    answer.steps.push(format!(
        "goes as class {}, lane {}{}",
        classified.class,
        classified.lane,
        if classified.spoken.is_some() {
            ", as its caller's own rule says"
        } else {
            ""
        }
    ));
    let target = &classified.target;
    let written = target.source != RuleSource::Default;
    let known = classified.method();
    let callers = classified.callers();
    let limit = match &callers {
        None => deadline::limit(&target.rule, written, known),
        Some(callers) => callers.limit(),
    };
    answer.steps.push(match limit {
        Some(limit) => format!(
            "time limit without `grpc-timeout`: {} ms",
            limit.as_millis()
        ),
        None => "no time limit but the caller's own `grpc-timeout`".to_owned(),
    });
    answer.steps.push(match known {
        Some(method) if method.is_unary() => format!("{} is unary", path.method),
        None if callers.is_some_and(|it| it.is_unary()) => {
            format!("{} is unary, as its caller's own rule says", path.method)
        }
        Some(_) => format!("{} is streaming", path.method),
        None => format!("{} is not in the rule: taken as streaming", path.method),
    });
    // The callee's sidecar decides it, before all else; here it is told last of what is not picked.
    let authorized = authorized::judge(stack, &classified, path, question, answer)?;
    pick(stack, &call, classified, &head, answer)?;
    authorized
}

fn pick(
    stack: &Stack,
    call: &Call,
    mut classified: Classified,
    head: &Parts,
    answer: &mut Explanation,
) -> Result<(), Failure> {
    let target = &Arc::clone(&classified.target);
    if let Some(split) = &target.rule.split {
        answer
            .steps
            .push(match stack.part(&classified, call, &head.headers) {
                Some((part, why)) => {
                    classified.course = Course::to(split, part);
                    part_text(split, part, why)
                }
                None => "the named node is called, whatever part of the split it is in".to_owned(),
            });
    }
    let classified = &classified;
    // Before the hub is held: it is asked, too.
    let beside = stack.beside(classified, call);
    let others = match beside {
        Beside::Last(_) | Beside::Never => std::slice::from_ref(&stack.own.node),
        Beside::First(_) | Beside::Picked(_) | Beside::Nobody => &[],
    };
    let strategy = stack.spoken_strategy(classified).ok().flatten();
    let wanted = Wanted {
        node: call
            .node
            .as_ref()
            .map(sidelane_proto::model::NodeId::as_str),
        class: classified.class,
        agreement: classified.agreement(),
        exclude: others,
        course: classified.course,
        strategy,
        key: call.hash,
        caller: stack.own.node.as_str(),
    };
    let (mut hub, now) = (target.hub(), Instant::now());
    hub.settle(now);
    hub.settle_breakers(now);
    for candidate in hub.candidates(&wanted, now) {
        let endpoint = &candidate.endpoint;
        let address = endpoint.addresses.of(classified.class);
        answer.candidates.push(CandidateText {
            node_id: endpoint.node.to_string(),
            generation: endpoint.generation.number(),
            address: address.map(ToString::to_string).unwrap_or_default(),
            health: endpoint.offer.health.name(),
            wire_health: endpoint.offer.health.to_wire().into(),
            in_flight: candidate.in_flight,
            eligible: candidate.unfit.is_none(),
            reason: candidate
                .unfit
                .as_ref()
                .map(Unfit::to_string)
                .unwrap_or_default(),
            weight: candidate.weight,
            warmth: candidate.warmth,
            nearness: candidate.nearness.to_string(),
        });
    }
    match beside {
        Beside::First(local) => {
            answer.express(stack, local);
            return Ok(());
        }
        Beside::Last(local) => answer.steps.push(format!(
            "others come before {}, which stands beside this sidecar: {}",
            local.address,
            if stack.is_meant(classified, classified.course.first) {
                "it is not well"
            } else {
                "it is of another part"
            }
        )),
        Beside::Picked(_) | Beside::Never | Beside::Nobody => {}
    }
    let strategy = strategy.unwrap_or_else(|| hub.strategy());
    answer.steps.push(match &call.node {
        Some(node) => format!("standard mode: exactly node {node}"),
        None => format!("load-balancer mode: {strategy}"),
    });
    if let (_, Some(unknown)) = stack.mesh.strategies().serving(&target.rule) {
        let text = format!("{}; {} stands in", unknown.problem, hub.strategy());
        answer.steps.push(text);
    }
    if call.node.is_none() && strategy == Strategy::ConsistentHash {
        answer
            .steps
            .push(match (call.hash, classified.hash_header()) {
                (Some(_), _) => "key: the call's `sidelane-hash`".to_owned(),
                (None, Some(header)) => format!(
                    "key: the call's `{header}`, or without it the caller's node, {}",
                    stack.own.node
                ),
                (None, None) => format!("key: the caller's node, {}", stack.own.node),
            });
        let count = hub.counters().keyless_picks;
        let text = format!("{count} calls so far brought no key and went by the caller's node");
        answer.steps.push(text);
    }
    if let Some(circle) = hub.circle_for(&wanted) {
        answer.steps.push(format!(
            "near endpoints first: {}; farther ones get what is too much for them ({} calls so far)",
            match circle {
                Nearness::Zone => "those of this zone can take the call",
                Nearness::Region => "this zone cannot take the call, its region can",
                Nearness::Elsewhere => "neither this zone nor its region can take the call",
            },
            hub.counters().spilled_picks,
        ));
    }
    let alone = hub.iter().next().is_none();
    match (hub.peek(&wanted, fastrand::u64(..), now), beside) {
        (Ok(picked), Beside::Picked(local)) if picked.node == stack.own.node => {
            answer.express(stack, local);
        }
        (Ok(picked), _) => answer.pick = picked.node.to_string(),
        (Err(_), Beside::Last(local)) => answer.express(stack, local),
        (Err(_), Beside::Picked(local)) if alone => answer.express(stack, local),
        (Err(error), _) => return Err(stack.no_pick(target.name.as_str(), &error)),
    }
    Ok(())
}

/// Which part of a split a call falls to.
fn part_text(split: &Split, part: usize, why: Why) -> String {
    let Some(part) = split.parts.get(part) else {
        return String::new();
    };
    let why = match (why, &part.header) {
        (Why::Header, Some(header)) => format!("by its header {header}"),
        (Why::Key, _) => "by its key, with which it stays there".to_owned(),
        _ => format!("by chance, as {} in 100 calls", part.percent),
    };
    format!("split by label {}: {}, {why}", split.label, part.value)
}

/// Makes the head that such a call would have, and reads it as a real one is read.
fn read<'a>(question: &Question, view: &'a View) -> Result<Read<'a>, Failure> {
    use crate::call::CallError;
    use sidelane_proto::model::CallPath;
    // The URI parser would refuse some paths first, with a text of its own.
    CallPath::parse(&question.path).map_err(|error| Failure::from(CallError::from(error)))?;
    let mut request =
        http::Request::post(&question.path).header(http::header::CONTENT_TYPE, "application/grpc");
    if let Some(node) = &question.node {
        request = request.header(NODE_HEADER, node);
    }
    if let Some(lane) = &question.lane {
        request = request.header(LANE_HEADER, lane);
    }
    if let Some(hash) = &question.hash {
        request = request.header(HASH_HEADER, hash);
    }
    if let Some(rule) = &question.rule {
        request = request.header(RULE_HEADER, rule);
    }
    if let Some(header) = &question.header {
        let (name, value) = header.split_once(':').unwrap_or((header, ""));
        request = request.header(name.trim(), value.trim());
    }
    let request = request.body(()).map_err(|error| {
        Failure::refused(
            crate::reason::Reason::NotGrpc,
            format!("no such call: {error}"),
        )
    })?;
    let (mut head, ()) = request.into_parts();
    let find = |path: &str| view.find(path);
    let (call, found) = Call::read(&mut head, Caller::Local, Instant::now(), find)?;
    Ok((call, found, head))
}

impl Explanation {
    fn express(&mut self, stack: &Stack, local: &LocalService) {
        self.pick = stack.own.node.to_string();
        let address = &local.address;
        let text = format!("express path: served beside this sidecar, at {address}");
        self.steps.push(text);
    }

    fn note_rule(&mut self, rule: &Rule, source: RuleSource, strategy: &'static str) {
        self.rule_source = source.name();
        self.steps
            .push(format!("rule: {}, from {}", source.name(), rule.origin));
        self.rule = Some(RuleText {
            service: rule.service.to_string(),
            category: rule.category.name(),
            class: rule.class.name(),
            lane: rule.lane.name(),
            secure: rule.secure,
            persistent: rule.persistent,
            load_balancing: strategy,
            timeout_ms: rule.timeout.map(|timeout| timeout.as_millis()),
            origin: rule.origin.to_string(),
        });
        self.whole_rule = Some(rule.clone());
    }

    /// As the gRPC service says it.
    #[must_use]
    pub fn to_wire(&self) -> wire::ExplainResponse {
        wire::ExplainResponse {
            path: self.path.clone(),
            rule: self.whole_rule.as_ref().map(Into::into),
            rule_source: self.rule_source.to_owned(),
            policy: self
                .policy
                .iter()
                .map(|value| wire::PolicyValue {
                    name: value.name.to_owned(),
                    value: value.value.clone(),
                    from: value.from.clone(),
                })
                .collect(),
            steps: self.steps.clone(),
            candidates: self
                .candidates
                .iter()
                .map(|candidate| wire::Candidate {
                    node_id: candidate.node_id.clone(),
                    generation: candidate.generation,
                    address: candidate.address.clone(),
                    health: candidate.wire_health,
                    in_flight: candidate.in_flight,
                    eligible: candidate.eligible,
                    reason: candidate.reason.clone(),
                    weight: candidate.weight,
                    warmth: candidate.warmth.into(),
                    nearness: candidate.nearness.clone(),
                })
                .collect(),
            pick: self.pick.clone(),
            authorized: self
                .authorized
                .as_ref()
                .map(authorized::Authorized::to_wire),
            error: self.error.to_owned(),
            message: self.message.clone(),
        }
    }
}
