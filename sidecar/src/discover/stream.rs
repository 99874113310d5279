//! One welcomed control stream, from Welcome to its end: reads what control says and does what the
//! session asks for, says what changed in this node's wishes, and keeps the heartbeat. What the end
//! means for the next stream is decided in `client`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sidelane_identity::{Identity, Serial, Source};
use sidelane_proto::model::RefusedRule;
use sidelane_proto::wire::control::v1::{self as wire, sync_request::Message as Said};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tonic::Streaming;

use super::Sink;
use super::certificate::Holder;
use super::connect::ControlError;
use super::handle::{Shared, add, count};
use super::held::Change;
use super::intent::News;
use super::rules::Judge;
use super::session::{End, Session, Step, Terms, request};
use super::status::{Source as Told, State};

/// Requests that may wait for the connection. Control that leaves so many unread is not working.
pub(super) const REQUESTS_LIMIT: usize = 256;

/// Where news goes to.
pub(super) struct Outlet {
    pub(super) shared: Arc<Shared>,
    pub(super) sink: Arc<dyn Sink>,
    /// Asked about each pushed rule.
    pub(super) judge: Judge,
    /// Told what is trusted.
    pub(super) holder: Option<Arc<Holder>>,
    /// Says that there is something to write to disk.
    pub(super) saves: watch::Sender<()>,
}

impl Outlet {
    /// Gives a change to the sink and to the disk.
    pub(super) fn hand_on(&self, change: &Change) {
        self.sink.replace(change);
        // A version alone is not worth a write: what is on disk is as good to resume from.
        if !change.is_empty() {
            self.saves.send_replace(());
        }
        let (rules, refused) = {
            let held = self.shared.held();
            let refused: Vec<RefusedRule> = held.refused_rules().cloned().collect();
            (held.rules().len(), refused)
        };
        self.shared.status.send_modify(|status| {
            status.version = Some(change.version.clone());
            status.rules = rules;
            status.refused_rules = refused;
        });
        self.settle();
    }

    /// Counts refused rules, and says of each once that it was.
    fn refuse_rules(&self, refused: &[RefusedRule]) {
        add(&self.shared.counts.refused_rules, refused.len());
        let known = &self.shared.status.borrow().refused_rules;
        for refused in refused.iter().filter(|refused| !known.contains(refused)) {
            let (service, version, error) = (&refused.service, refused.version, &refused.error);
            tracing::warn!(%service, version, %error, "BAD_RULES: a rule is refused, the last good one stays");
        }
    }

    /// Ends the complaint about a refused update, if nothing is held back for it any more. A good
    /// update alone does not: the next one comes at once, without what was refused.
    pub(super) fn settle(&self) {
        if self.shared.held().refused().len() == 0 {
            self.shared
                .status
                .send_if_modified(|status| status.refused_update.take().is_some());
        }
    }
}

/// A welcomed stream.
pub(super) struct Stream {
    pub(super) address: String,
    pub(super) session: Session,
    pub(super) terms: Terms,
    pub(super) requests: mpsc::Sender<wire::SyncRequest>,
    pub(super) responses: Streaming<wire::SyncResponse>,
    /// How long control may take to end the stream after goodbye.
    pub(super) goodbye: Duration,
    /// The certificate that its connection showed, and where the next one is seen.
    pub(super) shown: Option<(Source, Serial)>,
}

/// Why a stream is over.
pub(super) enum Break {
    /// Goodbye was said.
    Left,
    /// Something can only be said in a new Hello.
    HelloAgain,
    /// The certificate was renewed, and control ends a stream with the one that it began with. It
    /// stays open until the next one is welcomed, so that nobody sees this node go.
    Renewed(Box<Stream>),
    /// By control's word.
    End(End),
    /// By an accident.
    Lost(ControlError),
}

impl Stream {
    /// Keeps the stream until it ends.
    pub(super) async fn run(mut self, outlet: &Outlet) -> Break {
        self.welcomed(outlet);
        let mut beat = interval(self.terms.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut done = self.tell(outlet).await;
        while done.is_ok() {
            // A drain is confirmed on the stream that it was said on.
            let drains = outlet.shared.intent().drains();
            done = tokio::select! {
                response = self.responses.message() => match response {
                    Ok(Some(response)) => {
                        heard = Instant::now();
                        self.take(response, outlet)
                    }
                    Ok(None) => Err(Break::Lost(ControlError::Ended(self.address.clone()))),
                    Err(status) => Err(Break::Lost(ControlError::failed(&self.address, &status))),
                },
                _ = beat.tick() => self.beat(outlet),
                () = sleep_until(heard + self.terms.lease) => Err(self.silent()),
                () = outlet.shared.wake.notified() => self.tell(outlet).await,
                () = renewed(&mut self.shown), if !drains => {
                    return Break::Renewed(Box::new(self));
                }
            };
        }
        // What control said on this stream is not renewed any more.
        outlet.shared.answered().clear();
        done.err().unwrap_or(Break::HelloAgain)
    }

    /// Says goodbye, if this node leaves while the next stream is being opened.
    pub(super) async fn leave(mut self, outlet: &Outlet) {
        // The stream is over, whatever comes of it.
        let _ = self.tell(outlet).await;
    }

    fn welcomed(&self, outlet: &Outlet) {
        count(&outlet.shared.counts.connected);
        tracing::info!(control = %self.address, build = %self.terms.build, "welcomed by control");
        outlet.shared.status.send_modify(|status| {
            status.highest_generation = self.terms.highest_generation;
            status.state = State::Connected {
                address: self.address.clone(),
                since: SystemTime::now(),
                build: self.terms.build.clone(),
            };
        });
    }

    /// Does what the session asks for.
    fn take(&mut self, response: wire::SyncResponse, outlet: &Outlet) -> Result<(), Break> {
        let shared = &outlet.shared;
        let step = self
            .session
            .take(response, &mut shared.held(), &outlet.judge);
        match step.map_err(Break::End)? {
            Step::Updated {
                change,
                refused,
                full,
                answered,
                reply,
            } => {
                count(&shared.counts.updates);
                outlet.refuse_rules(&refused);
                outlet.hand_on(&change);
                let mut known = shared.answered();
                if full {
                    known.clear();
                }
                known.extend(answered);
                drop(known);
                shared.status.send_modify(|status| {
                    status.source = Told::Control;
                    status.updated = Some(SystemTime::now());
                    status.answers += 1;
                });
                self.say(reply)
            }
            Step::Refused { update, reply } => {
                count(&shared.counts.refused_updates);
                let (control, error) = (&self.address, &update.error);
                tracing::warn!(%control, %error, "an update is refused; what was held stays");
                shared
                    .status
                    .send_modify(|status| status.refused_update = Some(update));
                self.say(reply)
            }
            Step::DrainConfirmed { unacknowledged } => {
                shared.confirmed.send_replace(unacknowledged);
                Ok(())
            }
            Step::Alive { answered } => {
                if !answered.is_empty() {
                    shared.answered().extend(answered);
                    shared.status.send_modify(|status| status.answers += 1);
                }
                Ok(())
            }
            Step::Trusted(trust) => self.trust(trust, outlet),
            // The session takes one Welcome only, and that one came before.
            Step::Welcomed(_) => Ok(()),
        }
    }

    /// Judges by what control says from now on. What is not taken is not acknowledged, so that no
    /// new root signs before it is known here.
    fn trust(&self, trust: wire::Trust, outlet: &Outlet) -> Result<(), Break> {
        let Some(holder) = &outlet.holder else {
            // Where control does not sign, files or an agent say what is trusted.
            return Ok(());
        };
        let revision = trust.revision;
        match holder.trust(trust) {
            Ok(()) => self.say(request(Said::TrustAck(wire::TrustAck { revision }))),
            Err(error) => {
                tracing::error!(control = %self.address, revision, %error, "what was trusted stays");
                Ok(())
            }
        }
    }

    /// Says what changed in what this node wants.
    async fn tell(&mut self, outlet: &Outlet) -> Result<(), Break> {
        let News {
            services,
            offers,
            hello_again,
            drain,
            farewell,
        } = outlet.shared.intent().news();
        if let Some(reason) = farewell {
            self.farewell(reason).await;
            return Err(Break::Left);
        }
        if hello_again {
            return Err(Break::HelloAgain);
        }
        if let Some((message, subscription)) = self.session.subscribe(services) {
            self.say(message)?;
            let dropped = outlet.shared.held().forget(&subscription.remove);
            if let Some(change) = dropped {
                outlet.hand_on(&change);
            }
            if !subscription.remove.is_empty() {
                outlet.settle();
            }
            let mut known = outlet.shared.answered();
            for service in &subscription.remove {
                known.remove(service);
            }
        }
        if let Some(offers) = offers {
            let services = offers.iter().map(|offer| offer.service.clone());
            outlet.shared.held().offer(services);
            let offers = offers.iter().map(Into::into).collect();
            self.say(request(Said::OffersChanged(wire::OffersChanged { offers })))?;
        }
        if drain {
            self.say(request(Said::Draining(wire::Draining {})))?;
        }
        Ok(())
    }

    fn beat(&self, outlet: &Outlet) -> Result<(), Break> {
        let version = outlet.shared.held().version().map(Into::into);
        self.say(request(Said::Heartbeat(wire::Heartbeat { version })))
    }

    /// Says goodbye and waits until control has ended the stream: then it has read it.
    async fn farewell(&mut self, reason: String) {
        let goodbye = request(Said::Goodbye(wire::Goodbye { reason }));
        // The stream of requests ends when its sender is gone, so the sender is taken out.
        let (closed, _) = mpsc::channel(1);
        let requests = std::mem::replace(&mut self.requests, closed);
        let deadline = Instant::now() + self.goodbye;
        let end = timeout_at(deadline, async {
            let sent = requests.send(goodbye).await;
            drop(requests);
            while sent.is_ok() && matches!(self.responses.message().await, Ok(Some(_))) {}
        });
        if end.await.is_err() {
            tracing::warn!(control = %self.address, "control did not take the goodbye in time");
        }
    }

    fn say(&self, message: wire::SyncRequest) -> Result<(), Break> {
        say(&self.address, &self.requests, message).map_err(Break::Lost)
    }

    fn silent(&self) -> Break {
        Break::Lost(ControlError::Silent {
            address: self.address.clone(),
            lease: self.terms.lease,
        })
    }
}

/// Waits until another certificate is held than the one that was shown; for ever where none was.
async fn renewed(shown: &mut Option<(Source, Serial)>) {
    if let Some((source, serial)) = shown {
        let other = |present: &Option<Arc<Identity>>| {
            let present = present.as_ref();
            present.is_some_and(|present| present.svid().serial() != serial)
        };
        if source.wait_for(other).await.is_ok() {
            return;
        }
    }
    // Who held it has ended, and renews nothing more.
    std::future::pending::<()>().await;
}

/// Queues one thing to say.
pub(super) fn say(
    address: &str,
    requests: &mpsc::Sender<wire::SyncRequest>,
    message: wire::SyncRequest,
) -> Result<(), ControlError> {
    requests.try_send(message).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => ControlError::Deaf(address.to_owned()),
        mpsc::error::TrySendError::Closed(_) => ControlError::Ended(address.to_owned()),
    })
}
