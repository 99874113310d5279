//! What a rule admits, as Rust code.

use std::borrow::Cow;

use sidelane_proto::model::{
    Abort, Adaptive, Admission, Bound, Concurrency, Delay, Fault, Limit, Per,
};

use super::routes::{duration, some};

const ROUTING: &str = "::sidelane::routing";
const COW: &str = "::std::borrow::Cow::Borrowed";

/// An expression that can stand in a constant.
pub(super) fn code(admission: &Admission) -> String {
    let limits: Vec<_> = admission.limits.iter().map(limit).collect();
    format!(
        "{ROUTING}::Admission {{ limits: {COW}(&[{}]), concurrency: {}, fault: {} }}",
        limits.join(", "),
        option(admission.concurrency.map(concurrency)),
        option(admission.fault.as_ref().map(fault)),
    )
}

fn limit(limit: &Limit) -> String {
    let Limit {
        requests_per_second,
        burst,
        per,
        outbound,
    } = limit;
    let Per {
        caller,
        method,
        lane,
    } = per;
    format!(
        "{ROUTING}::Limit {{ requests_per_second: {requests_per_second}, burst: {burst}, per: \
         {ROUTING}::Per {{ caller: {caller}, method: {method}, lane: {lane} }}, outbound: \
         {outbound} }}"
    )
}

fn concurrency(concurrency: Concurrency) -> String {
    let Concurrency {
        bound,
        queue,
        longest_wait,
    } = concurrency;
    let bound = match bound {
        Bound::Fixed(most) => format!("Fixed({most})"),
        Bound::Adaptive(it) => format!("Adaptive({})", adaptive(it)),
    };
    format!(
        "{ROUTING}::Concurrency {{ bound: {ROUTING}::Bound::{bound}, queue: {queue}, longest_wait: \
         {} }}",
        duration(longest_wait)
    )
}

fn adaptive(adaptive: Adaptive) -> String {
    let Adaptive {
        min,
        max,
        tolerance_percent,
        remeasure,
    } = adaptive;
    format!(
        "{ROUTING}::Adaptive {{ min: {min}, max: {max}, tolerance_percent: {tolerance_percent}, \
         remeasure: {} }}",
        duration(remeasure)
    )
}

fn fault(fault: &Fault) -> String {
    let delay = |it: Delay| {
        let (percent, time) = (it.percent, duration(it.time));
        format!("{ROUTING}::Delay {{ percent: {percent}, time: {time} }}")
    };
    let abort = |it: Abort| {
        let (percent, status) = (it.percent, it.status);
        format!("{ROUTING}::Abort {{ percent: {percent}, status: {status} }}")
    };
    let text = |text: &Option<Cow<'static, str>>| {
        option(text.as_ref().map(|text| format!("{COW}({text:?})")))
    };
    format!(
        "{ROUTING}::Fault {{ delay: {}, abort: {}, header: {}, header_value: {} }}",
        option(fault.delay.map(delay)),
        option(fault.abort.map(abort)),
        text(&fault.header),
        text(&fault.header_value),
    )
}

fn option(value: Option<String>) -> String {
    value.map_or_else(|| "::core::option::Option::None".to_owned(), |it| some(&it))
}
