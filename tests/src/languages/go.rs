//! grpc-go, unchanged from its module proxy. `SIDELANE_TEST_GO` names the folder with the two
//! programs of `tests/go`, which are built beforehand: `.ci/run` shows how.

use std::net::SocketAddr;

use super::{Kit, Language, Launch, named_by};

/// Names the folder of the built programs.
pub const GO_VARIABLE: &str = "SIDELANE_TEST_GO";

/// Finds the programs.
///
/// # Panics
/// If the variable is missing.
#[must_use]
pub fn kit() -> Kit {
    let folder = named_by(GO_VARIABLE, "a folder with what tests/go builds");
    let launch = |name: &str, arguments: &[&str]| Launch {
        program: folder.join(name),
        arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
    };
    Kit {
        language: Language::Go,
        client: launch("client", &[]),
        server: launch("server", &[]),
        version: launch("client", &["--version"]),
        variables: Vec::new(),
        proxy,
        missing: &[],
        alone: &[],
        folder: tempfile::tempdir().expect("a folder for logs"),
    }
}

/// Go leaves 127.0.0.1 out by itself.
fn proxy(address: SocketAddr) -> Vec<(String, String)> {
    vec![("HTTPS_PROXY".to_owned(), format!("http://{address}"))]
}
