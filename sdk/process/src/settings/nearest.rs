//! The known name nearest to one that is not known, for messages. Case and the kind of dash do
//! not count, because those are what people get wrong most.

/// The candidate most like `given`; `None` only if there is no candidate.
#[must_use]
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = plain(given);
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&given, &plain(candidate)), candidate))
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, candidate)| candidate)
}

/// The candidate that `given` is probably a slip of, if there is one: one edit away, or two in
/// names of more than four letters.
pub(super) fn slip<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let given = plain(given);
    let allowed = if given.chars().count() > 4 { 2 } else { 1 };
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&given, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn plain(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}
