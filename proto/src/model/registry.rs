//! Lanes and classes that projects define are few, and everybody passes them around by value. So
//! what was compiled in or learnt from the wire is kept as long as the process lives, up to a
//! bound, and a handle to it is a plain reference.

use std::sync::{PoisonError, RwLock};

use super::error::Problem;

/// What is known beside what Sidelane brings.
pub(super) struct Registry<T: 'static>(RwLock<Vec<T>>);

impl<T: Copy + PartialEq> Registry<T> {
    pub(super) const fn new() -> Self {
        Self(RwLock::new(Vec::new()))
    }

    /// The first that fits, in the order in which they became known.
    pub(super) fn find(&self, fits: impl Fn(&T) -> bool) -> Option<T> {
        self.read().iter().copied().find(|known| fits(known))
    }

    pub(super) fn all(&self) -> Vec<T> {
        self.read().clone()
    }

    /// Is there room for one more?
    pub(super) fn room(&self, limit: usize) -> Result<(), Problem> {
        let count = self.read().len() + 1;
        if count > limit {
            return Err(Problem::TooMany { count, limit });
        }
        Ok(())
    }

    /// Adds one, or finds it.
    pub(super) fn add(&self, new: T, limit: usize) -> Result<T, Problem> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.iter().find(|known| **known == new) {
            return Ok(*known);
        }
        let count = known.len() + 1;
        if count > limit {
            return Err(Problem::TooMany { count, limit });
        }
        known.push(new);
        Ok(new)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}
