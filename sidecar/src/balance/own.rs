//! Strategies of a project's own: what they are asked, and the list of those that this sidecar was
//! built with. A rule names one by `load_balancing_custom`; a name that is not in the list is an
//! error where rules are taken in, and a call never meets it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sidelane_proto::model::error::Problem;
use sidelane_proto::model::{
    ConnectionClass, Endpoint, FieldError, Lane, LoadBalancing, Rule, Validation,
};

use super::strategy::{Own, Strategy};

/// Picks an endpoint for a call in a way of its own. It is pure: the same question is always
/// answered alike, and chance and load are part of it. It is asked for every attempt of every call,
/// while the hub is held, so it must be quick and must not block.
///
/// ```
/// use sidelane_sidecar::balance::{CallFacts, Choice, OwnStrategy};
///
/// /// The newest version first; among its endpoints, the one with the least to do.
/// struct NewestFirst;
///
/// impl OwnStrategy for NewestFirst {
///     fn choose(&self, choices: &[Choice<'_>], _call: &CallFacts) -> Option<usize> {
///         let version = |choice: &Choice<'_>| choice.endpoint.offer.labels.get("version").cloned();
///         let newest = choices.iter().map(version).max()?;
///         let mut indices: Vec<usize> = (0..choices.len()).collect();
///         indices.retain(|index| version(&choices[*index]) == newest);
///         indices.into_iter().min_by_key(|index| choices[*index].in_flight)
///     }
/// }
/// ```
pub trait OwnStrategy: Send + Sync {
    /// The index of the endpoint that the call goes to. The choices are all that can take it, at
    /// least one, in the order of their nodes' names. `None`, or an index that there is not, fails
    /// the call with `NO_ENDPOINT`, and the text says so.
    fn choose(&self, choices: &[Choice<'_>], call: &CallFacts) -> Option<usize>;
}

/// An endpoint that can take the call.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Its node, locality, weight and labels.
    pub endpoint: &'a Endpoint,
    /// Calls of this sidecar that are in flight there.
    pub in_flight: u64,
    /// How long it takes to answer, as a moving average; `None` until it has answered once.
    pub latency: Option<Duration>,
}

/// What may be known of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallFacts {
    /// The hash of the key that it brings.
    pub key: Option<u64>,
    /// The hash of its caller's node.
    pub caller: u64,
    /// Any 64 bits, for what is left to chance.
    pub random: u64,
}

/// The project's own strategies, by name. What is taken in stays for as long as the program runs:
/// hubs and calls hold it without counting.
#[derive(Clone, Default)]
pub struct Strategies(BTreeMap<&'static str, &'static dyn OwnStrategy>);

/// A strategy cannot be taken in under this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrategyNameError {
    /// No rule could name it so.
    #[error("strategy `{0}`: a name is lower-case letters, digits and `_`")]
    Malformed(String),
    /// There is one of this name.
    #[error("strategy `{0}` is named twice")]
    Duplicate(String),
}

impl Strategies {
    /// Takes a strategy in.
    ///
    /// # Errors
    /// The name is none, or another strategy has it.
    pub fn add(
        &mut self,
        name: &str,
        strategy: impl OwnStrategy + 'static,
    ) -> Result<(), StrategyNameError> {
        if !may_be_named(name) {
            return Err(StrategyNameError::Malformed(name.to_owned()));
        }
        if self.0.contains_key(name) {
            return Err(StrategyNameError::Duplicate(name.to_owned()));
        }
        let name = Box::leak(Box::from(name));
        self.0.insert(name, Box::leak(Box::new(strategy)));
        Ok(())
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// The strategy that a rule asks for.
    ///
    /// # Errors
    /// It names one that this sidecar was not built with.
    pub fn of(&self, rule: &Rule) -> Result<Strategy, FieldError> {
        self.named(rule.load_balancing, rule.strategy.as_deref())
    }

    /// The strategy of that name of the project's own, or else of Sidelane's.
    ///
    /// # Errors
    /// As [`Strategies::of`].
    pub fn named(
        &self,
        asked: Option<LoadBalancing>,
        own: Option<&str>,
    ) -> Result<Strategy, FieldError> {
        let Some(name) = own else {
            return Ok(Strategy::of(asked));
        };
        let Some((name, strategy)) = self.0.get_key_value(name) else {
            let what = "strategy of this sidecar";
            let problem = match self.0.is_empty() {
                true => Problem::Refused(format!(
                    "`{name}` is not a known {what}, which was built with none of its own"
                )),
                false => Problem::unknown_name(name, what, self.names()),
            };
            return Err(FieldError::new("load_balancing_custom", problem));
        };
        Ok(Strategy::Own(Own {
            name,
            strategy: *strategy,
        }))
    }

    /// The strategy that serves a rule which must be served: that of a service whose nodes offer
    /// a rule with a strategy that is not known here. The default stands in then, and the error
    /// says so to those who ask.
    #[must_use]
    pub fn serving(&self, rule: &Rule) -> (Strategy, Option<FieldError>) {
        match self.of(rule) {
            Ok(strategy) => (strategy, None),
            Err(error) => (Strategy::default(), Some(error)),
        }
    }
}

/// Rules that are compiled in or pushed are refused if they name a strategy that there is not.
impl Validation for Strategies {
    fn name(&self) -> &'static str {
        "strategies"
    }

    fn check(&self, rule: &Rule) -> Result<(), FieldError> {
        self.of(rule).map(drop)
    }
}

impl fmt::Debug for Strategies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.names()).finish()
    }
}

/// Asked of the rules themselves, so that a strategy which is taken in can be named in one.
fn may_be_named(name: &str) -> bool {
    let (class, lane) = (ConnectionClass::Internal, Lane::GENERAL);
    let rule = Rule {
        strategy: Some(name.to_owned().into()),
        ..Rule::new("any.Service", class, lane, &[], "")
    };
    rule.flaw().is_none()
}
