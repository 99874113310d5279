//! What is counted of users' connections: how many there are, and why some were turned away or
//! ended. Reasons are a closed list, so that nobody outside makes a series.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sidelane_identity::Refusal;

use super::metrics::{heading, line};
use super::target::add;

/// Why a user's connection was not taken, or did not stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// There are as many connections as there may be.
    Connections,
    /// There are as many from its address.
    Address,
    /// Too many came in this second.
    Rate,
    /// Too many came from its address.
    AddressRate,
    /// What came is no TLS.
    NotTls,
    /// It offers no TLS that is taken here.
    TlsVersion,
    /// It has not named `h2`.
    NoAlpn,
    /// Its handshake took too long.
    HandshakeTime,
    /// It went away before its handshake was done.
    HandshakeEnded,
    /// It refused what it was shown.
    ByUser,
    /// Its handshake failed in another way.
    Handshake,
    /// It speaks something else than HTTP/2.
    NotHttp2,
    /// It made no request in time.
    NoRequest,
    /// Too many frames that carry nothing, or too many calls given up.
    Flood,
    /// It broke a rule of HTTP/2, or a bound of the library's.
    Protocol,
    /// It did not answer a PING.
    Silent,
}

impl Turned {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Connections,
        Self::Address,
        Self::Rate,
        Self::AddressRate,
        Self::NotTls,
        Self::TlsVersion,
        Self::NoAlpn,
        Self::HandshakeTime,
        Self::HandshakeEnded,
        Self::ByUser,
        Self::Handshake,
        Self::NotHttp2,
        Self::NoRequest,
        Self::Flood,
        Self::Protocol,
        Self::Silent,
    ];

    /// Of a user's handshake that failed so. Users show no certificate, so there is less to tell apart
    /// than of a peer's.
    #[must_use]
    pub const fn of_handshake(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::NotTls => Self::NotTls,
            Refusal::TlsVersion => Self::TlsVersion,
            Refusal::Alpn => Self::NoAlpn,
            Refusal::TooSlow => Self::HandshakeTime,
            Refusal::Ended => Self::HandshakeEnded,
            Refusal::ByPeer { .. } => Self::ByUser,
            _ => Self::Handshake,
        }
    }

    /// Which lines of the log a failed handshake counts among, so that none hides another reason's, and
    /// users hide no peer's; `None` where whoever came only looked whether the port is open.
    #[must_use]
    pub const fn line(self) -> Option<&'static str> {
        match self {
            Self::NotTls => Some("user not_tls"),
            Self::TlsVersion => Some("user tls_version"),
            Self::NoAlpn => Some("user no_alpn"),
            Self::HandshakeTime => Some("user handshake_timeout"),
            Self::ByUser => Some("user refused_by_user"),
            Self::Handshake => Some("user handshake"),
            _ => None,
        }
    }

    /// As metrics name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Address => "connections_per_address",
            Self::Rate => "accept_rate",
            Self::AddressRate => "accept_rate_per_address",
            Self::NotTls => "not_tls",
            Self::TlsVersion => "tls_version",
            Self::NoAlpn => "no_alpn",
            Self::HandshakeTime => "handshake_timeout",
            Self::HandshakeEnded => "handshake_ended",
            Self::ByUser => "refused_by_user",
            Self::Handshake => "handshake",
            Self::NotHttp2 => "not_http2",
            Self::NoRequest => "no_request",
            Self::Flood => "flood",
            Self::Protocol => "protocol",
            Self::Silent => "silent",
        }
    }
}

/// Why a user's call finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Its address has as many calls open as it may.
    Calls,
    /// What is held for its address.
    AddressBytes,
    /// What is held for all users.
    Bytes,
}

impl Full {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Calls, Self::AddressBytes, Self::Bytes];

    /// As metrics name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Calls => "calls_per_address",
            Self::AddressBytes => "memory_per_address",
            Self::Bytes => "memory",
        }
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct EdgeCounters {
    open: AtomicU64,
    turned: [AtomicU64; Turned::ALL.len()],
    full: [AtomicU64; Full::ALL.len()],
}

/// A user's connection that stands. It is counted until this is dropped.
pub struct Standing(Arc<EdgeCounters>);

impl EdgeCounters {
    /// A user's connection stands.
    #[must_use]
    pub fn stands(self: &Arc<Self>) -> Standing {
        add(&self.open);
        Standing(Arc::clone(self))
    }

    /// One was turned away, or ended.
    pub fn turned(&self, why: Turned) {
        let place = Turned::ALL.iter().position(|known| *known == why);
        add(&self.turned[place.unwrap_or_default()]);
    }

    /// A call found no room.
    pub fn full(&self, why: Full) {
        let place = Full::ALL.iter().position(|known| *known == why);
        add(&self.full[place.unwrap_or_default()]);
    }

    /// The counters as Prometheus text.
    pub(super) fn render(&self, text: &mut String) {
        let name = "sidelane_user_connections";
        heading(text, name, "gauge", "Connections of users that stand.");
        line(text, name, "", self.open.load(Ordering::Relaxed));
        let name = "sidelane_user_connections_refused_total";
        let help = "Connections of users that were turned away or ended, by reason.";
        heading(text, name, "counter", help);
        for (why, count) in Turned::ALL.iter().zip(&self.turned) {
            let labels = format!("reason=\"{}\"", why.label());
            line(text, name, &labels, count.load(Ordering::Relaxed));
        }
        let name = "sidelane_user_calls_refused_total";
        let help = "Calls of users for which there was no room, by what is full.";
        heading(text, name, "counter", help);
        for (why, count) in Full::ALL.iter().zip(&self.full) {
            let labels = format!("reason=\"{}\"", why.label());
            line(text, name, &labels, count.load(Ordering::Relaxed));
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
