//! What `sidelane-build` wrote, in the crate for which it did.

/// Includes the code that `sidelane-build` wrote for this crate: a module for each package of its
/// protos, nested as their names are (`shop::v1`), and beside them `ROUTES`, the
/// [`RouteTable`](crate::routing::RouteTable) of all rules, and `DESCRIPTORS`, the encoded
/// descriptors.
///
/// ```ignore
/// // build.rs
/// fn main() -> Result<(), sidelane_build::Errors> {
///     sidelane_build::configure().protos(&["proto"]).compile()
/// }
///
/// // src/lib.rs
/// sidelane::include_protos!();
/// pub use shop::v1::{OrdersServiceRouting, orders_client::OrdersClient};
/// ```
///
/// The crate depends on `prost`, `tonic` and `tonic-prost` beside this one. Where a package's name
/// begins with `sidelane.`, say `::sidelane::include_protos!();`.
#[macro_export]
macro_rules! include_protos {
    () => {
        include!(concat!(env!("OUT_DIR"), "/protos.rs"));
    };
}
