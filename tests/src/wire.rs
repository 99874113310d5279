//! Generated code only: the messages, clients and servers of `sidelane.test.v1`.

/// Version 1.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("sidelane.test.v1");
}
