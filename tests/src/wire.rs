//! Generated code only: the messages, clients, servers and rules of the test protos.

pub use generated::{DESCRIPTORS, ROUTES};
/// Requests whose fields keep calls together.
pub use generated::sidelane::test::keys;
/// Version 1.
pub use generated::sidelane::test::v1;

mod generated {
    ::sidelane::include_protos!();
}
