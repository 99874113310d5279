//! How many files the process may have open at once. Every connection is one, and what shells and
//! service managers give by default, 1,024, is a bound for programs that use `select`; ours do not.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// How many the process may have open once [`raise_limit`] was called: the hard limit; `u64::MAX` where
/// there is none.
#[must_use]
pub fn most() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises the limit as far as the system allows without privilege: to the hard limit. Returns what
/// it is then; `u64::MAX` where there is none.
///
/// # Errors
/// The system refuses; the limit is as it was.
pub fn raise_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            ..limit
        };
        setrlimit(Resource::Nofile, raised)?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Raises the limit, and warns where that is not enough for so many files. `bound` says what would
/// be open at most.
pub fn allow(wanted: u64, bound: &str) {
    match raise_limit() {
        Ok(files) if files < wanted => warn!(
            files,
            wanted, "fewer files may be open than {bound}; raise the hard limit"
        ),
        Ok(_) => {}
        Err(error) => warn!(%error, "the limit of open files cannot be raised"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lowered_limit_is_raised_to_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        // Low enough to see the difference, high enough for the tests beside this one.
        let lowered = Rlimit {
            current: before.current.map(|current| current - 1),
            ..before
        };
        setrlimit(Resource::Nofile, lowered).unwrap();
        let raised = raise_limit().unwrap();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, before.maximum);
        assert_eq!(raised, before.maximum.unwrap_or(u64::MAX));
        assert_eq!(most(), raised);
    }
}
