//! The `sidelane` command with the tests' rules compiled in. Tests start it as control and as
//! sidecars. It ends when the test that started it does, however that ends.

use std::io::Read;
use std::process::ExitCode;

use sidelane_tests::process::TETHER_VARIABLE;
use sidelane_tests::routes::ROUTES;

fn main() -> ExitCode {
    if std::env::var_os(TETHER_VARIABLE).is_some() {
        std::thread::spawn(end_with_input);
    }
    sidelane_cli::run(std::env::args_os().skip(1).collect(), ROUTES)
}

/// The other end of standard input is held by the test and by nobody else.
fn end_with_input() {
    let mut byte = [0];
    while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
    std::process::exit(1);
}
