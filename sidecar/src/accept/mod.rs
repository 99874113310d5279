//! The listeners: who connects, which protocol is spoken, and one task a connection. What is done
//! with a call is a [`Handle`] that somebody else gives; nothing here knows services. Taking a
//! call by HTTP CONNECT or from a redirected connection begins where `sniff` tells the protocols
//! apart.

mod hello;
mod inbound;
mod outbound;
mod server;
mod sniff;

pub use hello::Welcome;
pub use inbound::Inbound;
pub use outbound::{CONNECTIONS_LIMIT, Outbound, OutboundListener};
pub use server::{Connected, Handle};
