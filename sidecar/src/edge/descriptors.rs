//! Whether as many connections as are allowed can be open at all: each takes a file descriptor, and how
//! many a process may have the system says. A bound that cannot be reached would not hold; beyond the
//! system's nobody is accepted, peers and apps neither.

/// Descriptors for all else: peers, apps, listeners and files.
pub const SPARE: u64 = 512;

/// What stands in the way of so many connections of users, for people, in a process that may open
/// `allowed` files; `None` if nothing does.
#[must_use]
pub fn missing(connections: usize, allowed: u64) -> Option<String> {
    let wanted = (connections as u64).saturating_add(SPARE);
    (allowed < wanted).then(|| {
        format!(
            "this process may open {allowed} files, and {wanted} are needed for {connections} \
             connections of users and all else: raise its hard limit (ulimit -Hn {wanted}, \
             LimitNOFILE={wanted}), or allow fewer connections"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_open_is_said() {
        assert_eq!(missing(512, 1_024), None);
        assert_eq!(missing(1_000_000, u64::MAX), None);
        let told = missing(513, 1_024).unwrap();
        assert!(
            told.contains("may open 1024 files, and 1025 are needed"),
            "{told}"
        );
    }
}
