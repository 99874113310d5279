//! What a caller says of its own rule with each call, in the header [`RULE_HEADER`], so that its
//! sidecar cannot send the call by another one: where class, lane or secure differ the sidecar
//! refuses, and where it knows no rule itself it obeys this one.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::class::ConnectionClass;
use super::error::{FieldError, Problem};
use super::flaw::is_limit;
use super::lane::{Lane, check_name};
use super::matrix::check_pair;
use super::rule::{LoadBalancing, MethodRule, Rule};

/// The header that carries it.
pub const RULE_HEADER: &str = "sidelane-rule";
/// The longest text of one, in bytes.
pub const SPOKEN_LIMIT: usize = 512;

/// A rule as a caller says it: what its own build says of a service, as far as it bears on how one
/// call is sent. The text is `CLASS/LANE` and then what each key means, in this order where it is
/// written and in any where it is read:
///
/// ```
/// use sidelane_proto::model::SpokenRule;
///
/// let text = "Internal/gossip/secure=false/balancing=RANDOM/persistent=false/timeout=5000ms";
/// let spoken: SpokenRule = text.parse()?;
/// assert!(!spoken.secure && !spoken.persistent);
/// assert_eq!(spoken.to_string(), text);
/// # Ok::<(), sidelane_proto::model::FieldError>(())
/// ```
///
/// `balancing` is the name of one of Sidelane's strategies, or `own:NAME` for one of the
/// project's; it and `timeout` are missing where the rule says nothing of them, and others may.
/// `unary=true` stands in place of `timeout`, which only unary calls have. A key that is not known is
/// passed over: a caller may be newer than its sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpokenRule {
    /// From where the service may be reached.
    pub class: ConnectionClass,
    /// The lane in which its calls travel.
    pub lane: Lane,
    /// Refused rather than sent in the clear.
    pub secure: bool,
    /// How an endpoint is picked.
    pub load_balancing: Option<LoadBalancing>,
    /// A strategy of one's own instead.
    pub strategy: Option<Cow<'static, str>>,
    /// The channel is kept open while idle.
    pub persistent: bool,
    /// One message each way: it has a time limit, whoever says which.
    pub unary: bool,
    /// The time limit of this call, should it bring none; streams have none.
    pub timeout: Option<Duration>,
}

impl SpokenRule {
    /// What `rule` says of a call of this method; `None` for one that it does not know, which
    /// counts as streaming.
    #[must_use]
    pub fn of(rule: &Rule, method: Option<&MethodRule>) -> Self {
        let unary = method.filter(|method| method.is_unary());
        Self {
            class: rule.class,
            lane: rule.lane,
            secure: rule.secure,
            load_balancing: rule.load_balancing,
            strategy: rule.strategy.clone(),
            persistent: rule.persistent,
            unary: unary.is_some(),
            timeout: unary.and_then(|method| method.timeout.or(rule.timeout)),
        }
    }

    /// What two nodes must agree on, as [`Rule::agreement`].
    #[must_use]
    pub fn agreement(&self) -> (ConnectionClass, Lane, bool) {
        (self.class, self.lane, self.secure)
    }
}

impl fmt::Display for SpokenRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, lane) = (self.class, self.lane);
        write!(formatter, "{class}/{lane}/secure={}", self.secure)?;
        match (&self.strategy, self.load_balancing) {
            (Some(own), _) => write!(formatter, "/balancing=own:{own}")?,
            (None, Some(strategy)) => write!(formatter, "/balancing={}", strategy.name())?,
            (None, None) => (),
        }
        write!(formatter, "/persistent={}", self.persistent)?;
        match self.timeout {
            // Rounded up: a limit above zero must not become none.
            Some(timeout) => write!(
                formatter,
                "/timeout={}ms",
                timeout.as_nanos().div_ceil(1_000_000)
            ),
            None if self.unary => formatter.write_str("/unary=true"),
            None => Ok(()),
        }
    }
}

impl FromStr for SpokenRule {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<Self, FieldError> {
        if text.len() > SPOKEN_LIMIT {
            let (length, limit) = (text.len(), SPOKEN_LIMIT);
            return Err(FieldError::new(
                RULE_HEADER,
                Problem::TooLong { length, limit },
            ));
        }
        let mut parts = text.split('/');
        let class = parts.next().unwrap_or_default();
        let class = ConnectionClass::from_name(class).ok_or_else(|| {
            let known = ConnectionClass::known();
            let names = known.iter().map(|class| class.name());
            error(
                "class",
                Problem::unknown_name(class, "connection class", names),
            )
        })?;
        let lane = parts.next().unwrap_or_default();
        let lane = Lane::from_name(lane).ok_or_else(|| {
            let known = Lane::known();
            let names = known.iter().map(|lane| lane.name());
            error("lane", Problem::unknown_name(lane, "lane", names))
        })?;
        check_pair(class, lane, &format!("{RULE_HEADER}.lane"))?;
        let mut spoken = Self {
            class,
            lane,
            secure: false,
            load_balancing: None,
            strategy: None,
            persistent: false,
            unary: false,
            timeout: None,
        };
        let mut seen: Vec<&str> = Vec::new();
        for part in parts {
            let Some((key, value)) = part.split_once('=') else {
                let (given, wanted) = (part.to_owned(), "a key, `=` and a value");
                return Err(FieldError::new(
                    RULE_HEADER,
                    Problem::Malformed { given, wanted },
                ));
            };
            if seen.contains(&key) {
                let given = key.to_owned();
                return Err(FieldError::new(RULE_HEADER, Problem::Duplicate { given }));
            }
            seen.push(key);
            spoken.read(key, value)?;
        }
        // Nobody who says a rule leaves open whether it may go in the clear.
        for key in ["secure", "persistent"] {
            if !seen.contains(&key) {
                return Err(error(key, Problem::Missing));
            }
        }
        Ok(spoken)
    }
}

impl SpokenRule {
    fn read(&mut self, key: &str, value: &str) -> Result<(), FieldError> {
        match key {
            "secure" => self.secure = truth(key, value)?,
            "persistent" => self.persistent = truth(key, value)?,
            "balancing" => {
                if let Some(own) = value.strip_prefix("own:") {
                    check_name(own, &format!("{RULE_HEADER}.balancing"))?;
                    self.strategy = Some(Cow::Owned(own.to_owned()));
                } else {
                    let all = LoadBalancing::ALL;
                    let named = all.into_iter().find(|strategy| strategy.name() == value);
                    self.load_balancing = Some(named.ok_or_else(|| {
                        let names = all.iter().map(|strategy| strategy.name());
                        error(key, Problem::unknown_name(value, "strategy", names))
                    })?);
                }
            }
            "unary" => self.unary |= truth(key, value)?,
            "timeout" => (self.unary, self.timeout) = (true, Some(limit(key, value)?)),
            _ => (),
        }
        Ok(())
    }
}

fn truth(key: &str, value: &str) -> Result<bool, FieldError> {
    value.parse().map_err(|_| {
        let (given, wanted) = (value.to_owned(), "true or false");
        error(key, Problem::Malformed { given, wanted })
    })
}

fn limit(key: &str, value: &str) -> Result<Duration, FieldError> {
    let number = value.strip_suffix("ms").and_then(|text| text.parse().ok());
    let limit = number.map(Duration::from_millis);
    limit.filter(|limit| is_limit(Some(*limit))).ok_or_else(|| {
        let given = value.to_owned();
        let wanted = "milliseconds such as 800ms, above zero and of at most 24 hours";
        error(key, Problem::Malformed { given, wanted })
    })
}

fn error(key: &str, problem: Problem) -> FieldError {
    FieldError::new(format!("{RULE_HEADER}.{key}"), problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: &[MethodRule] = &[
        MethodRule::unary("Get"),
        MethodRule::unary("Slow").with_timeout(Duration::from_micros(1_500)),
        MethodRule::streaming("Watch", false, true),
    ];

    fn rule() -> Rule {
        let (class, lane) = (ConnectionClass::Internal, Lane::GOSSIP);
        let mut rule = Rule::new("a.B", class, lane, METHODS, "here");
        rule.load_balancing = Some(LoadBalancing::Random);
        rule.timeout = Some(Duration::from_secs(5));
        rule
    }

    #[test]
    fn what_is_said_is_understood() {
        let mut own = rule();
        own.load_balancing = None;
        own.strategy = Some("nearest".into());
        own.secure = true;
        own.persistent = true;
        let mut nothing = rule();
        nothing.load_balancing = None;
        let mut silent = nothing.clone();
        silent.timeout = None;
        for (rule, method, text) in [
            (
                rule(),
                0,
                "Internal/gossip/secure=false/balancing=RANDOM/persistent=false/timeout=5000ms",
            ),
            (
                own,
                2,
                "Internal/gossip/secure=true/balancing=own:nearest/persistent=true",
            ),
            (
                nothing,
                1,
                "Internal/gossip/secure=false/persistent=false/timeout=2ms",
            ),
            (
                silent.clone(),
                0,
                "Internal/gossip/secure=false/persistent=false/unary=true",
            ),
            (silent, 2, "Internal/gossip/secure=false/persistent=false"),
        ] {
            let spoken = SpokenRule::of(&rule, rule.methods.get(method));
            assert_eq!(spoken.to_string(), text);
            let read: SpokenRule = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
            assert_eq!(read.agreement(), rule.agreement());
            assert_eq!(read.unary, spoken.unary);
        }
        assert_eq!(SpokenRule::of(&rule(), None).timeout, None);
    }

    #[test]
    fn every_strategy_is_understood() {
        for strategy in LoadBalancing::ALL {
            let mut rule = rule();
            rule.load_balancing = Some(strategy);
            let spoken = SpokenRule::of(&rule, None);
            assert_eq!(spoken.to_string().parse::<SpokenRule>(), Ok(spoken));
        }
    }

    #[test]
    fn the_order_does_not_matter_and_what_is_new_is_passed_over() {
        let text = "internal/general/mirrored=yes/persistent=true/timeout=1ms/secure=true";
        let spoken: SpokenRule = text.parse().unwrap();
        assert!(spoken.secure && spoken.persistent);
        assert_eq!(spoken.timeout, Some(Duration::from_millis(1)));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key() {
        let long = format!("Internal/general/x={}", "y".repeat(SPOKEN_LIMIT));
        for (text, path) in [
            ("", "sidelane-rule.class"),
            ("Inside/general", "sidelane-rule.class"),
            ("Internal", "sidelane-rule.lane"),
            ("Internal/fast", "sidelane-rule.lane"),
            ("External/gossip/secure=true", "sidelane-rule.lane"),
            ("Internal/general", "sidelane-rule.secure"),
            ("Internal/general/secure=true", "sidelane-rule.persistent"),
            ("Internal/general/secure", "sidelane-rule"),
            ("Internal/general/secure=yes", "sidelane-rule.secure"),
            ("Internal/general/secure=true/secure=true", "sidelane-rule"),
            ("Internal/general/balancing=BEST", "sidelane-rule.balancing"),
            (
                "Internal/general/balancing=own:Mine",
                "sidelane-rule.balancing",
            ),
            ("Internal/general/timeout=0ms", "sidelane-rule.timeout"),
            ("Internal/general/timeout=5s", "sidelane-rule.timeout"),
            (
                "Internal/general/timeout=86400001ms",
                "sidelane-rule.timeout",
            ),
            (long.as_str(), "sidelane-rule"),
        ] {
            let refused = text.parse::<SpokenRule>().unwrap_err();
            assert_eq!(refused.path, path, "{text}: {refused}");
        }
    }
}
