//! The command line's way to a sidecar: its admin port, over HTTP. An error says which address was
//! asked and how somebody would come to answer there.

use std::fmt::Write as _;
use std::time::Duration;

use sidelane_process::fetch::{self, FetchError, Fetched};
use sidelane_process::settings::Settings;

use super::Failure;
use super::arguments::{SIDECAR, plain};

/// The sidecar could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SidecarError {
    /// Nobody there.
    #[error(
        "no sidecar answers at {sidecar} ({why}); start one with `sidelane sidecar --admin {}`, or \
         say where it is with --sidecar URL",
        host(sidecar)
    )]
    Unreachable {
        /// What was dialled.
        sidecar: String,
        /// What happened there.
        why: String,
    },
    /// Somebody who does not answer as a sidecar does, or a URL that is none.
    #[error(transparent)]
    Answer(FetchError),
}

/// The URL that `--sidecar` names.
pub(super) fn base(settings: &Settings) -> Result<String, Failure> {
    Ok(url(&settings.value(&SIDECAR, plain)?))
}

/// A URL without a slash at its end. `HOST:PORT` is enough.
pub(super) fn url(given: &str) -> String {
    let given = given.trim_end_matches('/');
    if given.contains("://") {
        return given.to_owned();
    }
    format!("http://{given}")
}

/// Gets a page of the sidecar at `base`.
pub(super) async fn get(base: &str, page: &str, limit: Duration) -> Result<Fetched, SidecarError> {
    let url = format!("{base}{page}");
    fetch::get(&url, limit).await.map_err(|error| match error {
        FetchError::Unreachable { source, .. } => SidecarError::Unreachable {
            sidecar: base.to_owned(),
            why: source.to_string(),
        },
        error => SidecarError::Answer(error),
    })
}

/// As a value in a URL's query: everything but letters, digits and `-._~/` is a `%` and two digits
/// (RFC 3986 §2.1, §3.4).
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

fn host(sidecar: &str) -> &str {
    sidecar.trim_start_matches("http://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_in_urls() {
        assert_eq!(escaped("/a.B/C"), "/a.B/C");
        assert_eq!(escaped("a b&c=ä?#%"), "a%20b%26c%3D%C3%A4%3F%23%25");
    }
}
