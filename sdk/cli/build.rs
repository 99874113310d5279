//! Compiles the demo's protos and the rules that are written in them.

fn main() -> Result<(), sidelane_build::Errors> {
    sidelane_build::configure().protos(&["proto"]).compile()
}
