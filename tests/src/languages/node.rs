//! grpc-js, unchanged from npm, on whatever Node is on the path. `SIDELANE_TEST_NODE` names a
//! folder where `npm ci` has put what `tests/node/package-lock.json` lists: `.ci/run` shows how. The
//! stubs are made at run time from the tests' proto, as most users of Node do it.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Kit, Language, Launch, Missing, here, named_by};

/// Names the folder of the installed packages.
pub const NODE_VARIABLE: &str = "SIDELANE_TEST_NODE";

/// Through the mesh they have it all the same: a sidecar is not one connection.
const ALONE: &[Missing] = &[Missing {
    case: "ten_thousand_cancelled",
    reason: "Node ends a connection on which calls were given up a thousand times, and then more \
             often than 33 times a second; grpc-js has no setting for that",
}];

/// Finds the packages.
///
/// # Panics
/// If the variable is missing.
#[must_use]
pub fn kit() -> Kit {
    let folder = named_by(
        NODE_VARIABLE,
        "a folder with what tests/node/package.json needs",
    );
    let modules = folder.join("node_modules").display().to_string();
    let launch = |name: &str, arguments: &[&str]| {
        let program = here().join("node").join(name).display().to_string();
        let given = arguments.iter().map(|text| (*text).to_owned());
        Launch {
            program: PathBuf::from("node"),
            arguments: [program].into_iter().chain(given).collect(),
        }
    };
    Kit {
        language: Language::Node,
        client: launch("echo_client.js", &[]),
        server: launch("echo_server.js", &[]),
        version: launch("echo_client.js", &["--version"]),
        variables: vec![("NODE_PATH".to_owned(), modules)],
        proxy,
        missing: &[],
        alone: ALONE,
        folder: tempfile::tempdir().expect("a folder for logs"),
    }
}

fn proxy(address: SocketAddr) -> Vec<(String, String)> {
    vec![
        ("grpc_proxy".to_owned(), format!("http://{address}")),
        ("no_grpc_proxy".to_owned(), "127.0.0.1".to_owned()),
    ]
}
