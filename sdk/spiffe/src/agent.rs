//! The stream to the agent. It is opened again for ever, with growing pauses; what was taken last
//! stays until its end, and what an agent says that is not sound changes nothing. An agent that keeps
//! the stream open and says nothing, though a certificate is near its end, is asked anew.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use sidelane_identity::{Identity, SpiffeId};
use sidelane_proto::wire::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use sidelane_proto::wire::spiffe::{X509svidRequest, X509svidResponse};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint as Dialled};
use tonic::{Code, Request, Status, Streaming};

use crate::answer::{self, AnswerError, Wanted};
use crate::endpoint::Endpoint;

/// Each call to a Workload API carries it, so that nobody is tricked into one.
const HEADER: &str = "workload.spiffe.io";
/// The largest answer, in bytes: 64 identities of the longest kind, and the roots of a hundred
/// federated trust domains.
const ANSWER_LIMIT: usize = 8 << 20;
/// The part of a certificate's life after which the agent should have sent another: SPIRE's does
/// after half of it.
const OVERDUE_AT: f64 = 5.0 / 6.0;

/// How long things may take. The defaults are the product's; others are for tests.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// To connect.
    pub connect: Duration,
    /// From the question to the first answer.
    pub first_answer: Duration,
    /// The longest first pause before another attempt.
    pub backoff_first: Duration,
    /// The longest pause there is.
    pub backoff_ceiling: Duration,
    /// At least so long a silent stream is left alone.
    pub patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            first_answer: Duration::from_secs(10),
            backoff_first: Duration::from_millis(100),
            backoff_ceiling: Duration::from_secs(5),
            patience: Duration::from_secs(10),
        }
    }
}

/// An agent, and which of its identities is ours.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Which identity is meant.
    pub wanted: Wanted,
    /// How long things may take.
    pub timing: Timing,
}

/// What was taken from an answer.
#[derive(Clone, Copy)]
pub struct Taken<'a> {
    /// Who this program is from now on.
    pub identity: &'a Identity,
    /// How many other trust domains' roots were there. They are not believed.
    pub federated: usize,
}

/// Why there is no news from the agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// There is nobody.
    #[error("the agent at {endpoint} cannot be reached: {kind}{advice}")]
    Connect {
        /// Where it was looked for.
        endpoint: String,
        /// What the system says.
        kind: io::ErrorKind,
        /// What to look at.
        advice: &'static str,
    },
    /// It does not know us.
    #[error(
        "the agent at {endpoint} has no identity for this process (PermissionDenied: {text}): it \
         needs a registration entry whose selectors fit it, such as `spire-server entry create \
         -parentID <the agent's> -spiffeID spiffe://<trust domain>/ns/<namespace>/sa/<name> \
         -selector unix:uid:<uid>`"
    )]
    Denied {
        /// Who.
        endpoint: String,
        /// Its words.
        text: String,
    },
    /// It does not understand us, and never will.
    #[error("the agent at {endpoint} refuses the question itself (InvalidArgument: {text})")]
    Misunderstood {
        /// Who.
        endpoint: String,
        /// Its words.
        text: String,
    },
    /// Something else.
    #[error("the agent at {endpoint} failed the stream: {code:?}: {text}")]
    Failed {
        /// Who.
        endpoint: String,
        /// The status.
        code: Code,
        /// Its words.
        text: String,
    },
    /// It ended the stream.
    #[error("the agent at {endpoint} ended the stream")]
    Ended {
        /// Who.
        endpoint: String,
    },
    /// It says nothing.
    #[error("the agent at {endpoint} says nothing, and another certificate is due")]
    Silent {
        /// Who.
        endpoint: String,
    },
    /// What it says cannot be used.
    #[error("what the agent at {endpoint} says cannot be used: {why}")]
    Answer {
        /// Who.
        endpoint: String,
        /// What is wrong.
        why: AnswerError,
    },
    /// It says that this program is somebody else now.
    #[error(
        "this program is {held}, and the agent at {endpoint} says {found}; who is somebody else \
         starts anew"
    )]
    AnotherId {
        /// Who says so.
        endpoint: String,
        /// Who this program is.
        held: SpiffeId,
        /// Who it is said to be.
        found: SpiffeId,
    },
}

impl AgentError {
    /// Nothing gets better by asking again: the standard forbids it.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Misunderstood { .. })
    }
}

impl Agent {
    /// Puts what the agent says into `present`, now and whenever it says more, until nobody reads
    /// it. `say` hears of each change, once of each thing that is wrong, and when nothing is any
    /// more.
    ///
    /// # Errors
    /// The agent refuses the question itself.
    pub async fn follow(
        self,
        present: watch::Sender<Option<Arc<Identity>>>,
        mut say: impl FnMut(Result<Taken<'_>, &AgentError>),
    ) -> Result<(), AgentError> {
        let mut pauses = Pauses::new(self.timing);
        let mut wrong = None;
        while !present.is_closed() {
            let mut fresh = false;
            let error = self
                .listen(&present, &mut fresh, &mut wrong, &mut say)
                .await;
            if fresh {
                pauses = Pauses::new(self.timing);
            }
            if wrong.as_ref() != Some(&error) {
                say(Err(&error));
                wrong = Some(error.clone());
            }
            if error.is_final() {
                return Err(error);
            }
            tokio::select! {
                () = sleep(pauses.next(fastrand::f64())) => {}
                () = present.closed() => {}
            }
        }
        Ok(())
    }

    /// One stream, to its end. `fresh` becomes true with something new.
    async fn listen(
        &self,
        present: &watch::Sender<Option<Arc<Identity>>>,
        fresh: &mut bool,
        wrong: &mut Option<AgentError>,
        say: &mut impl FnMut(Result<Taken<'_>, &AgentError>),
    ) -> AgentError {
        let opened = timeout(self.timing.first_answer, self.open());
        let (mut answers, mut next) = match opened.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return error,
            Err(_) => return self.silent(),
        };
        loop {
            let federated = next.federated_bundles.len();
            // A value that is borrowed cannot be replaced, so it is taken out.
            let held = present.borrow().clone();
            match self.take(next, held.as_deref()) {
                Ok(identity) => {
                    let mended = wrong.take().is_some();
                    let changed = !held.is_some_and(|held| same(&held, &identity));
                    let identity = Arc::new(identity);
                    if mended || changed {
                        let identity = &*identity;
                        say(Ok(Taken {
                            identity,
                            federated,
                        }));
                    }
                    if changed {
                        *fresh = true;
                        present.send_replace(Some(identity));
                    }
                }
                // It may correct itself on the same stream.
                Err(error) if wrong.as_ref() != Some(&error) => {
                    say(Err(&error));
                    *wrong = Some(error);
                }
                Err(_) => {}
            }
            let held = present.borrow().clone();
            let due = self.due(held.as_deref(), SystemTime::now());
            next = tokio::select! {
                next = timeout(due, answers.message()) => match next {
                    Ok(Ok(Some(next))) => next,
                    Ok(Ok(None)) => return AgentError::Ended { endpoint: self.place() },
                    Ok(Err(status)) => return self.failed(&status),
                    Err(_) => return self.silent(),
                },
                () = present.closed() => return AgentError::Ended { endpoint: self.place() },
            };
        }
    }

    /// Asks, and waits for the first answer.
    async fn open(&self) -> Result<(Streaming<X509svidResponse>, X509svidResponse), AgentError> {
        let mut client = SpiffeWorkloadApiClient::new(self.connect().await?)
            .max_decoding_message_size(ANSWER_LIMIT);
        let mut request = Request::new(X509svidRequest {});
        let header = MetadataValue::from_static("true");
        request.metadata_mut().insert(HEADER, header);
        let answers = client.fetch_x509svid(request).await;
        let mut answers = answers.map_err(|status| self.failed(&status))?.into_inner();
        match answers.message().await {
            Ok(Some(first)) => Ok((answers, first)),
            Ok(None) => Err(AgentError::Ended {
                endpoint: self.place(),
            }),
            Err(status) => Err(self.failed(&status)),
        }
    }

    async fn connect(&self) -> Result<Channel, AgentError> {
        // The name is for HTTP/2 alone, which wants one.
        let dialled = Dialled::from_static("http://localhost");
        let limit = self.timing.connect;
        let connected = match &self.endpoint {
            Endpoint::Unix(path) => match timeout(limit, UnixStream::connect(path)).await {
                Ok(Ok(stream)) => once(dialled, stream).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
            Endpoint::Tcp(address) => match timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => once(dialled, stream).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
        };
        connected.map_err(|error| {
            let kind = error.kind();
            AgentError::Connect {
                endpoint: self.place(),
                kind,
                advice: match kind {
                    io::ErrorKind::NotFound => {
                        "; there is no such socket: does the agent run, and is its folder mounted \
                         here?"
                    }
                    io::ErrorKind::PermissionDenied => "; this user may not open the socket",
                    io::ErrorKind::ConnectionRefused => "; nobody listens: does the agent run?",
                    _ => "",
                },
            }
        })
    }

    fn take(
        &self,
        answer: X509svidResponse,
        held: Option<&Identity>,
    ) -> Result<Identity, AgentError> {
        let found = answer::read(answer, &self.wanted, SystemTime::now());
        let found = found.map_err(|why| AgentError::Answer {
            endpoint: self.place(),
            why,
        })?;
        match held {
            Some(held) if held.svid().id() != found.svid().id() => Err(AgentError::AnotherId {
                endpoint: self.place(),
                held: held.svid().id().clone(),
                found: found.svid().id().clone(),
            }),
            _ => Ok(found),
        }
    }

    /// How long the next answer may take.
    fn due(&self, held: Option<&Identity>, now: SystemTime) -> Duration {
        let Some(held) = held else {
            return self.timing.patience;
        };
        let (begin, end) = (held.svid().not_before(), held.svid().not_after());
        let life = end.duration_since(begin).unwrap_or_default();
        let due = begin + life.mul_f64(OVERDUE_AT);
        due.duration_since(now)
            .unwrap_or_default()
            .max(self.timing.patience)
    }

    fn failed(&self, status: &Status) -> AgentError {
        let endpoint = self.place();
        let text = status.message().chars().take(200).collect();
        match status.code() {
            Code::PermissionDenied => AgentError::Denied { endpoint, text },
            Code::InvalidArgument => AgentError::Misunderstood { endpoint, text },
            code => AgentError::Failed {
                endpoint,
                code,
                text,
            },
        }
    }

    fn silent(&self) -> AgentError {
        AgentError::Silent {
            endpoint: self.place(),
        }
    }

    fn place(&self) -> String {
        self.endpoint.to_string()
    }
}

/// A channel dials again by itself; who dialled an agent again has to ask again, too.
async fn once<Stream>(endpoint: Dialled, stream: Stream) -> Result<Channel, io::Error>
where
    Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(io::Error::other)
}

/// A key fits one certificate, so it need not be compared.
fn same(held: &Identity, found: &Identity) -> bool {
    held.svid().chain() == found.svid().chain() && held.bundle() == found.bundle()
}

/// Growing pauses, with full jitter.
struct Pauses {
    timing: Timing,
    next: Duration,
}

impl Pauses {
    fn new(timing: Timing) -> Self {
        Self {
            next: timing.backoff_first,
            timing,
        }
    }

    fn next(&mut self, chance: f64) -> Duration {
        let pause = self.next.mul_f64(chance.clamp(0.0, 1.0));
        self.next = (self.next * 2).min(self.timing.backoff_ceiling);
        pause
    }
}
