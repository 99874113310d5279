//! The demo's services, generated from `proto/shop/v1/shop.proto`; generated code only.

/// Version 1.
pub(crate) mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("shop.v1");
}
