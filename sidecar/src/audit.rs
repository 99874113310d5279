//! Asks who may call, and keeps the record of refusals: one line of the log each, under the target
//! `sidelane::audit`, as many as the bound lets through, and counters for all. It decides nothing
//! itself; it is the one way by which calls ask `authorization`.

use std::time::Instant;

use crate::authorization::{Asked, NotAuthorized, Permitted};
use crate::call::User;

/// The target of the record's lines: `--log` leaves it out only by its name.
const TARGET: &str = sidelane_process::logs::AUDIT;

/// May the call come in? A refusal is counted and noted, and so is what a dry run would refuse; a user's
/// with its address, by which alone it is known.
///
/// # Errors
/// It may not.
pub(crate) fn enter(
    permitted: &Permitted,
    asked: &Asked<'_>,
    user: Option<User>,
) -> Result<(), NotAuthorized> {
    let verdict = permitted.judge(asked);
    if verdict.fits.is_some() {
        return Ok(());
    }
    let counters = &permitted.counters;
    let line = if verdict.dry_run {
        counters.would_deny(Instant::now())
    } else {
        counters.denied(Instant::now())
    };
    if let Some(omitted) = line {
        let identity = asked.identity.map_or("unknown", |id| id.as_str());
        let (node, service, method) = (asked.node.as_str(), asked.service, asked.method);
        let (class, lane) = (asked.class.name(), asked.lane.name());
        let (rule, dry_run, verdict) = (verdict.origin, verdict.dry_run, verdict.word());
        tracing::warn!(
            target: TARGET,
            verdict,
            identity,
            address = user.map(tracing::field::display),
            node,
            service,
            method,
            class,
            lane,
            rule,
            dry_run,
            omitted,
            "a call that its rule does not allow"
        );
    }
    if verdict.dry_run {
        return Ok(());
    }
    Err(verdict.refusal(asked))
}
