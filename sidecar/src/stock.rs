//! The rules with which the stock programs are compiled. Which they are was decided when this crate
//! was: the environment variable `SIDELANE_PROTOS` named folders of `.proto` files then, between
//! colons, or nothing.

/// The rules in the folders that `SIDELANE_PROTOS` named when this crate was compiled, beside the
/// predefined ones. `sidelane-sidecar` and `sidelane sidecar` run with them.
pub use generated::ROUTES as STOCK;

mod generated {
    sidelane::include_protos!();
}
