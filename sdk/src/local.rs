//! Finds the sidecar beside this process and opens a channel to it. It knows nothing of the mesh
//! behind it: which service a call is for stands in the call's own path.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// The environment variable that names the local sidecar.
pub const TARGET_VARIABLE: &str = "SIDELANE_TARGET";
/// Where the local sidecar listens if nothing else is said.
pub const DEFAULT_TARGET: &str = "http://127.0.0.1:15001";
/// The longest time that opening a connection to the local sidecar may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the local sidecar listens: `http://host:port` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A TCP address.
    Tcp(Uri),
    /// A unix socket.
    Unix(PathBuf),
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The text names no target.
    #[error(
        "`{given}` is no address of a sidecar: {TARGET_VARIABLE} takes `http://host:port` \
         (default {DEFAULT_TARGET}) or `unix:/path`"
    )]
    Malformed {
        /// The text given.
        given: String,
    },
    /// Nobody answers there.
    #[error(
        "no sidecar answers at {target}: start one (`sidelane sidecar --outbound …`) or set \
         {TARGET_VARIABLE} to where it listens"
    )]
    Unreachable {
        /// What was dialled.
        target: String,
        /// What the transport said.
        source: tonic::transport::Error,
    },
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let malformed = || TargetError::Malformed {
            given: text.to_owned(),
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(malformed())
            } else {
                Ok(Self::Unix(PathBuf::from(path)))
            };
        }
        let uri = Uri::from_str(text).map_err(|_| malformed())?;
        if uri.scheme_str() != Some("http") || uri.port().is_none() {
            return Err(malformed());
        }
        Ok(Self::Tcp(uri))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(uri) => {
                write!(
                    formatter,
                    "http://{}",
                    uri.authority().map_or("", |name| name.as_str())
                )
            }
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// What `SIDELANE_TARGET` says, or the default.
    ///
    /// # Errors
    /// The variable is set to something that is no target.
    pub fn from_environment() -> Result<Self, TargetError> {
        match std::env::var(TARGET_VARIABLE) {
            Ok(text) if !text.is_empty() => text.parse(),
            _ => DEFAULT_TARGET.parse(),
        }
    }
}

/// A channel to the sidecar that `SIDELANE_TARGET` names, connected.
///
/// # Errors
/// The variable is malformed, or no sidecar answers there within 5 s.
pub async fn channel() -> Result<Channel, TargetError> {
    channel_to(&Target::from_environment()?).await
}

/// A channel to the sidecar at `target`, connected.
///
/// # Errors
/// No sidecar answers there within 5 s.
pub async fn channel_to(target: &Target) -> Result<Channel, TargetError> {
    let connected = match target {
        Target::Tcp(_) => endpoint(target).connect().await,
        Target::Unix(path) => {
            let path = path.clone();
            endpoint(target)
                .connect_with_connector(unix_connector(path))
                .await
        }
    };
    connected.map_err(|source| TargetError::Unreachable {
        target: target.to_string(),
        source,
    })
}

/// A channel to the sidecar at `target` that connects when it is first used, and again when the
/// connection was lost.
#[must_use]
pub fn lazy_channel_to(target: &Target) -> Channel {
    match target {
        Target::Tcp(_) => endpoint(target).connect_lazy(),
        Target::Unix(path) => {
            endpoint(target).connect_with_connector_lazy(unix_connector(path.clone()))
        }
    }
}

fn endpoint(target: &Target) -> Endpoint {
    let uri = match target {
        Target::Tcp(uri) => uri.clone(),
        // The authority of calls over a unix socket; gRPC has no better name for it.
        Target::Unix(_) => Uri::from_static("http://localhost"),
    };
    Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
}

fn unix_connector(
    path: PathBuf,
) -> impl tower::Service<Uri, Response = TokioIo<UnixStream>, Error = std::io::Error, Future: Send>
+ Clone
+ Send {
    service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_shown() {
        for text in [
            "http://127.0.0.1:15001",
            "http://[::1]:9",
            "unix:/run/sidelane.sock",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let three = "unix:///run/s".parse::<Target>().unwrap();
        assert_eq!(three.to_string(), "unix:/run/s");
    }

    #[test]
    fn a_malformed_target_says_what_is_taken() {
        for text in [
            "127.0.0.1:15001",
            "https://a:1",
            "http://a",
            "unix:",
            "nonsense",
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{text}` is no address of a sidecar")),
                "{error}"
            );
        }
    }
}
