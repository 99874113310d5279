//! Compiles the test protos and the rules that are written in them; and the rules once more, with
//! the lane of one service moved, for the side that is built anew while the other is not.

use std::error::Error;
use std::path::{Path, PathBuf};

const ECHO: &str = "sidelane/test/v1/echo.proto";
/// The lane of the first service of the file, before and after.
const MOVE: (&str, &str) = ("lane: \"general\"", "lane: \"gossip\"");

fn main() -> Result<(), Box<dyn Error>> {
    sidelane_build::configure()
        .protos(&["proto"])
        // Payloads of many MiB are shared, not copied.
        .bytes(".")
        .compile()?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let moved = out.join("moved-proto");
    let text = std::fs::read_to_string(Path::new("proto").join(ECHO))?;
    let path = moved.join(ECHO);
    std::fs::create_dir_all(path.parent().unwrap_or(&moved))?;
    std::fs::write(path, text.replacen(MOVE.0, MOVE.1, 1))?;
    sidelane_build::configure()
        .protos(&[moved])
        .stubs(false)
        .out_dir(out.join("moved"))
        .build()?;
    Ok(())
}
