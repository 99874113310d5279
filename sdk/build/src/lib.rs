//! For build scripts, and for whoever reads descriptor sets: routing rules that are written as
//! options beside the rpc are read here, checked by the same check that control and the sidecars
//! run, and refused with the place where they are written.
//!
//! A build script says where the protos are, and gets messages, clients, servers, and the rules as
//! constants:
//!
//! ```no_run
//! # #[cfg(feature = "generate")]
//! fn main() -> Result<(), sidelane_build::Errors> {
//!     sidelane_build::configure().protos(&["proto"]).compile()
//! }
//! # #[cfg(not(feature = "generate"))]
//! # fn main() {}
//! ```
//!
//! No protoc is needed, and `sidelane/routing/v1/routing.proto` is found wherever it is imported.
//! The crate includes what was written with `sidelane::include_protos!();`, and has then a module
//! for each package, and `ROUTES`.
//!
//! [`rules::from_descriptor_set`] reads what `buf build -o rules.binpb` wrote.

pub mod error;
#[cfg(feature = "generate")]
mod generate;
pub mod rules;

pub use error::{Error, Errors, Place};
#[cfg(feature = "generate")]
pub use generate::{Builder, Built, configure};
pub use rules::{Defined, RuleSet, Service};
#[cfg(feature = "generate")]
pub use tonic_prost_build;
