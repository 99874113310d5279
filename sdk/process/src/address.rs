//! Addresses as people write them in settings: where to listen, and what to dial. Reading one
//! never resolves a name and opens nothing; its errors say how to write what was probably meant.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path of a unix socket, in bytes: `sun_path` has 108 (unix(7)), one ends it.
pub const UNIX_PATH_LIMIT: usize = 107;
/// The longest host name, in bytes (RFC 1035 §2.3.4).
const HOST_LIMIT: usize = 253;

/// A text that is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing.
    #[error("is empty; write {0}")]
    Empty(&'static str),
    /// `http://host:port`.
    #[error("has a scheme; write only the host and the port: {0}")]
    Scheme(String),
    /// A port alone.
    #[error("has no host; write 127.0.0.1:{0}, or 0.0.0.0:{0} for every interface")]
    NoHost(String),
    /// A host alone.
    #[error("has no port; write {0}:PORT")]
    NoPort(String),
    /// A port that is no number from 0 to 65535.
    #[error("{0:?} is not a port; ports are numbers from 0 to 65535")]
    BadPort(String),
    /// Port 0 in an address to dial.
    #[error("port 0 cannot be dialled; name the port that the other side listens on")]
    PortZero,
    /// A name where only an IP address can be.
    #[error(
        "{0:?} is not an IP address; listen on one of this machine, such as 127.0.0.1 or 0.0.0.0"
    )]
    NotAnIp(String),
    /// A host that is neither a name nor an IP address.
    #[error("{0:?} is neither a host name nor an IP address (IPv6 goes in brackets: [::1]:15001)")]
    BadHost(String),
    /// A unix socket where only TCP will do.
    #[error("must be a TCP address; a unix socket cannot be used here")]
    NotTcp,
    /// A unix socket below the working directory.
    #[error("the path of a unix socket must be absolute: unix:/run/sidelane/outbound.sock")]
    RelativePath,
    /// A unix socket that the operating system would refuse.
    #[error("the path has {0} bytes; the path of a unix socket has at most {UNIX_PATH_LIMIT}")]
    LongPath(usize),
}

/// Where to listen: an IP address and port (0 for any free one), or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket's absolute path.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(unix_path(path)?)),
            None => Ok(Self::Tcp(listen_tcp(text)?)),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => unix(path, formatter),
        }
    }
}

/// Reads an IP address and port to listen on; `localhost` counts as 127.0.0.1.
///
/// # Errors
/// Names, unix sockets, a missing host or port.
pub fn listen_tcp(text: &str) -> Result<SocketAddr, AddressError> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.starts_with("unix:") {
        return Err(AddressError::NotTcp);
    }
    let (host, port) = split(text, "127.0.0.1:15001")?;
    match host {
        "localhost" => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        _ if is_name(host) => Err(AddressError::NotAnIp(host.to_owned())),
        _ => Err(AddressError::BadHost(host.to_owned())),
    }
}

/// A host and a port to dial. The host is a name, an IPv4 address or an IPv6 address without
/// brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.starts_with("unix:") {
            return Err(AddressError::NotTcp);
        }
        let (host, port) = split(text, "127.0.0.1:15010")?;
        if port == 0 {
            return Err(AddressError::PortZero);
        }
        Ok(Self {
            host: self::host(host)?,
            port,
        })
    }
}

/// With brackets around IPv6, so that it can be dialled and put into a URL.
impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads a host: a name, an IPv4 address, or an IPv6 address with or without brackets. The result
/// has none.
///
/// # Errors
/// Anything else.
pub fn host(text: &str) -> Result<String, AddressError> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let ip = match bare {
        Some(inside) => inside.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
        None => text.parse().ok(),
    };
    match ip {
        Some(ip) => Ok(ip.to_string()),
        None if is_name(text) => Ok(text.to_owned()),
        None => Err(AddressError::BadHost(text.to_owned())),
    }
}

/// What to dial: a host and port, or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DialAddress {
    /// TCP.
    Tcp(HostPort),
    /// A unix socket's absolute path.
    Unix(PathBuf),
}

impl FromStr for DialAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(unix_path(path)?)),
            None => Ok(Self::Tcp(text.parse()?)),
        }
    }
}

impl fmt::Display for DialAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => unix(path, formatter),
        }
    }
}

fn unix(path: &Path, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(formatter, "unix:{}", path.display())
}

/// `/path`, or `///path` as gRPC's `unix:///path` leaves it.
fn unix_path(text: &str) -> Result<PathBuf, AddressError> {
    let text = text
        .strip_prefix("//")
        .filter(|rest| rest.starts_with('/'))
        .unwrap_or(text);
    if !text.starts_with('/') {
        return Err(AddressError::RelativePath);
    }
    if text.len() > UNIX_PATH_LIMIT {
        return Err(AddressError::LongPath(text.len()));
    }
    Ok(PathBuf::from(text))
}

fn split<'a>(text: &'a str, example: &'static str) -> Result<(&'a str, u16), AddressError> {
    if text.is_empty() {
        return Err(AddressError::Empty(example));
    }
    if let Some((_, rest)) = text.split_once("://") {
        return Err(AddressError::Scheme(rest.trim_end_matches('/').to_owned()));
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(match digits(text) {
            true => AddressError::NoHost(text.to_owned()),
            false => AddressError::NoPort(text.to_owned()),
        });
    };
    if text.parse::<Ipv6Addr>().is_ok() || text.ends_with(']') {
        let inside = text.trim_start_matches('[').trim_end_matches(']');
        return Err(AddressError::NoPort(format!("[{inside}]")));
    }
    if host.is_empty() {
        return Err(AddressError::NoHost(port.to_owned()));
    }
    // `parse` alone would take `+80`.
    match port.parse() {
        Ok(number) if digits(port) => Ok((host, number)),
        _ => Err(AddressError::BadPort(port.to_owned())),
    }
}

/// Letters, digits, `-`, `_` and dots between them; a name of digits and dots alone is a broken
/// IPv4 address.
fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.len() <= HOST_LIMIT
        && text
            .strip_suffix('.')
            .unwrap_or(text)
            .split('.')
            .all(|label| !label.is_empty() && !label.starts_with('-') && label.bytes().all(good))
        && !text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen_error(text: &str) -> String {
        text.parse::<ListenAddress>().unwrap_err().to_string()
    }

    fn dial_error(text: &str) -> String {
        text.parse::<DialAddress>().unwrap_err().to_string()
    }

    #[test]
    fn listen_addresses_round_trip() {
        for text in [
            "127.0.0.1:15001",
            "0.0.0.0:0",
            "[::1]:15001",
            "unix:/run/s.sock",
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        let local: ListenAddress = "localhost:15001".parse().unwrap();
        assert_eq!(local.to_string(), "127.0.0.1:15001");
        let grpc_style: ListenAddress = "unix:///run/s.sock".parse().unwrap();
        assert_eq!(grpc_style.to_string(), "unix:/run/s.sock");
    }

    #[test]
    fn dial_addresses_round_trip() {
        for text in [
            "127.0.0.1:50051",
            "orders.shop:50051",
            "[::1]:1",
            "unix:/run/s.sock",
        ] {
            assert_eq!(text.parse::<DialAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn hosts_lose_their_brackets() {
        assert_eq!(host("[::1]").unwrap(), "::1");
        assert_eq!(host("::1").unwrap(), "::1");
        assert_eq!(host("node-1.example.").unwrap(), "node-1.example.");
        assert_eq!(
            host("a b").unwrap_err(),
            AddressError::BadHost("a b".to_owned())
        );
        assert_eq!(
            host("10.0.0").unwrap_err(),
            AddressError::BadHost("10.0.0".to_owned())
        );
    }

    #[test]
    fn each_wrong_listen_address_says_how_to_write_it() {
        let cases = [
            ("", "is empty; write 127.0.0.1:15001"),
            (
                "15001",
                "has no host; write 127.0.0.1:15001, or 0.0.0.0:15001 for every interface",
            ),
            (
                ":15001",
                "has no host; write 127.0.0.1:15001, or 0.0.0.0:15001 for every interface",
            ),
            ("127.0.0.1", "has no port; write 127.0.0.1:PORT"),
            ("::1", "has no port; write [::1]:PORT"),
            ("[::1]", "has no port; write [::1]:PORT"),
            (
                "127.0.0.1:99999",
                "\"99999\" is not a port; ports are numbers from 0 to 65535",
            ),
            (
                "127.0.0.1:+80",
                "\"+80\" is not a port; ports are numbers from 0 to 65535",
            ),
            (
                "orders:15001",
                "\"orders\" is not an IP address; listen on one of this machine, such as 127.0.0.1 or 0.0.0.0",
            ),
            (
                "256.0.0.1:1",
                "\"256.0.0.1\" is neither a host name nor an IP address (IPv6 goes in brackets: [::1]:15001)",
            ),
            (
                "http://127.0.0.1:15001/",
                "has a scheme; write only the host and the port: 127.0.0.1:15001",
            ),
            (
                "unix:s.sock",
                "the path of a unix socket must be absolute: unix:/run/sidelane/outbound.sock",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(listen_error(text), message, "for {text:?}");
        }
        let long = format!("unix:/{}", "a".repeat(107));
        assert_eq!(
            listen_error(&long),
            "the path has 108 bytes; the path of a unix socket has at most 107"
        );
        assert_eq!(
            listen_tcp("unix:/run/s.sock").unwrap_err().to_string(),
            "must be a TCP address; a unix socket cannot be used here"
        );
    }

    #[test]
    fn each_wrong_dial_address_says_how_to_write_it() {
        let cases = [
            (
                "127.0.0.1:0",
                "port 0 cannot be dialled; name the port that the other side listens on",
            ),
            ("orders", "has no port; write orders:PORT"),
            (
                "or ders:1",
                "\"or ders\" is neither a host name nor an IP address (IPv6 goes in brackets: [::1]:15001)",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(dial_error(text), message, "for {text:?}");
        }
    }
}
