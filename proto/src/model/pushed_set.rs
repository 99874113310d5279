//! Rules that are applied together. Read as a whole: what one of them defines, all of them may
//! name, and everything that is wrong is found at once. Nothing of it becomes known to the
//! process, so that a set that is refused or only tried leaves no trace.

use std::collections::{HashMap, HashSet};

use super::class::ConnectionClass;
use super::error::{FieldError, Problem};
use super::lane::Lane;
use super::pushed::{PushedRule, RULES_LIMIT};
use super::rule::Rule;
use super::snapshot::RefusedRule;
use super::vocabulary::Vocabulary;
use crate::wire::routing::v1 as wire;

/// Reads the rules of a set. A lane or class that a rule brings no definition of may be defined by
/// another one, or be known to the process.
///
/// # Errors
/// Everything that is wrong, by fields such as `rules[3].rule.lane`, in the order of the rules.
pub fn read(rules: Vec<wire::PushedRule>) -> Result<Vec<PushedRule>, Vec<RefusedRule>> {
    if rules.len() > RULES_LIMIT {
        let (count, limit) = (rules.len(), RULES_LIMIT);
        let error = FieldError::new("rules", Problem::TooMany { count, limit });
        return Err(vec![RefusedRule {
            service: String::new(),
            version: 0,
            place: 0,
            error,
        }]);
    }
    let mut set = Set::default();
    let mut wrong: HashMap<usize, FieldError> = HashMap::new();
    for (index, pushed) in rules.iter().enumerate() {
        if let Some(rule) = &pushed.rule
            && let Err(error) = set.define(rule)
        {
            wrong.insert(index, error.within("rule"));
        }
    }
    set.finish();
    let mut services = HashSet::with_capacity(rules.len());
    let (mut good, mut bad) = (Vec::with_capacity(rules.len()), Vec::new());
    for (index, pushed) in rules.into_iter().enumerate() {
        let rule = pushed.rule.as_ref();
        let service = rule.map_or_else(String::new, |rule| rule.service.clone());
        let version = pushed.version;
        let read = match wrong.remove(&index) {
            Some(error) => Err(error),
            None => PushedRule::read(pushed, |rule| set.rule(rule)),
        };
        let read = read.and_then(|pushed| {
            if services.insert(pushed.rule.service.clone()) {
                return Ok(pushed);
            }
            let given = service.clone();
            Err(FieldError::new(
                "rule.service",
                Problem::Duplicate { given },
            ))
        });
        match read {
            Ok(pushed) => good.push(pushed),
            Err(error) => bad.push(RefusedRule {
                service,
                version,
                place: index,
                error: error.within(format_args!("rules[{index}]")),
            }),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

/// What the rules of a set define, each thing once.
#[derive(Default)]
struct Set {
    vocabulary: Vocabulary,
    defined_lanes: HashMap<(u32, String), (wire::Lane, String)>,
    defined_classes: HashMap<(u32, String), (wire::Class, String)>,
    lanes: Vec<Lane>,
    classes: Vec<ConnectionClass>,
}

impl Set {
    /// Takes in what a rule defines. Most rules of one lane bring the same definition.
    fn define(&mut self, rule: &wire::Rule) -> Result<(), FieldError> {
        let origin = match rule.origin.as_str() {
            "" => &rule.service,
            origin => origin,
        };
        if let Some(class) = &rule.class_definition {
            self.define_class(class, origin, "class_definition")?;
        }
        if let Some(lane) = &rule.lane_definition {
            let key = (lane.id, lane.name.clone());
            let path = "lane_definition";
            for (index, class) in lane.class_definitions.iter().enumerate() {
                let path = format!("{path}.class_definitions[{index}]");
                self.define_class(class, origin, &path)?;
            }
            match self.defined_lanes.get(&key) {
                Some((same, _)) if same == lane => {}
                Some((_, other)) => return Err(differs(path, "lane", &lane.name, other)),
                None => {
                    let defined = self.vocabulary.define_lane(lane, origin);
                    defined.map_err(|error| error.within(path))?;
                    let definition = (lane.clone(), origin.to_owned());
                    self.defined_lanes.insert(key, definition);
                }
            }
        }
        Ok(())
    }

    fn define_class(
        &mut self,
        class: &wire::Class,
        origin: &str,
        path: &str,
    ) -> Result<(), FieldError> {
        let key = (class.number, class.name.clone());
        match self.defined_classes.get(&key) {
            Some((same, _)) if same == class => {}
            Some((_, other)) => return Err(differs(path, "class", &class.name, other)),
            None => {
                let defined = self.vocabulary.define_class(class, origin);
                defined.map_err(|error| error.within(path))?;
                let definition = (class.clone(), origin.to_owned());
                self.defined_classes.insert(key, definition);
            }
        }
        Ok(())
    }

    /// All is defined.
    fn finish(&mut self) {
        self.lanes = self.vocabulary.lanes();
        self.classes = self.vocabulary.classes();
    }

    fn rule(&self, rule: wire::Rule) -> Result<Rule, FieldError> {
        // The service first: it is what people look for in an error.
        super::name::ServiceName::new(&rule.service)?;
        let (class, lane) = (self.class(&rule)?, self.lane(&rule)?);
        Rule::from_wire(rule, class, lane)
    }

    fn class(&self, rule: &wire::Rule) -> Result<ConnectionClass, FieldError> {
        let mut own = self.classes.iter();
        let own = rule.class_definition.as_ref().and_then(|definition| {
            let number = |class: &ConnectionClass| u32::from(class.number());
            own.find(|class| number(class) == definition.number && class.name() == definition.name)
        });
        match own {
            Some(class) if rule.connection == 0 => Ok(*class),
            // A number of Sidelane's own, or a contradiction.
            _ => ConnectionClass::from_wire(
                rule.connection,
                rule.class_definition.as_ref(),
                "connection",
            ),
        }
    }

    fn lane(&self, rule: &wire::Rule) -> Result<Lane, FieldError> {
        let named = |lane: &&Lane| u32::from(lane.id()) == rule.lane_id && lane.name() == rule.lane;
        let meant =
            |definition: &wire::Lane| definition.id == rule.lane_id && definition.name == rule.lane;
        match self.lanes.iter().find(named) {
            Some(lane) if rule.lane_definition.as_ref().is_none_or(meant) => Ok(*lane),
            // Known to the process, or a contradiction.
            _ => Lane::from_wire(rule.lane_id, &rule.lane, rule.lane_definition.as_ref()),
        }
    }
}

fn differs(path: &str, what: &str, name: &str, other: &str) -> FieldError {
    let text = format!("{what} `{name}` is defined differently at {other}");
    FieldError::new(path, Problem::Contradiction(text))
}
