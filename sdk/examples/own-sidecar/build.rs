//! A sidecar needs the rules of the protos, and neither messages nor clients.

fn main() -> Result<(), sidelane_build::Errors> {
    sidelane_build::configure()
        .protos(&["proto"])
        .stubs(false)
        .compile()
}
