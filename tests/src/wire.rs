//! Generated code only: the messages, clients, servers and rules of `sidelane.test.v1`.

pub use generated::ROUTES;
/// Version 1.
pub use generated::sidelane::test::v1;

mod generated {
    ::sidelane::include_protos!();
}
