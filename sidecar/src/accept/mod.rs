//! The listeners: who connects, which protocol is spoken, and one task a connection. What is done
//! with a call is a [`Handle`] that somebody else gives; nothing here knows services. What comes
//! by HTTP CONNECT or from a redirected connection and is no HTTP/2 ends here: it is spliced.

mod connect;
mod external;
mod hello;
mod inbound;
mod origin;
mod outbound;
mod server;
mod sniff;
mod splice;
mod visit;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use hello::greeted;
pub use hello::{Known, Naming, Welcome};
pub use inbound::{Inbound, LINKS_LIMIT, bounds};
pub use outbound::{CONNECTIONS_LIMIT, Outbound, OutboundListener};
pub use server::{Answering, Connected, Handle};

/// The target of a CONNECT, from its whole head.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
#[must_use]
pub fn tunnel_target(head: &[u8]) -> Option<sidelane_proto::model::PeerAddress> {
    connect::target(head).ok()
}
