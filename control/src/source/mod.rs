//! Sources: where records of nodes come from. Each emits what it knows into the registry and
//! knows nothing of the others. A source whose backend is away keeps what it knew and says so.

pub mod fixed;
pub mod registration;
