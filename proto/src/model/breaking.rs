//! Would a change of rules break a mesh that runs? Nodes of the old build and of the new one meet
//! for a while, and calls that were safe with one must be safe with the other. Pure: two
//! descriptions are compared, wherever they came from.

use std::collections::HashMap;
use std::fmt;

use super::authorization::Holds;
use super::class::{ClassDefinition, OwnClass};
use super::lane::{Lane, LaneDefinition};
use super::rule::Rule;

/// Services, and what their rules stand on.
#[derive(Debug, Clone, Default)]
pub struct Described<'a> {
    /// All services, each once.
    pub services: Vec<DescribedService<'a>>,
    /// Lanes of the project's own, and where each is defined.
    pub lanes: Vec<(Lane, &'a str)>,
    /// Classes of the project's own, and where each is defined.
    pub classes: Vec<(OwnClass, &'a str)>,
}

/// A service as it is described.
#[derive(Debug, Clone)]
pub struct DescribedService<'a> {
    /// Its full name.
    pub name: &'a str,
    /// Where it is: `file:line`.
    pub origin: &'a str,
    /// Its methods' names.
    pub methods: Vec<&'a str>,
    /// Its rule, if it has one.
    pub rule: Option<&'a Rule>,
}

/// A change that breaks a mesh that runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Break {
    /// What it is about: a service, a lane or a class, by name.
    pub subject: String,
    /// What changed.
    pub what: What,
    /// Where the old one is.
    pub old: String,
    /// Where the new one is; empty where there is none.
    pub new: String,
}

/// What changed, from the old description to the new one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The service is gone.
    ServiceRemoved,
    /// A method is gone.
    MethodRemoved(String),
    /// The service has no rule any more.
    RuleRemoved,
    /// The class is another one.
    ClassMoved(&'static str, &'static str),
    /// The lane is another one.
    LaneMoved(String, String),
    /// It may travel in the clear now.
    SecureDropped,
    /// It may not travel in the clear any more.
    SecureAdded,
    /// This method may not run twice any more.
    IdempotentWithdrawn(String),
    /// Callers may come in whom it refused: to this method, or to all that have no list of their own;
    /// and who, in words.
    LetsMoreIn(Option<String>, String),
    /// Nor at two endpoints at once, as callers by the old rule have it run.
    HedgedWithdrawn(String),
    /// This method runs at two endpoints at once, and might not run twice before.
    HedgedTooSoon(String),
    /// The lane promises something else.
    LaneRedefined(String),
    /// The class is something else.
    ClassRedefined(String),
}

/// Everything in `new` that would break a mesh that runs by `old`, in the order of names.
#[must_use]
pub fn breaking(old: &Described<'_>, new: &Described<'_>) -> Vec<Break> {
    let services = new.services.iter().map(|service| (service.name, service));
    let services: HashMap<&str, &DescribedService<'_>> = services.collect();
    let mut breaks = Vec::new();
    for before in &old.services {
        match services.get(before.name) {
            Some(after) => service(before, after, &mut breaks),
            None => breaks.push(Break {
                subject: before.name.to_owned(),
                what: What::ServiceRemoved,
                old: before.origin.to_owned(),
                new: String::new(),
            }),
        }
    }
    for (before, origin) in &old.lanes {
        for (after, place) in &new.lanes {
            let (before, after) = (before.definition(), after.definition());
            if before.name == after.name || before.id == after.id {
                let differs = lane_differences(before, after);
                let redefined = What::LaneRedefined(differs.join(", "));
                redefine(
                    &differs,
                    before.name,
                    redefined,
                    (origin, place),
                    &mut breaks,
                );
            }
        }
    }
    for (before, origin) in &old.classes {
        for (after, place) in &new.classes {
            let (before, after) = (before.definition(), after.definition());
            if before.name == after.name || before.number == after.number {
                let differs = class_differences(before, after);
                let redefined = What::ClassRedefined(differs.join(", "));
                redefine(
                    &differs,
                    before.name,
                    redefined,
                    (origin, place),
                    &mut breaks,
                );
            }
        }
    }
    breaks.sort();
    breaks.dedup();
    breaks
}

fn service(before: &DescribedService<'_>, after: &DescribedService<'_>, breaks: &mut Vec<Break>) {
    // A rule's own place is nearer than its service's.
    let of = |service: &DescribedService<'_>| {
        let rule = service.rule.filter(|rule| !rule.origin.is_empty());
        rule.map_or_else(|| service.origin.to_owned(), |rule| rule.origin.to_string())
    };
    let mut found = |what| {
        breaks.push(Break {
            subject: before.name.to_owned(),
            what,
            old: of(before),
            new: of(after),
        });
    };
    for method in &before.methods {
        if !after.methods.contains(method) {
            found(What::MethodRemoved((*method).to_owned()));
        }
    }
    let (Some(old), new) = (before.rule, after.rule) else {
        // Whoever calls by no rule of its own follows the one that is offered.
        return;
    };
    let Some(new) = new else {
        return found(What::RuleRemoved);
    };
    if old.class != new.class {
        found(What::ClassMoved(old.class.name(), new.class.name()));
    }
    if old.lane != new.lane {
        let text = |lane: Lane| match lane.bounds() {
            Some(_) => format!("{} ({})", lane.name(), lane.id()),
            None => lane.name().to_owned(),
        };
        found(What::LaneMoved(text(old.lane), text(new.lane)));
    }
    match (old.secure, new.secure) {
        (true, false) => found(What::SecureDropped),
        (false, true) => found(What::SecureAdded),
        (true, true) | (false, false) => {}
    }
    for method in old.methods.iter().filter(|method| method.idempotent) {
        let kept = new.method(&method.name).map(|method| method.idempotent);
        let there = after.methods.contains(&&*method.name);
        // One that is gone was named already.
        if kept != Some(true) && there {
            let name = method.name.to_string();
            found(match method.hedged() {
                Some(_) => What::HedgedWithdrawn(name),
                None => What::IdempotentWithdrawn(name),
            });
        }
    }
    for method in new.methods.iter().filter(|it| it.hedged().is_some()) {
        let bore_it = old.method(&method.name).map(|method| method.idempotent);
        // What is new nobody runs yet.
        if bore_it != Some(true) && before.methods.contains(&&*method.name) {
            found(What::HedgedTooSoon(method.name.to_string()));
        }
    }
    let holds = |method: &str| Holds::of(new, method).widens(Holds::of(old, method));
    if let Some(who) = holds("") {
        found(What::LetsMoreIn(None, who));
    }
    for method in &after.methods {
        let has_list = |rule: &Rule| {
            rule.method(method)
                .is_some_and(|it| it.authorization.is_some())
        };
        if (has_list(old) || has_list(new))
            && let Some(who) = holds(method)
        {
            found(What::LetsMoreIn(Some((*method).to_owned()), who));
        }
    }
}

fn redefine(
    differs: &[String],
    name: &str,
    what: What,
    (old, new): (&str, &str),
    breaks: &mut Vec<Break>,
) {
    if !differs.is_empty() {
        breaks.push(Break {
            subject: name.to_owned(),
            what,
            old: old.to_owned(),
            new: new.to_owned(),
        });
    }
}

fn lane_differences(old: &LaneDefinition, new: &LaneDefinition) -> Vec<String> {
    let mut differs = Differences::default();
    differs.note("id", old.id, new.id);
    differs.note("name", old.name, new.name);
    let [old_classes, new_classes] = [old, new].map(|lane| {
        let mut names: Vec<_> = lane.classes.iter().map(|class| class.name()).collect();
        names.sort_unstable();
        names.join(" ")
    });
    differs.note("connections", &*old_classes, &*new_classes);
    if let (Some(old), Some(new)) = (&old.bounds, &new.bounds) {
        differs.note("window", old.window, new.window);
        differs.note(
            "connection_window",
            old.connection_window,
            new.connection_window,
        );
        differs.note("max_streams", old.max_streams, new.max_streams);
        differs.note("max_connections", old.max_connections, new.max_connections);
        differs.note("max_waiting", old.max_waiting, new.max_waiting);
        differs.note("dscp", old.dscp, new.dscp);
        differs.note("priority", old.priority, new.priority);
    }
    differs.0
}

fn class_differences(old: &ClassDefinition, new: &ClassDefinition) -> Vec<String> {
    let mut differs = Differences::default();
    differs.note("number", old.number, new.number);
    differs.note("name", old.name, new.name);
    let [old_lanes, new_lanes] = [old, new].map(|class| {
        let mut names: Vec<_> = class.lanes.iter().map(|lane| lane.name()).collect();
        names.sort_unstable();
        names.join(" ")
    });
    differs.note("lanes", &*old_lanes, &*new_lanes);
    differs.0
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn note<T: PartialEq + fmt::Display + Copy>(&mut self, field: &str, old: T, new: T) {
        if old != new {
            self.0.push(format!("{field} from {old} to {new}"));
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceRemoved => formatter.write_str(
                "is gone: whoever calls it gets NO_ENDPOINT, and then UNKNOWN_SERVICE",
            ),
            Self::MethodRemoved(method) => write!(
                formatter,
                "has no method `{method}` any more: whoever calls it gets UNIMPLEMENTED"
            ),
            Self::RuleRemoved => formatter.write_str(
                "has no rule any more: new nodes take it for Internal and General, and old ones for \
                 what they were compiled with",
            ),
            Self::ClassMoved(from, to) => write!(
                formatter,
                "moves from class {from} to {to}: old and new nodes refuse each other with \
                 RULES_MISMATCH"
            ),
            Self::LaneMoved(from, to) => write!(
                formatter,
                "moves from lane {from} to {to}: old and new nodes refuse each other with \
                 RULES_MISMATCH"
            ),
            Self::SecureDropped => formatter.write_str(
                "is secure no more: old and new nodes refuse each other with RULES_MISMATCH, and \
                 then calls may travel in the clear",
            ),
            Self::SecureAdded => formatter.write_str(
                "becomes secure: old and new nodes refuse each other with RULES_MISMATCH",
            ),
            Self::IdempotentWithdrawn(method) => write!(
                formatter,
                "has `{method}` no more as idempotent: old callers may still try it a second time"
            ),
            Self::LetsMoreIn(method, who) => {
                formatter.write_str("lets callers in whom it refused")?;
                if let Some(method) = method {
                    write!(formatter, ", to `{method}`")?;
                }
                write!(formatter, ": {who}")
            }
            Self::HedgedWithdrawn(method) => write!(
                formatter,
                "has `{method}` no more as idempotent: old callers hedge it, and may still run it at \
                 several endpoints at once"
            ),
            Self::HedgedTooSoon(method) => write!(
                formatter,
                "hedges `{method}`, which was not idempotent: new callers may run it at several \
                 endpoints of the old build at once; say `idempotent: true` first, and hedge when \
                 every node has that"
            ),
            Self::LaneRedefined(how) => write!(
                formatter,
                "is a lane that becomes another one ({how}), and sidecars that run keep the old one: \
                 take a new id and name"
            ),
            Self::ClassRedefined(how) => write!(
                formatter,
                "is a class that becomes another one ({how}), and sidecars that run keep the old \
                 one: take a new number and name"
            ),
        }
    }
}

impl What {
    /// A name for programs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ServiceRemoved => "SERVICE_REMOVED",
            Self::MethodRemoved(_) => "METHOD_REMOVED",
            Self::RuleRemoved => "RULE_REMOVED",
            Self::ClassMoved(..) => "CLASS_MOVED",
            Self::LaneMoved(..) => "LANE_MOVED",
            Self::SecureDropped => "SECURE_DROPPED",
            Self::SecureAdded => "SECURE_ADDED",
            Self::IdempotentWithdrawn(_) => "IDEMPOTENT_WITHDRAWN",
            Self::LetsMoreIn(..) => "LETS_MORE_IN",
            Self::HedgedWithdrawn(_) => "HEDGED_WITHDRAWN",
            Self::HedgedTooSoon(_) => "HEDGED_TOO_SOON",
            Self::LaneRedefined(_) => "LANE_REDEFINED",
            Self::ClassRedefined(_) => "CLASS_REDEFINED",
        }
    }
}
