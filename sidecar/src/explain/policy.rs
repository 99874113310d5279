//! The values by which a call would go, and whose word each is: what was compiled in, pushed,
//! offered, or nobody's. The same merge decides about calls; here it is only asked who won.

use std::time::Duration;

use serde::Serialize;
use sidelane_proto::model::{
    Balancing, Breaker, Hedge, MethodRule, Outlier, PushedRule, Retry, Rule,
};

use crate::admission::Seen;
use crate::mesh::{RuleSource, Target};
use crate::policy::deadline::{self, Caller};
use crate::rules::{Origin, Said};

/// Whose word it is where the caller's own rule decides.
const CALLERS: &str = "the caller's own rule";

/// One value.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Value {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) from: String,
}

/// All values that bear on a call of this method; `None` for one that the rule does not know.
/// `balancing` is the strategy by which it goes, `callers` what its caller's own rule says where that
/// decides.
pub(super) fn values(
    target: &Target,
    method: Option<&MethodRule>,
    balancing: &str,
    callers: Option<Caller<'_>>,
) -> Vec<Value> {
    let (rule, said) = (&*target.rule, &target.said);
    let spoken = callers.map(|caller| caller.spoken);
    let fixed = spoken.map_or_else(|| said.fixed_by().to_string(), |_| CALLERS.to_owned());
    let (class, lane) = spoken.map_or((rule.class, rule.lane), |it| (it.class, it.lane));
    let secure = spoken.map_or(rule.secure, |it| it.secure);
    let persistent = spoken.map_or(rule.persistent, |it| it.persistent);
    let truth = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut values = Vec::new();
    let mut add = |name, value, from: String| values.push(Value { name, value, from });
    add("class", class.name().to_owned(), fixed.clone());
    add("lane", lane.name().to_owned(), fixed.clone());
    add("secure", truth(secure), fixed.clone());
    add("persistent", truth(persistent), fixed);
    let by_caller = spoken.is_some_and(|it| it.load_balancing.is_some() || it.strategy.is_some());
    let balanced = if by_caller && said.balanced().is_none() {
        CALLERS.to_owned()
    } else {
        let says = |rule: &Rule| rule.load_balancing.is_some() || rule.strategy.is_some();
        said.tuned_by(says).to_string()
    };
    add("balancing", balancing.to_owned(), balanced);
    let origin = said.tuned_by(|rule| rule.breaker.is_some()).to_string();
    let breaker = rule.breaker.unwrap_or(Breaker::DEFAULT);
    let refuses = rule.breaker.is_some();
    add("breaker", breaker_text(breaker, refuses), origin);
    let origin = said.tuned_by(|rule| rule.outlier.is_some()).to_string();
    let outlier = rule.outlier.unwrap_or(Outlier::DEFAULT);
    add("outlier", outlier_text(outlier), origin);
    if let Some(split) = &rule.split {
        let from = said.tuned_by(|rule| rule.split.is_some());
        add("split", split.to_string(), from.to_string());
    }
    for (name, value, from) in admitted(rule, said, method) {
        add(name, value, from);
    }
    if let Some(permitted) = &target.permitted {
        let (list, from, own) = permitted.list(method.map_or("", |method| &method.name));
        let name = match own {
            true => "authorization of the method",
            false => "authorization",
        };
        let value = list.map_or_else(
            || "nobody: other methods say who may call them, and this one does not".to_owned(),
            ToString::to_string,
        );
        add(name, value, from.to_owned());
    }
    // Where its calls arrive it is known what the bound follows.
    let gate = target.admitted.as_ref().and_then(|it| it.gate());
    if let Some(seen) = gate.and_then(|gate| gate.seen())
        && target.inbound.is_some()
    {
        add("concurrency now", seen_text(seen), "latency".to_owned());
    }
    for (name, value, says) in spoken_of_balancing(&rule.balancing) {
        add(name, value, said.tuned_by(says).to_string());
    }
    let Some(method) = method else {
        if let Some(caller) = callers.filter(Caller::is_unary) {
            add("streaming", truth(false), CALLERS.to_owned());
            let (limit, from) = timeout(rule, said, None, Some(caller), false);
            add("timeout", limit, from);
            if let Some(ceiling) = caller.ceiling() {
                let from = said.tuned_by(|rule| rule.max_timeout.is_some());
                add("max_timeout", shown(ceiling), from.to_string());
            }
            return values;
        }
        let taken = "the rule does not know the method";
        add("streaming", "yes".to_owned(), taken.to_owned());
        return values;
    };
    let kind = said.method_by(&method.name).to_string();
    add("streaming", truth(!method.is_unary()), kind.clone());
    add("idempotent", truth(method.idempotent), kind);
    let written = target.source != RuleSource::Default;
    let (limit, from) = timeout(rule, said, Some(method), callers, written);
    add("timeout", limit, from);
    if let Some(ceiling) = deadline::ceiling(rule, Some(method)) {
        let from = said.tuned_by(|rule| rule.max_timeout.is_some());
        add("max_timeout", shown(ceiling), from.to_string());
    }
    let (retry, from) = match rule.retry_of(method) {
        Some(retry) => (attempts(retry), retry_by(said, method)),
        None => ("no".to_owned(), Origin::DEFAULT.to_string()),
    };
    add("retry", retry, from);
    if let Some(hedge) = method.hedge {
        let from = said.tuned_by(|rule| of(rule, method, |it| it.hedge.is_some()));
        add("hedge", hedge_text(hedge), from.to_string());
    }
    let budget = rule.retry_budget();
    let says = |retry: &Retry| retry.budget_percent.or(retry.budget_per_second).is_some();
    let from = said.tuned_by(|rule| rule.retry.as_ref().is_some_and(says));
    let text = format!("{} % of calls and {}/s", budget.percent, budget.per_second);
    add("retry_budget", text, from.to_string());
    if let Some(field) = &method.hash_on {
        let from = said.tuned_by(|rule| of(rule, method, |it| it.hash_on.is_some()));
        add("hash_on", field.to_string(), from.to_string());
    }
    values
}

/// What the rule says of balancing beside the strategy.
type OfBalancing = (&'static str, String, fn(&Rule) -> bool);

fn spoken_of_balancing(balancing: &Balancing) -> impl Iterator<Item = OfBalancing> {
    let header = balancing.hash_header.as_ref().map(|header| -> OfBalancing {
        let says = |rule: &Rule| rule.balancing.hash_header.is_some();
        ("hash_header", header.to_string(), says)
    });
    let locality = balancing.locality.map(|locality| -> OfBalancing {
        let says = |rule: &Rule| rule.balancing.locality.is_some();
        ("locality", locality.name().to_owned(), says)
    });
    let slow_start = balancing.slow_start.map(|time| -> OfBalancing {
        let says = |rule: &Rule| rule.balancing.slow_start.is_some();
        ("slow_start", shown(time), says)
    });
    [header, locality, slow_start].into_iter().flatten()
}

/// The time limit that holds, and who set it: the ceiling, what tunes, the caller, the method's word,
/// the service's, or nobody.
fn timeout(
    rule: &Rule,
    said: &Said,
    method: Option<&MethodRule>,
    callers: Option<Caller<'_>>,
    written: bool,
) -> (String, String) {
    let limit = match &callers {
        None => deadline::limit(rule, written, method),
        Some(caller) => caller.limit(),
    };
    let Some(limit) = limit else {
        return ("none".to_owned(), Origin::DEFAULT.to_string());
    };
    let by_caller = callers.filter(|it| it.pushed.is_none() && it.spoken.timeout.is_some());
    let by_method = method.filter(|method| method.timeout.is_some());
    let origin = if rule.max_timeout == Some(limit) {
        said.tuned_by(|rule| rule.max_timeout.is_some())
    } else if callers.is_some_and(|it| it.pushed.is_some()) {
        let own = |rule: &Rule| method.is_some_and(|it| of(rule, it, |it| it.timeout.is_some()));
        said.tuned_by(|rule| rule.timeout.is_some() || own(rule))
    } else if by_caller.is_some() {
        return (shown(limit), CALLERS.to_owned());
    } else if let Some(method) = by_method {
        said.tuned_by(|rule| of(rule, method, |it| it.timeout.is_some()))
    } else {
        said.tuned_by(|rule| rule.timeout.is_some())
    };
    (shown(limit), origin.to_string())
}

fn retry_by(said: &Said, method: &MethodRule) -> String {
    let origin = if method.retry.is_some() {
        said.tuned_by(|rule| of(rule, method, |it| it.retry.is_some()))
    } else {
        said.tuned_by(|rule| rule.retry.is_some())
    };
    origin.to_string()
}

/// What is admitted of its calls, by the service's word and the method's own.
fn admitted(
    rule: &Rule,
    said: &Said,
    method: Option<&MethodRule>,
) -> Vec<(&'static str, String, String)> {
    let mut values = Vec::new();
    let by = said.tuned_by(|rule| !rule.admission.limits.is_empty());
    for limit in rule.admission.limits.iter() {
        values.push(("limit", limit.to_string(), by.to_string()));
    }
    if let Some(concurrency) = rule.admission.concurrency {
        let by = said.tuned_by(|rule| rule.admission.concurrency.is_some());
        values.push(("concurrency", concurrency.to_string(), by.to_string()));
    }
    let mut fault = rule.admission.fault.as_ref();
    let mut by = said.tuned_by(|rule| rule.admission.fault.is_some());
    if let Some(method) = method {
        let limited = |it: &MethodRule| !it.admission.limits.is_empty();
        let own = said.tuned_by(|rule| of(rule, method, limited));
        for limit in method.admission.limits.iter() {
            values.push(("limit of the method", limit.to_string(), own.to_string()));
        }
        if method.admission.fault.is_some() {
            fault = method.admission.fault.as_ref();
            by = said.tuned_by(|rule| of(rule, method, |it| it.admission.fault.is_some()));
        }
    }
    values.extend(fault.map(|fault| ("fault", fault.to_string(), by.to_string())));
    values
}

fn seen_text(seen: Seen) -> String {
    let Seen {
        limit,
        alone,
        of_late,
    } = seen;
    let took = alone.zip(of_late).map_or_else(
        || "too few calls ended so far to go by".to_owned(),
        |(alone, late)| format!("calls took {late:.1?} of late, and {alone:.1?} alone"),
    );
    format!("{limit} calls at once; {took}")
}

/// Does the rule say this of the method?
fn of(rule: &Rule, method: &MethodRule, says: fn(&MethodRule) -> bool) -> bool {
    rule.method(&method.name).is_some_and(says)
}

fn attempts(retry: Retry) -> String {
    let statuses: Vec<&str> = retry.on.names().collect();
    let usual = (Retry::DEFAULT.pause, Retry::DEFAULT.max_pause);
    let pauses = match (retry.pause, retry.max_pause) {
        pauses if pauses == usual => String::new(),
        (first, most) => format!(", pauses up to {first:?} at first and {most:?} at last"),
    };
    format!(
        "up to {} attempts after {}, or a lost connection{pauses}",
        retry.attempts,
        statuses.join(", ")
    )
}

fn hedge_text(hedge: Hedge) -> String {
    if hedge.off {
        return "off".to_owned();
    }
    format!(
        "another attempt elsewhere after {:?} without an answer, {} in all",
        hedge.after, hedge.max_attempts
    )
}

fn breaker_text(breaker: Breaker, refuses: bool) -> String {
    if breaker.off {
        return "off".to_owned();
    }
    let Breaker {
        consecutive_failures,
        success_percent,
        min_calls,
        interval,
        open,
        max_open,
        probes,
        successes,
        ..
    } = breaker;
    let effect = if refuses {
        "refuses calls while all are open"
    } else {
        "steers, and refuses only where a rule says `breaker`"
    };
    format!(
        "opens after {consecutive_failures} failures in a row, or below {success_percent} % \
         successes of {min_calls} calls in {interval:?}, for {open:?} to {max_open:?}; {probes} at \
         once probe it, {successes} successes close it; {effect}"
    )
}

fn outlier_text(outlier: Outlier) -> String {
    let Outlier {
        off,
        below_mean,
        min_calls,
        max_percent,
    } = outlier;
    if off {
        return "off".to_owned();
    }
    format!(
        "{below_mean} percent points below the mean of the others after {min_calls} calls, at most \
         {max_percent} % of the endpoints"
    )
}

fn shown(limit: Duration) -> String {
    format!("{limit:?}")
}

impl Said {
    /// Who made this method known.
    fn method_by(&self, name: &str) -> Origin<'_> {
        let knows = |rule: &Rule| rule.method(name).is_some();
        // A compiled rule's word on its methods cannot be moved.
        let compiled = self.compiled.as_deref().filter(|rule| knows(rule));
        let pushed = self.pushed.as_ref();
        let pushed = pushed.filter(|pushed: &&PushedRule| knows(&pushed.rule));
        match (compiled, pushed) {
            (Some(_), _) => self.fixed_by(),
            (None, _) => self.tuned_by(knows),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;
    use std::time::Instant;

    use sidelane::routing::{ConnectionClass, Lane, RouteTable};

    use super::*;
    use crate::mesh::Mesh;
    use crate::telemetry::Metrics;

    const METHODS: &[MethodRule] = &[
        MethodRule::unary("Get").idempotent(),
        MethodRule::streaming("Watch", false, true),
    ];
    static TABLE: &[Rule] = &[{
        let mut rule = Rule::new(
            "shop.v1.Orders",
            ConnectionClass::Internal,
            Lane::GENERAL,
            METHODS,
            "shop.proto:12",
        );
        rule.max_timeout = Some(Duration::from_secs(2));
        rule
    }];

    /// Name, value and origin in one line, as people read them.
    fn lines(mesh: &Mesh, method: &str) -> Vec<String> {
        let target = mesh.view().target("shop.v1.Orders").unwrap().clone();
        let method = target.rule.method(method);
        let values = values(&target, method, "PEAK_EWMA", None);
        let line = |it: &Value| format!("{} {} from {}", it.name, it.value, it.from);
        values.iter().map(line).collect()
    }

    #[test]
    fn every_value_says_whose_word_it_is() {
        let routes = RouteTable::new(TABLE);
        let mesh = Mesh::new(routes, Vec::new(), Arc::new(Metrics::default()));
        let fixed = [
            "class Internal from compiled shop.proto:12",
            "lane general from compiled shop.proto:12",
            "secure no from compiled shop.proto:12",
            "persistent no from compiled shop.proto:12",
        ];
        let compiled = lines(&mesh, "Get");
        assert_eq!(compiled[..4], fixed);
        assert_eq!(
            compiled[4..],
            [
                "balancing PEAK_EWMA from the default",
                "breaker opens after 5 failures in a row, or below 50 % successes of 20 calls in \
                 10s, for 5s to 60s; 1 at once probe it, 2 successes close it; steers, and refuses \
                 only where a rule says `breaker` from the default",
                "outlier 25 percent points below the mean of the others after 20 calls, at most \
                 50 % of the endpoints from the default",
                "streaming no from compiled shop.proto:12",
                "idempotent yes from compiled shop.proto:12",
                // The default of 5 s is above the ceiling.
                "timeout 2s from compiled shop.proto:12",
                "max_timeout 2s from compiled shop.proto:12",
                "retry no from the default",
                "retry_budget 20 % of calls and 10/s from the default",
            ]
        );

        let mut pushed = Rule::new("shop.v1.Orders", TABLE[0].class, Lane::GENERAL, &[], "");
        pushed.origin = Cow::Borrowed("rules.yaml:3");
        pushed.timeout = Some(Duration::from_millis(800));
        pushed.retry = Some(Retry::DEFAULT);
        pushed.breaker = Some(Breaker::DEFAULT);
        let hedge = Hedge::after(Duration::from_millis(20));
        let get = MethodRule::unary("Get").idempotent().with_hedge(hedge);
        pushed.methods = Cow::Owned(vec![get]);
        let pushed = PushedRule {
            rule: Arc::new(pushed),
            tuning_only: true,
            version: 7,
        };
        mesh.take([], &[], (&[pushed], &[]), Instant::now());
        let tuned = lines(&mesh, "Get");
        assert_eq!(tuned[..4], fixed);
        assert!(
            tuned[5].ends_with(
                "refuses calls while all are open from pushed rule, version 7, rules.yaml:3"
            ),
            "{}",
            tuned[5]
        );
        assert_eq!(
            tuned[9..],
            [
                "timeout 800ms from pushed rule, version 7, rules.yaml:3",
                "max_timeout 2s from compiled shop.proto:12",
                "retry up to 3 attempts after UNAVAILABLE, or a lost connection from pushed \
                 rule, version 7, rules.yaml:3",
                "hedge another attempt elsewhere after 20ms without an answer, 2 in all from pushed \
                 rule, version 7, rules.yaml:3",
                "retry_budget 20 % of calls and 10/s from the default",
            ]
        );
        let watch = lines(&mesh, "Watch");
        assert_eq!(
            watch[7..],
            [
                "streaming yes from compiled shop.proto:12",
                "idempotent no from compiled shop.proto:12",
                "timeout none from the default",
                "retry no from the default",
                "retry_budget 20 % of calls and 10/s from the default",
            ]
        );
        let unheard = lines(&mesh, "Unheard");
        assert_eq!(
            unheard[7..],
            ["streaming yes from the rule does not know the method"]
        );
    }
}
