//! Writes the messages that each target begins with into a folder, a folder each:
//!
//! ```sh
//! cargo run -p sidelane-fuzz --example seeds FOLDER
//! ```

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use sidelane_fuzz::TARGETS;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("name a folder")?;
    for target in TARGETS {
        let folder = PathBuf::from(&folder).join(target.name);
        fs::create_dir_all(&folder)?;
        for (at, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{at:02}")), seed)?;
        }
    }
    Ok(())
}
