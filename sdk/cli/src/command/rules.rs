//! `sidelane rules`: the rules that are applied to the running mesh, with the revision that brought
//! each and the place where it is written. What was compiled in stands in no list: `sidelane
//! explain` asks a sidecar for what holds there.

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::{Value, json};
use sidelane_process::settings::{Program, nearest};
use sidelane_proto::model::{
    Abort, Admission, Authorization, Balancing, Bound, Breaker, Concurrency, ConnectionClass,
    Fault, Hedge, Lane, LocalityPreference, MethodRule, Outlier, PushedRule, Retry, Rule, Split,
    SplitPart, Statuses,
};
use sidelane_proto::wire::admin::v1::ListRulesResponse;

use super::arguments::{self, CONTROL, Format, NETWORK, OUTPUT, Usage, plain};
use super::output::Table;
use super::{Failure, block_on, control, output};

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane rules",
        version: env!("CARGO_PKG_VERSION"),
        about: "Lists the rules that are applied to the running mesh",
        flags: &[CONTROL, NETWORK, OUTPUT],
    },
    operand: Some("[SERVICE]"),
};

/// There is no such rule.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    /// Nothing is applied to a service.
    #[error("no rule is applied to `{service}`{}", did_you_mean(.nearest.as_deref()))]
    None {
        /// The service.
        service: String,
        /// The most similar one that has a rule.
        nearest: Option<String>,
    },
    /// This build cannot read what control sends.
    #[error("control's rule of `{service}` cannot be read: {problem}; is this command as new?")]
    Unreadable {
        /// The service.
        service: String,
        /// What is wrong.
        problem: String,
    },
}

/// An applied rule, read.
struct Applied {
    network: String,
    pushed: PushedRule,
}

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let addresses = control::addresses(&arguments.settings)?;
    let network = arguments.settings.optional(&NETWORK, plain)?;
    let listed = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        control.list_rules(&network.unwrap_or_default(), "").await
    })??;
    let version = listed.version.as_ref().map_or(0, |version| version.counter);
    let mut rules = read(listed)?;
    if let Some(service) = &arguments.operand {
        rules = only(rules, service)?;
    }
    match format {
        Format::Json => output::json(&json(&rules, version))?,
        Format::Table => output::text(&text(&rules, arguments.operand.is_some()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read(listed: ListRulesResponse) -> Result<Vec<Applied>, RulesError> {
    let mut rules = Vec::with_capacity(listed.rules.len());
    for applied in listed.rules {
        let wire = applied.rule.unwrap_or_default();
        let service = wire.rule.as_ref().map(|rule| rule.service.clone());
        let pushed = PushedRule::try_from(wire).map_err(|error| RulesError::Unreadable {
            service: service.unwrap_or_default(),
            problem: error.to_string(),
        })?;
        let network = applied.network;
        rules.push(Applied { network, pushed });
    }
    Ok(rules)
}

fn only(rules: Vec<Applied>, service: &str) -> Result<Vec<Applied>, RulesError> {
    let names: Vec<String> = rules
        .iter()
        .map(|applied| applied.pushed.rule.service.to_string())
        .collect();
    let ours = rules.into_iter();
    let ours: Vec<_> = ours
        .filter(|it| it.pushed.rule.service == service)
        .collect();
    if !ours.is_empty() {
        return Ok(ours);
    }
    Err(RulesError::None {
        service: service.to_owned(),
        nearest: nearest(service, names.iter().map(String::as_str)).map(str::to_owned),
    })
}

fn did_you_mean(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`? (`sidelane rules` lists all)"),
        None => "; none is applied to any service (`sidelane apply --file rules.yaml`)".to_owned(),
    }
}

fn text(rules: &[Applied], one: bool) -> String {
    if rules.is_empty() {
        return "no rule is applied; apply some with `sidelane apply --file rules.yaml`\n"
            .to_owned();
    }
    let networks = rules.iter().any(|it| it.network != rules[0].network);
    let mut head = vec!["service", "revision", "says", "where"];
    if networks {
        head.push("network");
    }
    let mut table = Table::new(&head);
    for Applied { network, pushed } in rules {
        let mut row = vec![
            pushed.rule.service.to_string(),
            pushed.version.to_string(),
            says(pushed).join(", "),
            or_dash(&pushed.rule.origin),
        ];
        if networks {
            row.push(network.clone());
        }
        table.row(row);
    }
    let mut text = table.text();
    if one {
        for Applied { pushed, .. } in rules {
            text.extend(pushed.rule.methods.iter().map(method_line));
        }
    }
    text
}

/// What a rule says, in the words in which it is written.
fn says(pushed: &PushedRule) -> Vec<String> {
    let rule: &Rule = &pushed.rule;
    let mut says = Vec::new();
    if !pushed.tuning_only {
        says.push(format!("{} {}", rule.class, rule.lane));
        if rule.secure {
            says.push("secure".to_owned());
        }
        if rule.persistent {
            says.push("persistent".to_owned());
        }
    }
    if let Some(balancing) = rule.load_balancing {
        says.push(balancing.name().to_owned());
    }
    if let Some(strategy) = &rule.strategy {
        says.push(format!("strategy {strategy}"));
    }
    if let Some(timeout) = rule.timeout {
        says.push(format!("timeout {timeout:?}"));
    }
    if let Some(ceiling) = rule.max_timeout {
        says.push(format!("max_timeout {ceiling:?}"));
    }
    says.extend(balancing(&rule.balancing));
    says.extend(rule.retry.map(retry_text));
    says.extend(rule.breaker.map(breaker_text));
    says.extend(rule.outlier.map(outlier_text));
    says.extend(rule.split.as_ref().map(|split| format!("split {split}")));
    says.extend(admitted(&rule.admission));
    says.extend(rule.authorization.as_ref().map(ToString::to_string));
    match rule.methods.len() {
        0 => {}
        1 => says.push("1 method".to_owned()),
        count => says.push(format!("{count} methods")),
    }
    if says.is_empty() {
        says.push("nothing".to_owned());
    }
    says
}

fn balancing(balancing: &Balancing) -> Vec<String> {
    let header = balancing.hash_header.as_ref();
    let header = header.map(|name| format!("hash_header {name}"));
    let locality = balancing
        .locality
        .map(|it| format!("locality {}", it.name()));
    let slow_start = balancing.slow_start.map(|it| format!("slow_start {it:?}"));
    [header, locality, slow_start]
        .into_iter()
        .flatten()
        .collect()
}

fn retry_text(retry: Retry) -> String {
    let on: Vec<&str> = retry.on.names().collect();
    let mut text = format!("{} attempts on {}", retry.attempts, on.join(" "));
    if retry.budget_percent.is_some() || retry.budget_per_second.is_some() {
        let budget = retry.budget();
        text.push_str(&format!(
            ", budget {} % and {}/s",
            budget.percent, budget.per_second
        ));
    }
    if (retry.pause, retry.max_pause) != (Retry::DEFAULT.pause, Retry::DEFAULT.max_pause) {
        text.push_str(&format!(
            ", pauses of {:?} to {:?}",
            retry.pause, retry.max_pause
        ));
    }
    text
}

fn hedge_text(hedge: Hedge) -> String {
    if hedge.off {
        return "hedge off".to_owned();
    }
    let Hedge {
        after,
        max_attempts,
        ..
    } = hedge;
    format!("hedge after {after:?}, {max_attempts} attempts in all")
}

fn breaker_text(breaker: Breaker) -> String {
    if breaker.off {
        return "breaker off".to_owned();
    }
    format!(
        "breaker after {} failures or below {} % of {} calls in {:?}, open for {:?} to {:?}",
        breaker.consecutive_failures,
        breaker.success_percent,
        breaker.min_calls,
        breaker.interval,
        breaker.open,
        breaker.max_open,
    )
}

fn outlier_text(outlier: Outlier) -> String {
    if outlier.off {
        return "outlier off".to_owned();
    }
    format!(
        "outlier at {} points below the mean after {} calls, at most {} %",
        outlier.below_mean, outlier.min_calls, outlier.max_percent
    )
}

fn admitted(admission: &Admission) -> impl Iterator<Item = String> {
    let limits = admission.limits.iter().map(|it| format!("limit {it}"));
    let concurrency = admission.concurrency.iter();
    let faults = admission.fault.iter().map(|it| format!("fault: {it}"));
    limits
        .chain(concurrency.map(ToString::to_string))
        .chain(faults)
}

fn method_line(method: &MethodRule) -> String {
    let mut says = Vec::new();
    match (method.client_streaming, method.server_streaming) {
        (false, false) => {}
        (true, false) => says.push("takes a stream".to_owned()),
        (false, true) => says.push("answers with a stream".to_owned()),
        (true, true) => says.push("streams both ways".to_owned()),
    }
    if method.idempotent {
        says.push("idempotent".to_owned());
    }
    if let Some(timeout) = method.timeout {
        says.push(format!("timeout {timeout:?}"));
    }
    if let Some(field) = &method.hash_on {
        says.push(format!("hash_on {field}"));
    }
    says.extend(method.retry.map(retry_text));
    says.extend(method.hedge.map(hedge_text));
    says.extend(admitted(&method.admission));
    says.extend(method.authorization.as_ref().map(ToString::to_string));
    if says.is_empty() {
        return format!("    {}\n", method.name);
    }
    format!("    {}: {}\n", method.name, says.join(", "))
}

fn or_dash(text: &str) -> String {
    let text = if text.is_empty() { "-" } else { text };
    text.to_owned()
}

fn json(rules: &[Applied], revision: u64) -> Value {
    let rules = rules.iter().map(|Applied { network, pushed }| {
        let rule: &Rule = &pushed.rule;
        let fixed = |value: Value| {
            if pushed.tuning_only {
                Value::Null
            } else {
                value
            }
        };
        json!({
            "service": rule.service,
            "network": network,
            "revision": pushed.version,
            "origin": rule.origin,
            "tuning_only": pushed.tuning_only,
            "category": fixed(rule.category.name().into()),
            "connection": fixed(rule.class.name().into()),
            "lane": fixed(rule.lane.name().into()),
            "secure": fixed(rule.secure.into()),
            "persistent": fixed(rule.persistent.into()),
            "load_balancing": rule.load_balancing.map(sidelane_proto::model::LoadBalancing::name),
            "load_balancing_custom": rule.strategy,
            "timeout_ms": milliseconds(rule.timeout),
            "max_timeout_ms": milliseconds(rule.max_timeout),
            "hash_header": rule.balancing.hash_header,
            "locality": rule.balancing.locality.map(LocalityPreference::name),
            "slow_start_ms": milliseconds(rule.balancing.slow_start),
            "retry": rule.retry.map(retry_json),
            "breaker": rule.breaker.map(breaker_json),
            "outlier": rule.outlier.map(outlier_json),
            "split": rule.split.as_ref().map(split_json),
            "limits": limits_json(&rule.admission),
            "concurrency": rule.admission.concurrency.map(concurrency_json),
            "fault": rule.admission.fault.as_ref().map(fault_json),
            "authorization": rule.authorization.as_ref().map(authorization_json),
            "methods": rule.methods.iter().map(method_json).collect::<Vec<_>>(),
        })
    });
    json!({ "rules": rules.collect::<Vec<_>>(), "revision": revision })
}

fn method_json(method: &MethodRule) -> Value {
    json!({
        "name": method.name,
        "client_streaming": method.client_streaming,
        "server_streaming": method.server_streaming,
        "idempotent": method.idempotent,
        "timeout_ms": milliseconds(method.timeout),
        "hash_on": method.hash_on,
        "retry": method.retry.map(retry_json),
        "hedge": method.hedge.map(hedge_json),
        "limits": limits_json(&method.admission),
        "fault": method.admission.fault.as_ref().map(fault_json),
        "authorization": method.authorization.as_ref().map(authorization_json),
    })
}

fn limits_json(admission: &Admission) -> Value {
    let limits = admission.limits.iter().map(|limit| {
        json!({
            "requests_per_second": limit.requests_per_second,
            "burst": limit.burst,
            "per": limit.per.names().collect::<Vec<_>>(),
            "outbound": limit.outbound,
        })
    });
    limits.collect()
}

fn concurrency_json(concurrency: Concurrency) -> Value {
    let (max_in_flight, adaptive) = match concurrency.bound {
        Bound::Fixed(most) => (Some(most), None),
        Bound::Adaptive(adaptive) => (None, Some(adaptive)),
    };
    let adaptive = adaptive.map(|it| {
        json!({
            "min": it.min,
            "max": it.max,
            "tolerance_percent": it.tolerance_percent,
            "remeasure_ms": milliseconds(Some(it.remeasure)),
        })
    });
    json!({
        "max_in_flight": max_in_flight,
        "adaptive": adaptive,
        "queue": concurrency.queue,
        "longest_wait_ms": milliseconds(Some(concurrency.longest_wait)),
    })
}

fn fault_json(fault: &Fault) -> Value {
    let status = |abort: Abort| Statuses::of(&[abort.status]).names().next();
    json!({
        "delay_percent": fault.delay.map(|delay| delay.percent),
        "delay_ms": milliseconds(fault.delay.map(|delay| delay.time)),
        "abort_percent": fault.abort.map(|abort| abort.percent),
        "abort_status": fault.abort.and_then(status),
        "header": fault.header,
        "header_value": fault.header_value,
    })
}

fn retry_json(retry: Retry) -> Value {
    json!({
        "attempts": retry.attempts,
        "on": retry.on.names().collect::<Vec<_>>(),
        "budget_percent": retry.budget_percent,
        "budget_per_second": retry.budget_per_second,
        "pause_ms": milliseconds(Some(retry.pause)),
        "max_pause_ms": milliseconds(Some(retry.max_pause)),
    })
}

fn hedge_json(hedge: Hedge) -> Value {
    json!({
        "off": hedge.off,
        "after_ms": milliseconds(Some(hedge.after)),
        "max_attempts": hedge.max_attempts,
    })
}

fn breaker_json(breaker: Breaker) -> Value {
    json!({
        "off": breaker.off,
        "consecutive_failures": breaker.consecutive_failures,
        "success_percent": breaker.success_percent,
        "min_calls": breaker.min_calls,
        "interval_ms": milliseconds(Some(breaker.interval)),
        "open_ms": milliseconds(Some(breaker.open)),
        "max_open_ms": milliseconds(Some(breaker.max_open)),
        "probes": breaker.probes,
        "successes": breaker.successes,
    })
}

fn outlier_json(outlier: Outlier) -> Value {
    json!({
        "off": outlier.off,
        "below_mean": outlier.below_mean,
        "min_calls": outlier.min_calls,
        "max_percent": outlier.max_percent,
    })
}

fn split_json(split: &Split) -> Value {
    let part = |part: &SplitPart| {
        json!({
            "value": part.value,
            "percent": part.percent,
            "header": part.header.as_ref().map(|it| &it.name),
            "header_value": part.header.as_ref().map(|it| &it.value),
        })
    };
    json!({
        "label": split.label,
        "parts": split.parts.iter().map(part).collect::<Vec<_>>(),
        "strict": split.strict,
    })
}

fn authorization_json(authorization: &Authorization) -> Value {
    let allow = authorization.allow.iter().map(|allow| {
        json!({
            "anyone": allow.anyone,
            "identity": allow.identity,
            "namespace": allow.namespace,
            "trust_domain": allow.trust_domain,
            "prefix": allow.prefix,
            "class": allow.class.map(ConnectionClass::name),
            "lane": allow.lane.map(Lane::name),
        })
    });
    json!({
        "allow": allow.collect::<Vec<_>>(),
        "dry_run": authorization.dry_run,
    })
}

fn milliseconds(time: Option<std::time::Duration>) -> Option<u64> {
    time.and_then(|time| u64::try_from(time.as_millis()).ok())
}

#[cfg(test)]
mod tests;
