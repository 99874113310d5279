//! Dials the control plane. The TCP connection is made here rather than inside tonic, for its
//! local address, which is what peers can dial where the sidecar listens on all addresses; and for
//! an error that names the cause; and because TLS lies between the socket and HTTP/2. Whoever is dialled
//! with TLS is control, or the connection fails: nothing falls back to the clear.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use sidelane_identity::{Refusal, tls};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::Timing;
use crate::dial;
use crate::trust::Wire;

/// Why there is no stream to control, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error("no control plane is configured; give --control HOST:PORT")]
    NoAddress,
    #[error("`{0}` is not the address of a control plane; give --control HOST:PORT")]
    Address(String),
    #[error("control at {address} cannot be reached: {source}")]
    Connect { address: String, source: io::Error },
    #[error("control at {address} did not take the connection within {waited:?}")]
    ConnectTimeout { address: String, waited: Duration },
    #[error("who answers at {address} is not the control that is meant: {refusal}")]
    NotControl { address: String, refusal: Refusal },
    #[error("control at {address} did not answer within {waited:?} whether it signs")]
    Unsigned { address: String, waited: Duration },
    #[error("control at {address} did not answer Hello within {waited:?}")]
    NoWelcome { address: String, waited: Duration },
    #[error("control at {address} failed the stream: {code:?}: {text}")]
    Failed {
        address: String,
        code: tonic::Code,
        text: String,
    },
    #[error("control at {0} ended the stream")]
    Ended(String),
    #[error("control at {address} said nothing for {lease:?}, its lease")]
    Silent { address: String, lease: Duration },
    #[error("control at {0} does not read what it is told")]
    Deaf(String),
    #[error("control at {address} refused this node: {reason}: {text}")]
    Refused {
        address: String,
        reason: String,
        text: String,
    },
    #[error("control at {address} broke the protocol: {text}")]
    Protocol { address: String, text: String },
}

impl ControlError {
    /// Whoever answered is not believed under any root that is trusted here.
    pub(super) fn is_of_another_root(&self) -> bool {
        let Self::NotControl { refusal, .. } = self else {
            return false;
        };
        matches!(refusal, Refusal::UnknownRoot | Refusal::Signature)
    }

    /// The call failed with `status`.
    pub(super) fn failed(address: &str, status: &tonic::Status) -> Self {
        // What TLS says of a certificate that control refused is the innermost reason.
        let mut text = status.message().to_owned();
        let mut cause = std::error::Error::source(status);
        while let Some(error) = cause {
            if error.source().is_none() {
                text = format!("{text}: {error}");
            }
            cause = error.source();
        }
        Self::Failed {
            address: address.to_owned(),
            code: status.code(),
            text,
        }
    }
}

/// Connects to `host:port`, with this TLS or in the clear; gives the channel, and the local address
/// of its connection.
pub(super) async fn connect(
    address: &str,
    tls: Option<Arc<ClientConfig>>,
    timing: &Timing,
) -> Result<(Channel, IpAddr), ControlError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| ControlError::Address(address.to_owned()))?
        .connect_timeout(timing.connect)
        .http2_keep_alive_interval(timing.keepalive)
        .keep_alive_timeout(timing.keepalive_answer)
        .keep_alive_while_idle(true);
    let failed = |source| ControlError::Connect {
        address: address.to_owned(),
        source,
    };
    let stream = timeout(timing.connect, dial::named(address))
        .await
        .map_err(|_| ControlError::ConnectTimeout {
            address: address.to_owned(),
            waited: timing.connect,
        })?
        .map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let local = stream.local_addr().map_err(failed)?.ip();
    let stream =
        match tls {
            None => Wire::Plain(stream),
            Some(config) => secured(stream, config, timing).await.map_err(|refusal| {
                ControlError::NotControl {
                    address: address.to_owned(),
                    refusal,
                }
            })?,
        };
    // A channel dials again by itself. Ours must not: a new connection needs a new Hello.
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| failed(io::Error::other(error)))?;
    Ok((channel, local))
}

async fn secured(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    timing: &Timing,
) -> Result<Wire, Refusal> {
    let handshake = TlsConnector::from(config).connect(tls::name(), stream);
    let stream = timeout(timing.connect, handshake).await;
    let stream = stream.map_err(|_| Refusal::TooSlow)?;
    let stream = stream.map_err(|error| Refusal::of_io(&error))?;
    tls::peer(stream.get_ref().1)?;
    Ok(Wire::Tls(Box::new(stream.into())))
}
