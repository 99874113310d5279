//! The demo's services and their rules, generated from `proto/shop/v1/shop.proto`; generated code
//! only.

pub(crate) use generated::ROUTES;
/// Version 1.
pub(crate) use generated::shop::v1;

mod generated {
    sidelane::include_protos!();
}
