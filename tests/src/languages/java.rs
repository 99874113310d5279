//! grpc-java, unchanged from Maven Central, on whatever Java is on the path, 17 or later.
//! `SIDELANE_TEST_JAVA` names a folder with the two programs of `tests/java` and all that they need,
//! as jars, which Maven builds beforehand: `.ci/run` shows how.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Kit, Language, Launch, named_by};

/// Names the folder of the jars.
pub const JAVA_VARIABLE: &str = "SIDELANE_TEST_JAVA";

/// For programs that live for seconds on few cores: what the compiler of the machine takes while it
/// makes code faster than needed is missed by those who measure time.
const QUICK: &[&str] = &["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// Finds the programs.
///
/// # Panics
/// If the variable is missing.
#[must_use]
pub fn kit() -> Kit {
    let folder = named_by(
        JAVA_VARIABLE,
        "a folder with the jars that tests/java builds",
    );
    let jars = folder.join("*").display().to_string();
    let launch = |class: &str, arguments: &[&str]| {
        let arguments = [QUICK, &["-cp", &jars, class], arguments].concat();
        Launch {
            program: PathBuf::from("java"),
            arguments: arguments.into_iter().map(ToOwned::to_owned).collect(),
        }
    };
    Kit {
        language: Language::Java,
        client: launch("EchoClient", &[]),
        server: launch("EchoServer", &[]),
        version: launch("EchoClient", &["--version"]),
        variables: Vec::new(),
        proxy,
        missing: &[],
        alone: &[],
        folder: tempfile::tempdir().expect("a folder for logs"),
    }
}

/// Java has properties for it, and a variable for its properties. It leaves 127.0.0.1 out by itself.
fn proxy(address: SocketAddr) -> Vec<(String, String)> {
    let (host, port) = (address.ip(), address.port());
    let properties = format!("-Dhttps.proxyHost={host} -Dhttps.proxyPort={port}");
    vec![("JAVA_TOOL_OPTIONS".to_owned(), properties)]
}
