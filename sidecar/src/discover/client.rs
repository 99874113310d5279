//! The loop that keeps a control stream open: dials the addresses in turn, says Hello, and decides
//! after each end whether and when to come back. It holds no call up: with control away, those who
//! read the picture simply hear nothing new.

use std::net::IpAddr;
use std::sync::Arc;

use sidelane_identity::verify::Expected;
use sidelane_identity::{Refusal, Serial, Source, pinned, tls};
use sidelane_proto::model::{Addresses, Generation, NodeHello, ServiceName};
use sidelane_proto::wire::control::v1::{
    self as wire, membership_client::MembershipClient, sync_request::Message as Said,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::Parameters;
use super::backoff::Backoff;
use super::connect::{ControlError, connect};
use super::handle::count;
use super::identity::keep_generation;
use super::session::{End, Session, Step, request};
use super::status::State;
use super::stream::{Break, Outlet, REQUESTS_LIMIT, Stream, say};

/// The largest message that is taken from control: a full picture of a mesh ten times the size that
/// this is built for.
const MESSAGE_LIMIT: usize = 64 << 20;
/// Control's reason for a generation that is not the newest.
const STALE_GENERATION: &str = "STALE_GENERATION";

/// The one control stream of this process.
pub(super) struct Client {
    parameters: Parameters,
    outlet: Outlet,
    backoff: Backoff,
    generation: Generation,
    /// The generation is not raised any more: it was once, or it was good enough for a Welcome.
    settled: bool,
    /// The stream that the next one takes the place of, where it is open still.
    before: Option<Box<Stream>>,
}

/// What follows from the end of an attempt.
enum Next {
    /// Goodbye was said, or asked for while there was nobody to say it to.
    Stop,
    /// Never come back; the state says why.
    StayAway(State),
    /// Say another Hello, to the same address, at once.
    HelloAgain,
    /// Try the next address after a pause.
    Retry(ControlError),
}

impl Client {
    pub(super) fn new(parameters: Parameters, outlet: Outlet) -> Self {
        let timing = &parameters.timing;
        Self {
            backoff: Backoff::new(timing.backoff_first, timing.backoff_ceiling),
            generation: parameters.hello.generation,
            settled: false,
            before: None,
            parameters,
            outlet,
        }
    }

    /// Runs until goodbye.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.outlet.shared);
        let addresses = self.parameters.control.clone();
        let mut turn = addresses.iter().cycle();
        let mut address = turn.next();
        loop {
            let next = match address {
                Some(address) => Box::pin(self.attempt(address)).await,
                None => Next::Retry(ControlError::NoAddress),
            };
            match next {
                Next::Stop => {
                    self.set_state(State::Left);
                    break;
                }
                Next::HelloAgain => continue,
                Next::StayAway(state) => {
                    tracing::error!(?state, "control is not asked again");
                    self.set_state(state);
                    shared.leaving().await;
                    break;
                }
                Next::Retry(error) => self.lost(&error),
            }
            address = turn.next();
            let pause = self.backoff.pause(fastrand::f64());
            tokio::select! {
                () = sleep(pause) => {}
                () = shared.leaving() => {
                    self.set_state(State::Left);
                    break;
                }
            }
        }
        shared.end();
    }

    async fn attempt(&mut self, address: &str) -> Next {
        let shared = Arc::clone(&self.outlet.shared);
        let grace = self.parameters.timing.goodbye;
        let before = self.before.take();
        // Before it is shown: one that is renewed in between is shown by another stream.
        let shown = self.shown();
        let dialled = tokio::select! {
            biased;
            () = shared.leaving() => {
                if let Some(before) = before {
                    before.leave(&self.outlet).await;
                }
                return Next::Stop;
            }
            dialled = self.connect(address) => dialled,
        };
        let opened = match dialled {
            // Once Hello is said, control knows this node, so that goodbye has to be said, too.
            Ok((channel, local)) => tokio::select! {
                opened = self.open(address, channel, local, shown) => opened,
                () = async { shared.leaving().await; sleep(grace).await } => return Next::Stop,
            },
            Err(error) => Err(Break::Lost(error)),
        };
        if opened.is_err() && before.is_some() {
            // What control said on that stream is not renewed any more.
            shared.answered().clear();
        }
        drop(before);
        let broken = match opened {
            Ok(stream) => {
                self.settled = true;
                let since = Instant::now();
                let broken = stream.run(&self.outlet).await;
                if since.elapsed() >= self.parameters.timing.lasted {
                    self.backoff.reset();
                }
                broken
            }
            Err(broken) => broken,
        };
        match broken {
            Break::Left => Next::Stop,
            Break::HelloAgain => Next::HelloAgain,
            Break::Renewed(stream) => {
                self.before = Some(stream);
                Next::HelloAgain
            }
            Break::Lost(error) => Next::Retry(error),
            Break::End(end) => self.ended(address, end).await,
        }
    }

    /// The certificate that is held now, and where the next one is seen.
    fn shown(&self) -> Option<(Source, Serial)> {
        let source = self.parameters.holder.as_ref()?.source();
        let present = source.borrow().clone()?;
        Some((source, present.svid().serial().clone()))
    }

    async fn connect(&self, address: &str) -> Result<(Channel, IpAddr), ControlError> {
        let tls = match &self.parameters.certificate {
            None => None,
            Some(source) => {
                let no_identity = || ControlError::NotControl {
                    address: address.to_owned(),
                    refusal: Refusal::NoIdentity,
                };
                let present = source.borrow().clone().ok_or_else(no_identity)?;
                let control = Expected::One(pinned::control(present.bundle().trust_domain()));
                let tls = tls::client(source.clone(), control);
                Some(tls.map_err(|error| ControlError::NotControl {
                    address: address.to_owned(),
                    refusal: Refusal::of_tls(&error),
                })?)
            }
        };
        connect(address, tls, &self.parameters.timing).await
    }

    /// Says Hello, and waits for Welcome.
    async fn open(
        &self,
        address: &str,
        channel: Channel,
        local: IpAddr,
        shown: Option<(Source, Serial)>,
    ) -> Result<Stream, Break> {
        let timing = &self.parameters.timing;
        self.outlet.shared.local.send_replace(Some(local));
        let (mut session, hello) = self.hello((self.parameters.advertise)(local));
        let (requests, receiver) = mpsc::channel(REQUESTS_LIMIT);
        let hello = request(Said::Hello((&hello).into()));
        say(address, &requests, hello).map_err(Break::Lost)?;
        let mut client = MembershipClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
        let answer = timeout_at(Instant::now() + timing.welcome, async {
            let answer = client.sync(ReceiverStream::new(receiver)).await?;
            let mut responses = answer.into_inner();
            let first = responses.message().await?;
            Ok((first, responses))
        });
        let (first, responses) = match answer.await {
            Ok(Ok((Some(first), responses))) => Ok((first, responses)),
            Ok(Ok((None, _))) => Err(ControlError::Ended(address.to_owned())),
            Ok(Err(status)) => Err(ControlError::failed(address, &status)),
            Err(_) => Err(ControlError::NoWelcome {
                address: address.to_owned(),
                waited: timing.welcome,
            }),
        }
        .map_err(Break::Lost)?;
        let judge = &self.outlet.judge;
        let step = session.take(first, &mut self.outlet.shared.held(), judge);
        match step.map_err(Break::End)? {
            Step::Welcomed(terms) => Ok(Stream {
                address: address.to_owned(),
                session,
                terms,
                requests,
                responses,
                goodbye: timing.goodbye,
                shown,
            }),
            // The session lets nothing else through before Welcome.
            other => Err(Break::End(End::Protocol(format!("{other:?} came first")))),
        }
    }

    /// Hello, with all that is wanted now, and the session that goes with it.
    fn hello(&self, advertised: Addresses) -> (Session, NodeHello) {
        let opening = self.outlet.shared.intent().open();
        let template = &self.parameters.hello;
        let mut held = self.outlet.shared.held();
        held.resume(opening.offers.iter().map(|offer| offer.service.clone()));
        // Forgotten while control was away: nobody would tell what becomes of them.
        let unwanted: Vec<ServiceName> = held
            .services()
            .map(|state| &state.service)
            .chain(held.refused())
            .chain(held.rule_services())
            .filter(|service| !opening.wanted.contains(*service))
            .cloned()
            .collect();
        let dropped = held.forget(&unwanted);
        let session = Session::new(template.protocol, opening.wanted, &held);
        let hello = NodeHello {
            generation: self.generation,
            addresses: opening.addresses.unwrap_or(advertised),
            offers: opening.offers,
            held: held.whole_since().cloned(),
            subscription: session.subscription(),
            draining: opening.draining,
            ..template.clone()
        };
        drop(held);
        if let Some(change) = dropped {
            self.outlet.hand_on(&change);
        }
        if !unwanted.is_empty() {
            self.outlet.settle();
        }
        (session, hello)
    }

    /// What control's last word means for the next attempt.
    async fn ended(&mut self, address: &str, end: End) -> Next {
        let address = address.to_owned();
        match end {
            End::Superseded { generation, text } => {
                Next::StayAway(State::Superseded { generation, text })
            }
            End::Protocol(text) => Next::Retry(ControlError::Protocol { address, text }),
            End::Refusal(refusal) => {
                if refusal.reason == STALE_GENERATION && self.raise(&refusal).await {
                    return Next::HelloAgain;
                }
                let (reason, text) = (refusal.reason, refusal.text);
                if !refusal.retry {
                    return Next::StayAway(State::Refused { reason, text });
                }
                Next::Retry(ControlError::Refused {
                    address,
                    reason,
                    text,
                })
            }
        }
    }

    /// Goes above the highest generation that control has seen: once in the life of a process, and
    /// only before it was welcomed, else two processes could chase each other up for ever.
    async fn raise(&mut self, refusal: &wire::Refusal) -> bool {
        let highest = Generation::new(refusal.highest_generation);
        if self.settled || highest.is_none_or(|highest| highest < self.generation) {
            return false;
        }
        self.settled = true;
        let raised = Generation::next(highest, 0);
        let own = self.generation;
        tracing::info!(%own, %raised, "control has seen a newer generation of this node");
        if let Some(folder) = self.parameters.data.clone() {
            let kept = tokio::task::spawn_blocking(move || keep_generation(&folder, raised)).await;
            if let Ok(Err(error)) = kept {
                tracing::warn!(%error, "the raised generation is not kept");
            }
        }
        self.generation = raised;
        let status = &self.outlet.shared.status;
        status.send_modify(|status| status.generation = raised);
        true
    }

    fn lost(&self, error: &ControlError) {
        if let Some(holder) = &self.parameters.holder
            && error.is_of_another_root()
        {
            holder.met_stranger();
        }
        count(&self.outlet.shared.counts.failed);
        let news = self.set_state(State::Connecting {
            last_error: Some(error.to_string()),
        });
        // The same failure again and again is one line, not one every five seconds.
        if news {
            tracing::warn!(%error, "without control; calls go on with what is known");
        } else {
            tracing::debug!(%error, "still without control");
        }
    }

    /// True if that was news.
    fn set_state(&self, state: State) -> bool {
        self.outlet.shared.status.send_if_modified(|status| {
            let news = status.state != state;
            status.state = state;
            news
        })
    }
}
