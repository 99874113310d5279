//! Connection classes as types. Each stands for a [`ConnectionClass`] of the model, which is what
//! sidecars work with.

use std::fmt::Debug;
use std::hash::Hash;

use sidelane_proto::model::ConnectionClass;

use crate::routing::__private::Opened;

/// A connection class as a type: [`Internal`], [`External`], or one that
/// [`define_connection!`](crate::define_connection) made.
///
/// ```
/// use sidelane::routing::{ConnectionClass, ConnectionMarker, External};
///
/// fn class_of<C: ConnectionMarker>(_: C) -> ConnectionClass {
///     C::CLASS
/// }
/// assert_eq!(class_of(External), ConnectionClass::External);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no connection class",
    label = "not a connection class",
    note = "connection classes are `Internal` and `External`, and those that \
            `define_connection!` makes"
)]
pub trait ConnectionMarker:
    Opened + Copy + Debug + Default + Eq + Hash + Send + Sync + 'static
{
    /// The class that it stands for.
    const CLASS: ConnectionClass;
    /// The name of that class, as it is written in rules and shown to people.
    const NAME: &'static str = Self::CLASS.name();
}

/// Node to node, on the internal bind address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Internal;

/// Users and peers, on the external bind address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct External;

impl Opened for Internal {}
impl Opened for External {}

impl ConnectionMarker for Internal {
    const CLASS: ConnectionClass = ConnectionClass::Internal;
}

impl ConnectionMarker for External {
    const CLASS: ConnectionClass = ConnectionClass::External;
}
