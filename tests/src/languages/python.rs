//! grpcio, unchanged from `PyPI`. The interpreter that has it is named by `SIDELANE_TEST_PYTHON`;
//! the stubs are generated from the tests' proto at test time, as a Python user does it.

use std::net::SocketAddr;
use std::path::Path;

use super::{Kit, Language, Launch, START_LIMIT, here, named_by};

/// Names the interpreter.
pub const PYTHON_VARIABLE: &str = "SIDELANE_TEST_PYTHON";

const VERSION: &str = "import grpc, platform; \
                       print('grpcio', grpc.__version__, 'on Python', platform.python_version())";

/// Finds the interpreter and generates the stubs.
///
/// # Panics
/// If the variable is missing, or its Python has no grpcio.
pub async fn kit() -> Kit {
    let interpreter = named_by(
        PYTHON_VARIABLE,
        "a Python that has what tests/python/requirements.txt lists",
    );
    let folder = tempfile::tempdir().expect("a folder for stubs");
    generate(&interpreter, folder.path()).await;
    let stubs = folder.path().display().to_string();
    let program = |name: &str| {
        let program = here().join("python").join(name).display().to_string();
        launch(&interpreter, &[&program, "--stubs", &stubs])
    };
    Kit {
        language: Language::Python,
        client: program("echo_client.py"),
        server: program("echo_server.py"),
        version: launch(&interpreter, &["-c", VERSION]),
        variables: Vec::new(),
        proxy,
        missing: &[],
        alone: &[],
        folder,
    }
}

/// What `prometheus_client` has to say of a page of metrics in this format, `text` or `openmetrics`.
///
/// # Panics
/// If the variable is missing, its Python has no `prometheus_client`, or that cannot read the page.
pub async fn metrics(format: &str, page: &str) -> String {
    let interpreter = named_by(
        PYTHON_VARIABLE,
        "a Python that has what tests/python/requirements.txt lists",
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), page).expect("a file that can be written");
    let output = tokio::process::Command::new(interpreter)
        .arg(here().join("python/check_metrics.py"))
        .arg(format)
        .stdin(file.reopen().expect("a file that can be read"))
        .output()
        .await
        .expect("a Python that starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{page}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn proxy(address: SocketAddr) -> Vec<(String, String)> {
    vec![
        ("grpc_proxy".to_owned(), format!("http://{address}")),
        ("no_proxy".to_owned(), "127.0.0.1".to_owned()),
    ]
}

fn launch(interpreter: &Path, arguments: &[&str]) -> Launch {
    Launch {
        program: interpreter.to_owned(),
        arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
    }
}

async fn generate(interpreter: &Path, folder: &Path) {
    let protos = here().join("proto");
    // What the tests' proto imports: the options that a rule is written with.
    let options = here().join("../proto");
    let output = tokio::process::Command::new(interpreter)
        .args(["-m", "grpc_tools.protoc"])
        .arg(format!("-I{}", protos.display()))
        .arg(format!("-I{}", options.display()))
        .arg(format!("--python_out={}", folder.display()))
        .arg(format!("--grpc_python_out={}", folder.display()))
        .arg(protos.join("sidelane/test/v1/echo.proto"))
        .arg(options.join("sidelane/routing/v1/routing.proto"))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(START_LIMIT, output).await;
    let output = output.unwrap_or_else(|_| panic!("no stubs within {START_LIMIT:?}"));
    let output = output
        .unwrap_or_else(|error| panic!("{} ({PYTHON_VARIABLE}): {error}", interpreter.display()));
    assert!(
        output.status.success(),
        "{} makes no stubs: {}",
        interpreter.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}
