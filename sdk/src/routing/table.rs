//! The table of all rules that a program was compiled with. It is made once, at the start, from
//! constants; the look-up that the data path does by it lives in the sidecar.

use sidelane_proto::model::{ConnectionClass, Lane, MethodRule, Rule};

use super::services::PREDEFINED;

/// All rules that a program was compiled with: the predefined ones and a project's own.
#[derive(Debug, Clone, Copy)]
pub struct RouteTable {
    own: &'static [Rule],
}

impl RouteTable {
    /// The predefined services only.
    pub const PREDEFINED: Self = Self::new(&[]);

    /// The predefined services, and `own`.
    ///
    /// # Panics
    /// At compile time, where the table is a constant: a rule with an illegal (class, lane) pair.
    #[must_use]
    pub const fn new(own: &'static [Rule]) -> Self {
        let mut index = 0;
        while index < own.len() {
            assert!(
                own[index].class.allows(own[index].lane),
                "this class and this lane do not go together"
            );
            index += 1;
        }
        Self { own }
    }

    /// Every rule, a project's own first.
    pub fn rules(&self) -> impl Iterator<Item = &'static Rule> + use<> {
        self.own.iter().chain(PREDEFINED)
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
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_the_table_is_legal_and_named_once() {
        let mut names: Vec<_> = RouteTable::PREDEFINED
            .rules()
            .map(|rule| rule.service.clone())
            .collect();
        assert!(
            RouteTable::PREDEFINED
                .rules()
                .all(|rule| rule.class.allows(rule.lane))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PREDEFINED.len());
    }
}
