//! Tower layers for tonic, by which an app's own spans and those of its sidecars are one trace: a
//! [`server`] joins the trace that a call comes with, a [`client`] sends calls on in the name of the
//! span that makes them. Spans are those of `tracing`; where they go is the app's to say, by
//! `tracing-opentelemetry`. Where that takes none of them, or a filter leaves them out, calls go on in the
//! name of what they come from.
//!
//! ```no_run
//! use tonic::transport::{Channel, Server};
//! use tower_layer::Layer;
//!
//! # fn example(channel: Channel) {
//! // let mut orders = OrdersClient::new(sidelane_trace::client().layer(channel));
//! let channel = sidelane_trace::client().layer(channel);
//! // Server::builder().layer(...).add_service(OrdersServer::new(...))
//! let server = Server::builder().layer(sidelane_trace::server());
//! # drop((channel, server));
//! # }
//! ```

mod carrier;
mod layer;
mod span;

pub use layer::{ClientLayer, Joined, ServerLayer, Traced, client, server};
