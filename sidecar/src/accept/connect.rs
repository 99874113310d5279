//! HTTP CONNECT on the outbound port (RFC 9110 §9.3.6): how unchanged clients reach the mesh by one
//! environment variable. The target is only noted: nothing is dialled before the answer, because
//! what a call in the tunnel is for is said by its path, and the target may exist for the mesh
//! alone. So a target that cannot be reached is found out after the 200, and ends the tunnel.

use std::time::Duration;

use sidelane_proto::model::PeerAddress;

use super::sniff::http1;
use crate::onward::Loop;

/// The longest head of a CONNECT, in bytes, the blank line included.
pub(super) const HEAD_LIMIT: usize = 8 * 1024;
/// The longest time that a CONNECT's head may take after its first bytes.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(5);
/// The answer that opens the tunnel. It has no body, and no header that would say so
/// (RFC 9110 §9.3.6).
pub(super) const OPENED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// How much of a target an answer repeats.
const SHOWN: usize = 64;

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoTunnel {
    #[error("the request line is no `CONNECT HOST:PORT HTTP/1.1`")]
    RequestLine,
    #[error("the target {0:?} is not HOST:PORT, such as `orders:50051` or `[::1]:50051`")]
    Target(String),
    #[error("a header line has no colon")]
    Header,
    #[error("the head has more than {HEAD_LIMIT} bytes")]
    TooLarge,
    #[error("the head took more than {} s", HEAD_TIME.as_secs())]
    TooSlow,
    #[error("the target {target}: {looped}")]
    Loop { target: PeerAddress, looped: Loop },
}

impl NoTunnel {
    /// As it is answered.
    pub(super) fn answer(&self) -> Vec<u8> {
        let status = match self {
            Self::RequestLine | Self::Target(_) | Self::Header => "400 Bad Request",
            Self::TooLarge => "431 Request Header Fields Too Large",
            Self::TooSlow => "408 Request Timeout",
            Self::Loop { .. } => "508 Loop Detected",
        };
        http1(status, &format!("No tunnel: {self}.\n"))
    }
}

/// Reads the target from a whole head. Which headers there are means nothing here. HTTP/1.0 is
/// taken, too: grpcio says it, for CONNECT and nothing else.
pub(super) fn target(head: &[u8]) -> Result<PeerAddress, NoTunnel> {
    let head = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| {
        let ended = line.strip_suffix(b"\r");
        ended.unwrap_or(line)
    });
    let line = lines.next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| NoTunnel::RequestLine)?;
    let mut words = line.split(' ');
    let (Some("CONNECT"), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(NoTunnel::RequestLine);
    };
    if !lines.all(|line| line.contains(&b':')) {
        return Err(NoTunnel::Header);
    }
    PeerAddress::new(target).map_err(|_| NoTunnel::Target(target.chars().take(SHOWN).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_everything_else_is_named() {
        let read = |line: &str| target(format!("{line}\r\nhost: x\r\n\r\n").as_bytes());
        for good in ["orders:50051", "10.0.0.7:1", "[::1]:65535", "a-b.c_d:80"] {
            let address = read(&format!("CONNECT {good} HTTP/1.1")).unwrap();
            assert_eq!(address.as_str(), good);
        }
        assert!(target(b"CONNECT a:1 HTTP/1.0\r\n\r\n").is_ok());
        for bad in [
            "orders",
            "orders:",
            ":1",
            "a:0",
            "a:65536",
            "::1:1",
            "u@a:1",
            "http://a:1",
        ] {
            let error = read(&format!("CONNECT {bad} HTTP/1.1")).unwrap_err();
            assert_eq!(error, NoTunnel::Target(bad.to_owned()));
        }
        for bad in [
            "CONNECT a:1",
            "CONNECT a:1 HTTP/2.0",
            "CONNECT  a:1 HTTP/1.1",
            "CONNECT a:1 HTTP/1.1 x",
            "connect a:1 HTTP/1.1",
        ] {
            assert_eq!(read(bad), Err(NoTunnel::RequestLine), "{bad}");
        }
        assert_eq!(
            target(b"CONNECT \xff:1 HTTP/1.1\r\n\r\n"),
            Err(NoTunnel::RequestLine)
        );
        let error = target(b"CONNECT a:1 HTTP/1.1\r\nnothing\r\n\r\n");
        assert_eq!(error, Err(NoTunnel::Header));
    }

    #[test]
    fn an_answer_repeats_no_more_of_a_target_than_it_must() {
        let long = format!("CONNECT {} HTTP/1.1\r\n\r\n", "x".repeat(4000));
        let answer = target(long.as_bytes()).unwrap_err().answer();
        assert!(answer.starts_with(b"HTTP/1.1 400 Bad Request\r\n"));
        assert!(answer.len() < 400, "{}", answer.len());
    }
}
