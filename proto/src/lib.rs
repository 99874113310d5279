//! What Sidelane's processes say to each other, in two layers: [`wire`] is generated from the
//! `.proto` files and trusts nothing; [`model`] holds the validated types that everything else
//! works with. `TryFrom<wire::…>` in `model` is the only way from one to the other, and each
//! failure names the field.

pub mod codec;
pub mod model;
mod secret;
pub mod wire;

/// `sidelane/routing/v1/routing.proto`, which holds the options that rules are written with: builds
/// bring it along.
pub const ROUTING_PROTO: &str = include_str!("../sidelane/routing/v1/routing.proto");
