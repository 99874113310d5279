//! Compiles the rules of the folders that `SIDELANE_PROTOS` names into the stock programs. A
//! project that has a program of its own does not need it.

use sidelane_build::Errors;

const VARIABLE: &str = "SIDELANE_PROTOS";

fn main() -> Result<(), Errors> {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    println!("cargo:rerun-if-changed=build.rs");
    sidelane_build::configure()
        .stubs(false)
        .protos_listed(VARIABLE, std::env::var_os(VARIABLE))?
        .compile()
}
