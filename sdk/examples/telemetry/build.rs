//! Compiles the protos and their rules, and holds every rule to the project's own demand.

#[path = "src/demand.rs"]
mod demand;

fn main() -> Result<(), sidelane_build::Errors> {
    println!("cargo:rerun-if-changed=src/demand.rs");
    sidelane_build::configure()
        .protos(&["proto"])
        .validation(demand::TimeLimits)
        .compile()
}
