//! May these rules be applied? Pure, but for the last step, which makes what they define known to
//! the process. What each rule says is right when it comes here; this looks at what stands beside
//! it: the other rules, what nodes were compiled with, and what the project demands.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sidelane_proto::model::class::OwnClass;
use sidelane_proto::model::pushed::{RULES_BYTES_LIMIT, RULES_LIMIT};
use sidelane_proto::model::{
    ConnectionClass, FieldError, Lane, Problem, PushedRule, RefusedRule, Rule, ServiceName,
    Validation, validation,
};

use super::Proposal;
use crate::registry::{NodeKey, NodeRecord, Origin, RuleBook};

/// Judges a proposal. Returns the services whose rule is taken back.
///
/// # Errors
/// Everything that is wrong, by fields such as `rules[3].rule.lane` and `remove[0]`.
pub(super) fn check(
    proposal: &Proposal,
    book: &RuleBook,
    nodes: &[(Origin, Arc<NodeRecord>)],
    validations: &[Arc<dyn Validation>],
) -> Result<Vec<ServiceName>, Vec<RefusedRule>> {
    let mut wrong = Vec::new();
    let remove = removals(proposal, book, &mut wrong);
    let compiled = compiled(proposal, nodes);
    let known = Definitions::beside(proposal, book, &remove, nodes);
    for (place, pushed) in proposal.rules.iter().enumerate() {
        let beside = compiled.get(&*pushed.rule.service);
        let judged = known
            .check(&pushed.rule)
            .and_then(|()| one(pushed, beside.map_or(&[], Vec::as_slice), validations));
        if let Err(error) = judged {
            let error = error.within("rule");
            wrong.push(RefusedRule {
                service: pushed.rule.service.clone().into_owned(),
                version: 0,
                place,
                error: error.within(format_args!("rules[{place}]")),
            });
        }
    }
    room(proposal, book, &remove, &mut wrong);
    if wrong.is_empty() {
        return Ok(remove);
    }
    Err(wrong)
}

/// Makes the lanes and classes of a proposal known to the process, so that the next start finds
/// what it needs to read them, and a rule without a definition is understood.
///
/// # Errors
/// There are too many already.
pub(super) fn learn(proposal: &Proposal) -> Result<(), Vec<RefusedRule>> {
    for (place, pushed) in proposal.rules.iter().enumerate() {
        let learn = || {
            if let ConnectionClass::Own(class) = pushed.rule.class {
                let learned = OwnClass::learn(&class.to_wire());
                learned.map_err(|error| error.within("class_definition"))?;
            }
            if let Some(definition) = pushed.rule.lane.definition_to_wire() {
                let learned = Lane::learn(&definition);
                learned.map_err(|error| error.within("lane_definition"))?;
            }
            Ok(())
        };
        learn().map_err(|error: FieldError| {
            let error = error.within("rule");
            vec![RefusedRule {
                service: pushed.rule.service.clone().into_owned(),
                version: 0,
                place,
                error: error.within(format_args!("rules[{place}]")),
            }]
        })?;
    }
    Ok(())
}

fn removals(
    proposal: &Proposal,
    book: &RuleBook,
    wrong: &mut Vec<RefusedRule>,
) -> Vec<ServiceName> {
    let set = proposal.rules.iter().map(|pushed| &*pushed.rule.service);
    let set: HashSet<&str> = set.collect();
    let mut seen = HashSet::new();
    let mut remove = Vec::with_capacity(proposal.remove.len());
    for (place, given) in proposal.remove.iter().enumerate() {
        let judged = ServiceName::new(given).map_err(|error| error.problem);
        let judged = judged.and_then(|service| {
            if set.contains(given.as_str()) {
                let text = format!("`{given}` is given a rule as well: which of both is meant?");
                return Err(Problem::Contradiction(text));
            }
            if !seen.insert(given) {
                let given = given.clone();
                return Err(Problem::Duplicate { given });
            }
            if book.get(&proposal.network, &service).is_none() {
                return Err(not_applied(given, proposal, book));
            }
            Ok(service)
        });
        match judged {
            Ok(service) => remove.push(service),
            Err(problem) => wrong.push(RefusedRule {
                service: given.clone(),
                version: 0,
                place,
                error: FieldError::new(format!("remove[{place}]"), problem),
            }),
        }
    }
    remove
}

fn not_applied(given: &str, proposal: &Proposal, book: &RuleBook) -> Problem {
    let applied = book.of(&proposal.network);
    let services: Vec<&str> = applied.map(|pushed| &*pushed.rule.service).collect();
    let nearest = sidelane_proto::model::error::nearest(given, services.iter().copied());
    let meant = nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    Problem::Refused(format!(
        "`{given}` has no applied rule in network `{}`{meant} (`sidelane rules` lists all {})",
        proposal.network,
        services.len()
    ))
}

/// The rule with which a node was compiled, and whose it is.
type Compiled<'a> = (&'a NodeKey, &'a Rule);

/// Of each service in a proposal, the rules with which nodes of its network were compiled.
fn compiled<'a>(
    proposal: &Proposal,
    nodes: &'a [(Origin, Arc<NodeRecord>)],
) -> HashMap<&'a str, Vec<Compiled<'a>>> {
    let named = proposal.rules.iter().map(|pushed| &*pushed.rule.service);
    let named: HashSet<&str> = named.collect();
    let mut compiled: HashMap<&str, Vec<Compiled<'_>>> = HashMap::new();
    for (node, rule) in offered(proposal, nodes) {
        if named.contains(&*rule.service) {
            let rules = compiled.entry(&rule.service).or_default();
            // Most nodes of a service are of one build.
            if !rules.iter().any(|(_, known)| *known == rule) {
                rules.push((node, rule));
            }
        }
    }
    compiled
}

fn offered<'a>(
    proposal: &Proposal,
    nodes: &'a [(Origin, Arc<NodeRecord>)],
) -> impl Iterator<Item = Compiled<'a>> {
    let network = proposal.network.clone();
    let nodes = nodes.iter().map(|(_, record)| record);
    let ours = nodes.filter(move |record| record.key.network == network);
    ours.flat_map(|record| {
        let rules = record
            .offers
            .iter()
            .filter_map(|offer| offer.rule.as_deref());
        rules.map(|rule| (&record.key, rule))
    })
}

/// Judges a rule beside those that nodes were compiled with, and by what the project demands of
/// the rule that would hold.
fn one(
    pushed: &PushedRule,
    compiled: &[Compiled<'_>],
    validations: &[Arc<dyn Validation>],
) -> Result<(), FieldError> {
    let demand = |whole: &Rule| {
        let validations = validations.iter().map(|validation| &**validation);
        validation::run(validations.map(|it| it as &dyn Validation), whole)
    };
    for (node, rule) in compiled {
        pushed.check_against(rule).map_err(|error| {
            let text = format!("{} (node `{node}`)", error.problem);
            FieldError::new(error.path, Problem::Refused(text))
        })?;
        demand(&pushed.beside(rule, true))?;
    }
    if compiled.is_empty() {
        let default = Rule::default_for(&ServiceName::new(&pushed.rule.service)?);
        demand(&pushed.beside(&default, false))?;
    }
    Ok(())
}

/// The lanes and classes that rules beside a proposal have, and where.
#[derive(Default)]
struct Definitions {
    lanes: Vec<(Lane, String)>,
    classes: Vec<(OwnClass, String)>,
    /// All that the process knows. Of one id and name it holds one definition for good.
    known_lanes: Vec<Lane>,
    known_classes: Vec<ConnectionClass>,
}

impl Definitions {
    fn beside(
        proposal: &Proposal,
        book: &RuleBook,
        remove: &[ServiceName],
        nodes: &[(Origin, Arc<NodeRecord>)],
    ) -> Self {
        let replaced = proposal.rules.iter().map(|pushed| &*pushed.rule.service);
        let gone: HashSet<&str> = replaced
            .chain(remove.iter().map(ServiceName::as_str))
            .collect();
        let mut definitions = Self {
            known_lanes: Lane::known(),
            known_classes: ConnectionClass::known(),
            ..Self::default()
        };
        for pushed in book.of(&proposal.network) {
            if !gone.contains(&*pushed.rule.service) {
                let rule = &pushed.rule;
                definitions.add(rule, || format!("the applied rule of `{}`", rule.service));
            }
        }
        for (node, rule) in offered(proposal, nodes) {
            definitions.add(rule, || format!("node `{node}`"));
        }
        definitions
    }

    fn add(&mut self, rule: &Rule, origin: impl Fn() -> String) {
        let lane = rule.lane;
        if lane.bounds().is_some() && !self.lanes.iter().any(|(known, _)| *known == lane) {
            self.lanes.push((lane, origin()));
        }
        for class in own_classes(rule) {
            if !self.classes.iter().any(|(known, _)| *known == class) {
                self.classes.push((class, origin()));
            }
        }
    }

    /// Does what this rule defines clash with anything that stands beside it?
    fn check(&self, rule: &Rule) -> Result<(), FieldError> {
        for class in own_classes(rule) {
            self.check_class(class)
                .map_err(|error| error.within("class_definition"))?;
        }
        if rule.lane.bounds().is_some() {
            self.check_lane(rule.lane)
                .map_err(|error| error.within("lane_definition"))?;
        }
        Ok(())
    }

    fn check_lane(&self, lane: Lane) -> Result<(), FieldError> {
        for (known, origin) in &self.lanes {
            let same = (known.id() == lane.id(), known.name() == lane.name());
            taken(same, ("id", lane.id().into()), "lane", known.name(), origin)?;
        }
        let differs = |known: &&Lane| **known == lane && known.definition() != lane.definition();
        match self.known_lanes.iter().find(differs) {
            Some(_) => Err(redefined("lane", lane.name(), "id")),
            None => Ok(()),
        }
    }

    fn check_class(&self, class: OwnClass) -> Result<(), FieldError> {
        let (number, name) = (class.definition().number, class.definition().name);
        for (known, origin) in &self.classes {
            let known = known.definition();
            let same = (known.number == number, known.name == name);
            taken(same, ("number", number.into()), "class", known.name, origin)?;
        }
        let differs = |known: &&ConnectionClass| match known {
            ConnectionClass::Own(known) => {
                *known == class && known.definition() != class.definition()
            }
            ConnectionClass::Internal | ConnectionClass::External => false,
        };
        match self.known_classes.iter().find(differs) {
            Some(_) => Err(redefined("class", name, "number")),
            None => Ok(()),
        }
    }
}

/// The project's own classes that a rule brings: its own one, and those of its lane.
fn own_classes(rule: &Rule) -> impl Iterator<Item = OwnClass> {
    let classes = std::iter::once(&rule.class).chain(rule.lane.definition().classes);
    classes.filter_map(|class| match class {
        ConnectionClass::Own(class) => Some(*class),
        ConnectionClass::Internal | ConnectionClass::External => None,
    })
}

/// `same`: do number and name agree? One without the other is a clash.
fn taken(
    same: (bool, bool),
    (field, number): (&str, u32),
    what: &str,
    name: &str,
    origin: &str,
) -> Result<(), FieldError> {
    let (path, given) = match same {
        (true, false) => (field, format!("{number} ")),
        (false, true) => ("name", String::new()),
        (true, true) | (false, false) => return Ok(()),
    };
    let text = format!("{given}is taken by {what} `{name}` of {origin}; take another {path}");
    Err(FieldError::new(path, Problem::Refused(text)))
}

fn redefined(what: &str, name: &str, number: &str) -> FieldError {
    let text = format!(
        "{what} `{name}` is known here with another definition, and sidecars that run may hold it: \
         it is not changed under them; take another {number} and name"
    );
    FieldError::new("name", Problem::Refused(text))
}

/// What is applied has bounds, so that every sidecar can hold it and be told it at once.
fn room(
    proposal: &Proposal,
    book: &RuleBook,
    remove: &[ServiceName],
    wrong: &mut Vec<RefusedRule>,
) {
    let (mut count, mut bytes) = (book.count(), book.bytes());
    let names = proposal.rules.iter().map(|pushed| &*pushed.rule.service);
    let names = names.filter_map(|name| ServiceName::new(name).ok());
    for service in names.chain(remove.iter().cloned()) {
        if let Some(before) = book.get(&proposal.network, &service) {
            count -= 1;
            bytes -= before.to_bytes().len();
        }
    }
    count += proposal.rules.len();
    let sizes = proposal.rules.iter().map(|pushed| pushed.to_bytes().len());
    bytes += sizes.sum::<usize>();
    let text = if count > RULES_LIMIT {
        format!("{count} rules would be applied, and no more than {RULES_LIMIT} can be")
    } else if bytes > RULES_BYTES_LIMIT {
        format!("all rules would have {bytes} bytes, and no more than {RULES_BYTES_LIMIT} can be")
    } else {
        return;
    };
    wrong.push(RefusedRule {
        service: String::new(),
        version: 0,
        place: 0,
        error: FieldError::new("rules", Problem::OutOfBounds(text)),
    });
}

#[cfg(test)]
mod tests;
