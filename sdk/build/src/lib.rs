//! For build scripts, and for whoever reads descriptor sets: routing rules that are written as
//! options beside the rpc are read here, checked by the same check that control and the sidecars
//! run, and refused with the place where they are written.
//!
//! [`rules::from_descriptor_set`] reads what `buf build -o rules.binpb` wrote.

pub mod error;
pub mod rules;

pub use error::{Error, Errors, Place};
pub use rules::{Defined, RuleSet, Service};
