//! Where the agent is, as "SPIFFE Workload Endpoint" §4 writes it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The variable by which the standard says where the agent is.
pub const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Where the agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// At a Unix socket.
    Unix(PathBuf),
    /// On loopback.
    Tcp(SocketAddr),
}

/// Why a text is no address of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Of another form.
    #[error(
        "not a Workload API's address; write unix:///run/spire/agent.sock, with a whole path, or \
         tcp://127.0.0.1:8082"
    )]
    Form,
    /// It leaves this machine.
    #[error("a private key would travel to {0} in the clear; an agent is asked on loopback only")]
    NotLoopback(SocketAddr),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///path` and `unix:/path` are one URI; one with a host is none of ours.
            let path = path.strip_prefix("//").unwrap_or(path);
            let whole = path.starts_with('/') && !path.starts_with("//") && path.len() > 1;
            let plain = !path.contains(['?', '#']);
            return match whole && plain {
                true => Ok(Self::Unix(path.into())),
                false => Err(EndpointError::Form),
            };
        }
        let address = text.strip_prefix("tcp://").ok_or(EndpointError::Form)?;
        let address: SocketAddr = address.parse().map_err(|_| EndpointError::Form)?;
        if address.port() == 0 {
            return Err(EndpointError::Form);
        }
        match address.ip().is_loopback() {
            true => Ok(Self::Tcp(address)),
            false => Err(EndpointError::NotLoopback(address)),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Tcp(address) => write!(formatter, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_the_standard_are_taken_and_nothing_else() {
        let path = Endpoint::Unix("/run/spire/agent.sock".into());
        for text in ["unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"] {
            assert_eq!(text.parse(), Ok(path.clone()));
        }
        assert_eq!(path.to_string(), "unix:///run/spire/agent.sock");
        let tcp: Endpoint = "tcp://127.0.0.1:8082".parse().unwrap();
        assert_eq!(tcp.to_string(), "tcp://127.0.0.1:8082");
        assert!("tcp://[::1]:8082".parse::<Endpoint>().is_ok());
        for text in [
            "",
            "/run/spire/agent.sock",
            "unix:",
            "unix://",
            "unix:///",
            "unix:run/agent.sock",
            "unix://host/agent.sock",
            "unix:////agent.sock",
            "unix:///agent.sock?a=b",
            "tcp://localhost:8082",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:0",
            "tcp://127.0.0.1:8082/path",
            "http://127.0.0.1:8082",
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError::Form), "{text}");
        }
        let far = "tcp://192.0.2.1:8082".parse::<Endpoint>();
        assert!(matches!(far, Err(EndpointError::NotLoopback(_))));
    }
}
