//! The `sidelane` command with the tests' rules compiled in. Tests start it as control and as
//! sidecars. It ends when the test that started it does, however that ends.

use std::process::ExitCode;

use sidelane_tests::process::end_with_test;
use sidelane_tests::routes::ROUTES;

fn main() -> ExitCode {
    end_with_test();
    sidelane_cli::run(std::env::args_os().skip(1).collect(), ROUTES)
}
