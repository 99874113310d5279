//! The table of all rules that a program was compiled with, and the lanes and classes of a
//! project's own. What cannot stand in one program beside each other is found when the table is
//! made, which is at compile time where it is a constant. The look-up that the data path does by
//! it lives in the sidecar.

use sidelane_proto::model::{ConnectionClass, Lane, MethodRule, Rule};

use super::predefined_services::PREDEFINED;
use crate::routing::check;

/// All rules that a program was compiled with: the predefined ones and a project's own.
///
/// ```
/// use sidelane::define_service_routing;
/// use sidelane::routing::{General, Internal, RouteTable, Rule, ServiceRouting};
///
/// define_service_routing!(
///     Orders,
///     service = "shop.v1.Orders",
///     category = Worker,
///     connection = Internal,
///     swimlane = General,
///     secure = true,
///     persistent = true,
///     load_balancing = LeastConnections,
/// );
///
/// static RULES: &[Rule] = &[Orders::RULE];
/// pub static ROUTES: RouteTable = RouteTable::new(RULES);
///
/// assert_eq!(ROUTES.rules().count(), 1 + RouteTable::PREDEFINED.rules().count());
/// ```
///
/// Protos in several crates make several tables; a program joins them:
///
/// ```
/// mod orders {
///     // What the build writes.
/// #   use sidelane::routing::{ConnectionClass, Lane, RouteTable, Rule, rule};
/// #   const A: Rule = rule("a.A", ConnectionClass::Internal, Lane::GENERAL, &[], "here");
/// #   static RULES: &[Rule] = &[A];
/// #   pub static ROUTES: RouteTable = RouteTable::new(RULES);
/// }
/// mod payments {
///     // The same, in another crate.
/// #   use sidelane::routing::RouteTable;
/// #   pub static ROUTES: RouteTable = RouteTable::new(&[]);
/// }
///
/// use sidelane::routing::RouteTable;
///
/// static ROUTES: RouteTable = RouteTable::join(&[orders::ROUTES, payments::ROUTES]);
/// # assert_eq!(ROUTES.rules().next().unwrap().service, "a.A");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct RouteTable {
    own: &'static [Rule],
    lanes: &'static [Lane],
    classes: &'static [ConnectionClass],
    parts: &'static [RouteTable],
}

impl RouteTable {
    /// The predefined services only.
    pub const PREDEFINED: Self = Self::new(&[]);

    /// The predefined services, and `own`. The lanes and classes that these rules name belong to
    /// the table.
    ///
    /// # Panics
    /// At compile time, where the table is a constant: a rule whose parts do not go together, two
    /// rules of one service, two lanes or classes of one number or name.
    #[must_use]
    pub const fn new(own: &'static [Rule]) -> Self {
        let table = Self {
            own,
            lanes: &[],
            classes: &[],
            parts: &[],
        };
        check::all(&table);
        table
    }

    /// The same table, and lanes of the project's own, whether a rule names them or not: rules that
    /// come while the program runs can.
    ///
    /// # Panics
    /// At compile time, where the table is a constant: two lanes of one number or name, or two
    /// definitions of one lane; or lanes were given before.
    #[must_use]
    pub const fn with_lanes(mut self, lanes: &'static [Lane]) -> Self {
        assert!(
            self.lanes.is_empty(),
            "a table is given its lanes once; `RouteTable::join` puts several tables together"
        );
        self.lanes = lanes;
        check::lanes_and_classes(&self);
        self
    }

    /// The same table, and connection classes of the project's own.
    ///
    /// # Panics
    /// At compile time, where the table is a constant: two classes of one number or name; or
    /// classes were given before.
    #[must_use]
    pub const fn with_classes(mut self, classes: &'static [ConnectionClass]) -> Self {
        assert!(
            self.classes.is_empty(),
            "a table is given its classes once; `RouteTable::join` puts several tables together"
        );
        self.classes = classes;
        check::lanes_and_classes(&self);
        self
    }

    /// One table of several, such as those of the crates that a program is made of.
    ///
    /// # Panics
    /// At compile time, where the table is a constant: they hold two rules of one service, two
    /// lanes or classes of one number or name, or two definitions of one of them.
    #[must_use]
    pub const fn join(parts: &'static [Self]) -> Self {
        let table = Self {
            own: &[],
            lanes: &[],
            classes: &[],
            parts,
        };
        check::all(&table);
        table
    }

    /// Every rule, a project's own first.
    pub fn rules(&self) -> impl Iterator<Item = &'static Rule> + use<> {
        self.own_rules().into_iter().chain(PREDEFINED)
    }

    /// Every lane of the project's own, each once.
    #[must_use]
    pub fn lanes(&self) -> Vec<Lane> {
        let mut lanes = self.all_lanes();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    /// Every connection class of the project's own, each once.
    #[must_use]
    pub fn classes(&self) -> Vec<ConnectionClass> {
        let mut classes = self.all_classes();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// Makes the table's lanes and classes known to the whole process, so that names of them are
    /// understood wherever they come from: settings, pushed rules, peers. To be called at the
    /// start, before anything is read.
    pub fn remember(&self) {
        for class in self.classes() {
            if let ConnectionClass::Own(class) = class {
                class.remember();
            }
        }
        for lane in self.lanes() {
            lane.remember();
        }
    }

    pub(in crate::routing) const fn own(&self) -> &'static [Rule] {
        self.own
    }

    pub(in crate::routing) const fn given_lanes(&self) -> &'static [Lane] {
        self.lanes
    }

    pub(in crate::routing) const fn given_classes(&self) -> &'static [ConnectionClass] {
        self.classes
    }

    pub(in crate::routing) const fn parts(&self) -> &'static [Self] {
        self.parts
    }

    fn own_rules(&self) -> Vec<&'static Rule> {
        let parts = self.parts.iter().flat_map(Self::own_rules);
        self.own.iter().chain(parts).collect()
    }

    fn all_lanes(&self) -> Vec<Lane> {
        let named = self.own.iter().map(|rule| rule.lane);
        let own = named.filter(|lane| !Lane::BUILT_IN.contains(lane));
        let parts = self.parts.iter().flat_map(Self::all_lanes);
        self.lanes.iter().copied().chain(own).chain(parts).collect()
    }

    fn all_classes(&self) -> Vec<ConnectionClass> {
        let named = self.own.iter().map(|rule| rule.class);
        let own = named.filter(|class| !ConnectionClass::BUILT_IN.contains(class));
        let parts = self.parts.iter().flat_map(Self::all_classes);
        self.classes
            .iter()
            .copied()
            .chain(own)
            .chain(parts)
            .collect()
    }
}

/// A rule for constants: this service, class and lane, these methods, nothing else demanded.
/// `origin` says where it was written, for `explain`. Its other fields are public and can be set
/// in the same constant.
///
/// # Panics
/// At compile time, where it is used in a constant: the class and the lane do not go together.
#[must_use]
pub const fn rule(
    service: &'static str,
    class: ConnectionClass,
    lane: Lane,
    methods: &'static [MethodRule],
    origin: &'static str,
) -> Rule {
    Rule::new(service, class, lane, methods, origin)
}

#[cfg(test)]
mod tests;
