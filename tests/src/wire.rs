//! Generated code only: the messages, clients, servers and rules of the test protos.

/// Requests whose fields keep calls together.
pub use generated::sidelane::test::keys;
/// Version 1.
pub use generated::sidelane::test::v1;
pub use generated::{DESCRIPTORS, ROUTES};

mod generated {
    ::sidelane::include_protos!();
}
