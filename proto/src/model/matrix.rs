//! The matrix of connection classes and lanes that go together. This is the one place that
//! decides it: the SDK's types, the rule check and the wire check are derived from it. For
//! Sidelane's own it is written with the lanes; a project's lane names its classes, and a
//! project's class the lanes of Sidelane's own that it takes.

use super::class::ConnectionClass;
use super::error::{FieldError, Problem};
use super::lane::Lane;

impl ConnectionClass {
    /// Does this lane go with this class?
    #[must_use]
    pub const fn allows(self, lane: Lane) -> bool {
        let classes = lane.definition().classes;
        let mut index = 0;
        while index < classes.len() {
            if classes[index].is(self) {
                return true;
            }
            index += 1;
        }
        let Self::Own(class) = self else {
            return false;
        };
        let lanes = class.definition().lanes;
        let mut index = 0;
        while index < lanes.len() {
            if lanes[index].is(lane) {
                return true;
            }
            index += 1;
        }
        false
    }

    /// The lanes that go with this class, of those that are known here.
    #[must_use]
    pub fn lanes(self) -> Vec<Lane> {
        let mut lanes = Lane::known();
        lanes.retain(|lane| self.allows(*lane));
        lanes
    }

    /// The names of those lanes, for people.
    #[must_use]
    pub fn lane_names(self) -> String {
        let names: Vec<&str> = self.lanes().into_iter().map(Lane::name).collect();
        names.join(", ")
    }
}

/// Refuses a pair that the matrix does not have; `path` is the lane's field.
///
/// # Errors
/// [`Problem::IllegalPair`] with the lanes that the class allows.
pub fn check_pair(class: ConnectionClass, lane: Lane, path: &str) -> Result<(), FieldError> {
    check_pair_among(class, lane, path, &Lane::known())
}

/// As [`check_pair`], where these are the lanes that there are.
pub(super) fn check_pair_among(
    class: ConnectionClass,
    lane: Lane,
    path: &str,
    lanes: &[Lane],
) -> Result<(), FieldError> {
    if class.allows(lane) {
        return Ok(());
    }
    let legal: Vec<&str> = lanes
        .iter()
        .filter(|lane| class.allows(**lane))
        .map(|lane| lane.name())
        .collect();
    let problem = Problem::IllegalPair {
        class: class.name(),
        lane: lane.name().to_owned(),
        legal: legal.join(", "),
    };
    Err(FieldError::new(path, problem))
}
