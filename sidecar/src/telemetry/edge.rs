//! What is counted of users' connections: how many there are, and why some were turned away or
//! ended. Reasons are a closed list, so that nobody outside makes a series.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// TLS was not agreed on, or what came is none.
    Tls,
    /// It speaks something else than HTTP/2.
    NotHttp2,
    /// It made no request in time.
    NoRequest,
    /// Too many frames that carry nothing, or too many calls given up.
    Flood,
    /// It broke a rule of HTTP/2, or a bound of the library's.
    Protocol,
}

impl Turned {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Connections,
        Self::Address,
        Self::Rate,
        Self::AddressRate,
        Self::Tls,
        Self::NotHttp2,
        Self::NoRequest,
        Self::Flood,
        Self::Protocol,
    ];

    /// As metrics name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Address => "connections_per_address",
            Self::Rate => "accept_rate",
            Self::AddressRate => "accept_rate_per_address",
            Self::Tls => "tls",
            Self::NotHttp2 => "not_http2",
            Self::NoRequest => "no_request",
            Self::Flood => "flood",
            Self::Protocol => "protocol",
        }
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct EdgeCounters {
    open: AtomicU64,
    turned: [AtomicU64; Turned::ALL.len()],
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
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
