//! What links between sidecars prove. In trust modes `strict` and `permissive` TLS 1.3 lies between
//! the socket and the preamble, both ends show an X.509-SVID, and whoever dials means the identity
//! that control names for the node. What was proved is asked again while the link lives: it ends
//! when the other side's certificate is revoked, or has ended and the other side has shown no newer
//! one on any link: see `vouched`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use sidelane_identity::verify::{self, Expected, Leaf};
use sidelane_identity::{Refusal, Source, SpiffeId, tls};
use sidelane_proto::model::Identity;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::vouched::{Proof, Vouched};

/// The longest handshake.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long the calls on a link may take that is not believed any more. Then it is cut.
pub const DISTRUSTED_LIMIT: Duration = Duration::from_secs(2);
/// A clock that is set does not wake a task that sleeps until a certificate's end, so the clock is
/// looked at this often.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);
/// How a TLS record of a handshake begins (RFC 8446 §5.1). No preamble and no HTTP/2 begins so.
pub const HANDSHAKE_RECORD: u8 = 0x16;

/// What this sidecar asks of links.
#[derive(Clone, Default)]
pub enum Trust {
    /// Nothing: they are in the clear.
    #[default]
    Disabled,
    /// Certificates.
    Certified(Arc<Certified>),
}

/// Who this sidecar is, and whether anything else is taken.
pub struct Certified {
    source: Source,
    server: Arc<ServerConfig>,
    /// Links in the clear are refused.
    strict: bool,
    /// What peers have shown on all links.
    vouched: Mutex<Vouched>,
}

/// A stream of a link, and what its other end has proved; `None` in the clear.
pub type Opened = (Wire, Option<Leaf>);

impl Trust {
    /// Certificates from `source`; `strict` refuses everything else, otherwise links may be in the
    /// clear, too.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn certified(source: Source, strict: bool) -> Result<Self, rustls::Error> {
        let server = tls::server(source.clone(), tls::Clients::Certified)?;
        Ok(Self::Certified(Arc::new(Certified {
            source,
            server,
            strict,
            vouched: Mutex::default(),
        })))
    }

    /// Can a link be secure at all?
    #[must_use]
    pub fn is_certified(&self) -> bool {
        matches!(self, Self::Certified(_))
    }

    /// How peers' handshakes are answered; `None` where links are in the clear.
    #[must_use]
    pub fn server(&self) -> Option<&Arc<ServerConfig>> {
        match self {
            Self::Disabled => None,
            Self::Certified(own) => Some(&own.server),
        }
    }

    /// Is nothing taken in the clear?
    #[must_use]
    pub fn is_strict(&self) -> bool {
        matches!(self, Self::Certified(own) if own.strict)
    }

    /// Who this sidecar is at the moment.
    #[must_use]
    pub fn present(&self) -> Option<Arc<sidelane_identity::Identity>> {
        match self {
            Self::Disabled => None,
            Self::Certified(own) => own.source.borrow().clone(),
        }
    }

    /// How long ago this sidecar's own certificate ended, if it has and no other has taken its place:
    /// no peer takes a link from it, and it takes none.
    #[must_use]
    pub fn ended(&self, now: SystemTime) -> Option<Duration> {
        let end = self.present()?.svid().not_after();
        let ago = now.duration_since(end).ok();
        ago.filter(|ago| !ago.is_zero())
    }

    /// Would a link to who is named so be TLS, or else be refused? One in the clear is not secure.
    #[must_use]
    pub fn secures(&self, identity: Option<&Identity>) -> bool {
        match self {
            Self::Disabled => false,
            Self::Certified(own) => own.strict || identity.is_some(),
        }
    }

    /// Makes a socket that was dialled a link's stream, to the node that control says has this
    /// identity. `permissive` goes in the clear where control names none; nothing falls back to it
    /// after a handshake has failed.
    ///
    /// # Errors
    /// Who answered is not who was meant, or cannot prove it.
    pub async fn connect(
        &self,
        stream: TcpStream,
        identity: Option<&Identity>,
    ) -> Result<Opened, Refusal> {
        let own = match (self, identity) {
            (Self::Disabled, _) => return Ok((Wire::Plain(stream), None)),
            (Self::Certified(own), None) if !own.strict => {
                return Ok((Wire::Plain(stream), None));
            }
            (Self::Certified(own), _) => own,
        };
        let meant = identity.ok_or(Refusal::NoIdentity)?;
        let expected = Expected::One(SpiffeId::new(meant.as_str())?);
        let config = tls::peer_client(own.source.clone(), expected);
        let config = config.map_err(|e| Refusal::of_tls(&e))?;
        let handshake = TlsConnector::from(config).connect(tls::name(), stream);
        let stream = in_time(handshake).await?;
        let leaf = tls::peer(stream.get_ref().1)?;
        self.shown(leaf.as_ref());
        Ok((Wire::Tls(Box::new(stream.into())), leaf))
    }

    /// Makes a socket that was accepted a link's stream.
    ///
    /// # Errors
    /// Who dialled proves nothing, or not enough.
    pub async fn accept(&self, stream: TcpStream) -> Result<Opened, Refusal> {
        let Self::Certified(own) = self else {
            return Ok((Wire::Plain(stream), None));
        };
        if !own.strict {
            let mut first = [0];
            let peeked = timeout(HANDSHAKE_LIMIT, stream.peek(&mut first)).await;
            let peeked = peeked.map_err(|_| Refusal::TooSlow)?;
            peeked.map_err(|error| Refusal::of_io(&error))?;
            if first[0] != HANDSHAKE_RECORD {
                return Ok((Wire::Plain(stream), None));
            }
        }
        let handshake = TlsAcceptor::from(Arc::clone(&own.server)).accept(stream);
        let stream = in_time(handshake).await?;
        let leaf = tls::peer(stream.get_ref().1)?;
        self.shown(leaf.as_ref());
        Ok((Wire::Tls(Box::new(stream.into())), leaf))
    }

    /// Waits until whoever has shown a certificate is not believed any more, and says why: it was
    /// revoked, or has ended and its owner has shown no newer one.
    pub async fn distrusted(&self, leaf: &Leaf) -> Refusal {
        let Self::Certified(own) = self else {
            return std::future::pending().await;
        };
        let mut source = own.source.clone();
        loop {
            let now = SystemTime::now();
            let identity = source.borrow_and_update().clone();
            let until = match own.believed(leaf, identity.as_deref(), now) {
                Ok(until) => until,
                Err(refusal) => return refusal,
            };
            let left = until.duration_since(now).unwrap_or_default();
            // A whole moment past the end, so that it is over when it is looked at.
            let until = sleep((left + Duration::from_millis(10)).min(LOOK_AT_CLOCK));
            tokio::select! {
                changed = source.changed() => if changed.is_err() {
                    // Nobody renews any more: what was proved holds to its end.
                    sleep(left.min(LOOK_AT_CLOCK)).await;
                },
                () = until => {}
            }
        }
    }

    /// Waits until the owner of a certificate is to be asked for a newer one, by another handshake.
    /// What ends with the certificate would otherwise end calls, though both sides have renewed.
    pub async fn wears_out(&self, leaf: &Leaf) {
        let Self::Certified(own) = self else {
            return std::future::pending().await;
        };
        loop {
            let due = own.vouched().of(leaf).and_then(|proof| proof.due);
            match due {
                // It is not kept in mind, and ends with its certificate.
                None => std::future::pending::<()>().await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due.into()).await,
            }
        }
    }

    /// A peer has shown this on a link.
    fn shown(&self, leaf: Option<&Leaf>) {
        let (Self::Certified(own), Some(leaf)) = (self, leaf) else {
            return;
        };
        let proof = Proof {
            leaf: leaf.clone(),
            due: self.until(Some(leaf), Instant::now()),
        };
        own.vouched().shown(proof, SystemTime::now());
    }

    /// Until when a link may take calls that `leaf` and the own certificate vouch for: a fifth of
    /// what is left before the earlier end, so that it is replaced before anybody ends it.
    #[must_use]
    pub fn until(&self, leaf: Option<&Leaf>, opened: Instant) -> Option<Instant> {
        let (Self::Certified(own), Some(leaf)) = (self, leaf) else {
            return None;
        };
        let held = own.source.borrow().clone();
        let end = held.map_or(leaf.not_after, |own| {
            own.svid().not_after().min(leaf.not_after)
        });
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        opened.checked_add(left.mul_f64(0.8))
    }
}

impl Certified {
    /// Until when whoever has shown this certificate is believed, as far as is known now.
    fn believed(
        &self,
        leaf: &Leaf,
        identity: Option<&sidelane_identity::Identity>,
        now: SystemTime,
    ) -> Result<SystemTime, Refusal> {
        let still = |leaf: &Leaf| match identity {
            Some(identity) => verify::still(leaf, identity, now),
            // Without an own one, too, certificates end.
            None if now > leaf.not_after => Err(Refusal::expired(leaf.not_after, now)),
            None => Ok(()),
        };
        match still(leaf) {
            Ok(()) => Ok(leaf.not_after),
            Err(expired @ Refusal::Expired { .. }) => {
                let newer = self.vouched().newer(leaf).cloned();
                let newer = newer.ok_or(expired)?;
                still(&newer).map(|()| newer.not_after)
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn vouched(&self) -> MutexGuard<'_, Vouched> {
        self.vouched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn in_time<Stream>(
    handshake: impl Future<Output = io::Result<Stream>>,
) -> Result<Stream, Refusal> {
    let done = timeout(HANDSHAKE_LIMIT, handshake).await;
    let done = done.map_err(|_| Refusal::TooSlow)?;
    done.map_err(|error| Refusal::of_io(&error))
}

/// A link's bytes: on the socket, or in TLS on it.
pub enum Wire {
    /// In the clear.
    Plain(TcpStream),
    /// In TLS. In a box, so that links in the clear are no larger for it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
