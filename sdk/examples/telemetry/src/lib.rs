//! The project's protos and rules, and what it adds to the mesh.

pub mod demand;
pub mod strategy;

sidelane::include_protos!();
