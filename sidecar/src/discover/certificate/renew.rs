//! When the next certificate is asked for, and the loop that does so. The first one is asked for in
//! the same way, before there is anything to renew.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sidelane_identity::{Identity, Source};
use tokio::time::sleep;

use super::super::backoff::Backoff;
use super::ask::{EnrolErrors, Enrolment};
use super::holder::Holder;

/// Where in what is left of a certificate's life the next one is asked for, at the latest.
const RENEWED_AT: f64 = 2.0 / 3.0;
/// By how much of it sidecars differ, so that those that started together do not stay together.
const JITTER: f64 = 1.0 / 15.0;
/// A clock that is set does not wake a task that sleeps, so the clock is looked at this often.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

impl Enrolment {
    /// The first certificate: the one that was kept, if it holds still, or the one that control
    /// signs. Waits for control for as long as that may help, and tells `waits` why.
    ///
    /// # Errors
    /// No waiting helps: there is no proof, or control has refused it.
    pub async fn first(&self, waits: impl Fn(&EnrolErrors)) -> Result<Holder, EnrolErrors> {
        let mut kept = None;
        if let Some(identity) = self.kept() {
            let sound = identity.is_sound(SystemTime::now());
            let (id, serial) = (
                identity.svid().id().clone(),
                identity.svid().serial().clone(),
            );
            let holder = Holder::new(identity);
            match sound {
                Ok(()) => {
                    tracing::info!(%id, %serial, "the certificate is taken from the data folder");
                    return Ok(holder);
                }
                Err(refusal) => {
                    tracing::warn!(%id, %serial, %refusal, "the kept certificate holds no more");
                    kept = Some(holder);
                }
            }
        }
        let source = kept.as_ref().map(Holder::source);
        let mut attempts = Attempts::new(self);
        loop {
            match self.round(source.as_ref()).await {
                Ok(identity) => {
                    say("control has signed a certificate", &identity);
                    return Ok(Holder::new(identity));
                }
                Err(errors) if errors.is_final() => return Err(errors),
                Err(errors) => {
                    if attempts.are_news(&errors) {
                        tracing::warn!(%errors, "this sidecar waits for its first certificate");
                        waits(&errors);
                    }
                    sleep(attempts.pause()).await;
                }
            }
        }
    }

    /// Renews what is held, for ever. Whoever holds it ends this with the runtime.
    pub async fn renew(self, holder: Arc<Holder>) -> Infallible {
        let source = holder.source();
        let mut trusted = holder.source();
        trusted.mark_changed();
        let mut attempts = Attempts::new(&self);
        loop {
            let present = source.borrow().clone();
            let end = present.map(|present| present.svid().not_after());
            let now = SystemTime::now();
            let due = due(end.unwrap_or(now), now, fastrand::f64());
            tokio::select! {
                () = sleep_until(due) => {}
                () = holder.stranger() => {}
                never = self.keep_trust(&mut trusted) => match never {},
            }
            loop {
                match self.round(Some(&source)).await {
                    Ok(identity) => {
                        say("the certificate is renewed", &identity);
                        holder.renew(identity, SystemTime::now());
                        attempts = Attempts::new(&self);
                        break;
                    }
                    Err(errors) => {
                        holder.failed(&errors);
                        let ended = end.is_none_or(|end| SystemTime::now() > end);
                        match (attempts.are_news(&errors), ended) {
                            (false, _) => tracing::debug!(%errors, "still not renewed"),
                            (true, false) => {
                                tracing::warn!(%errors, "the certificate is not renewed yet");
                            }
                            (true, true) => {
                                tracing::error!(%errors, "the certificate has ended: no peer takes a link until it is renewed");
                            }
                        }
                        sleep(attempts.pause()).await;
                    }
                }
            }
        }
    }
}

impl Enrolment {
    /// Keeps what is trusted, whenever it changes.
    async fn keep_trust(&self, source: &mut Source) -> Infallible {
        loop {
            if source.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let present = source.borrow_and_update().clone();
            if let Some(present) = present {
                self.retrust(&present);
            }
        }
    }
}

/// When what ends then is renewed, for a `chance` drawn evenly from 0 to 1.
fn due(end: SystemTime, now: SystemTime, chance: f64) -> SystemTime {
    let left = end.duration_since(now).unwrap_or_default();
    now + left.mul_f64(RENEWED_AT - JITTER * chance.clamp(0.0, 1.0))
}

async fn sleep_until(due: SystemTime) {
    while let Ok(left) = due.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        sleep(left.min(LOOK_AT_CLOCK)).await;
    }
}

/// Attempts in a row that came to nothing.
struct Attempts {
    backoff: Backoff,
    said: Option<String>,
}

impl Attempts {
    fn new(enrolment: &Enrolment) -> Self {
        let timing = &enrolment.timing;
        Self {
            backoff: Backoff::new(timing.backoff_first, timing.backoff_ceiling),
            said: None,
        }
    }

    /// The same failure again and again is one line, not one every few seconds.
    fn are_news(&mut self, errors: &EnrolErrors) -> bool {
        let text = errors.to_string();
        let news = self.said.as_ref() != Some(&text);
        self.said = Some(text);
        news
    }

    fn pause(&mut self) -> Duration {
        self.backoff.pause(fastrand::f64())
    }
}

fn say(what: &'static str, identity: &Identity) {
    let (id, serial) = (identity.svid().id(), identity.svid().serial());
    tracing::info!(%id, %serial, "{what}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn renewal_is_due_in_the_last_part_of_a_life_and_never_after_it(
            left in 1_u64..604_800,
            chance in 0.0..=1.0,
        ) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
            let left = Duration::from_secs(left);
            let after = due(now + left, now, chance).duration_since(now).unwrap();
            prop_assert!(after >= left.mul_f64(0.59) && after <= left.mul_f64(0.67));
        }
    }

    proptest! {
        /// What control signs lives for 25 minutes or more, and begins a minute before.
        #[test]
        fn clocks_that_differ_by_five_minutes_cost_nothing(
            life in 1_500_u64..604_800,
            own in -300_i64..=300,
            peers in -300_i64..=300,
            chance in 0.0..=1.0,
        ) {
            let by = |clock: i64, time: SystemTime| {
                let off = Duration::from_secs(clock.unsigned_abs());
                if clock < 0 { time - off } else { time + off }
            };
            let signed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
            let begin = signed - Duration::from_secs(60);
            let end = signed + Duration::from_secs(life);
            // A peer takes it from its first moment on,
            prop_assert!(by(peers, signed) + sidelane_identity::verify::CLOCK_SKEW >= begin);
            // and until the next one is there, which is asked for by this sidecar's own clock.
            let renewed = by(-own, due(end, by(own, signed), chance));
            prop_assert!(by(peers, renewed) <= end);
        }
    }

    #[test]
    fn what_has_ended_is_due_at_once() {
        let now = SystemTime::now();
        assert_eq!(due(now - Duration::from_secs(9), now, 0.5), now);
    }
}
