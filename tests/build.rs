//! Compiles the test protos and the rules that are written in them.

fn main() -> Result<(), sidelane_build::Errors> {
    sidelane_build::configure()
        .protos(&["proto"])
        // Payloads of many MiB are shared, not copied.
        .bytes(".")
        .compile()
}
