//! Where lines are written to. It may fill up, be moved or be removed at any time, and only ever costs
//! lines: they are counted, and the next ones are tried again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::warn;

use super::To;

/// Between two looks whether the file is still there, and between two lines of the log that it cannot
/// be written.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The file, or the standard output.
#[derive(Debug)]
pub(super) struct Output {
    to: To,
    file: Option<File>,
    looked: Instant,
    complained: Option<Instant>,
    /// The last line is not whole.
    torn: bool,
}

impl Output {
    /// Opens it.
    pub(super) fn open(to: To) -> io::Result<Self> {
        let file = match &to {
            To::Stdout => None,
            To::File(path) => Some(open(path)?),
        };
        Ok(Self {
            to,
            file,
            looked: Instant::now(),
            complained: None,
            torn: false,
        })
    }

    /// Writes whole lines, as many as it can, and says how many.
    pub(super) fn write(&mut self, lines: &[u8]) -> u64 {
        if lines.is_empty() {
            return 0;
        }
        let (written, result) = match self.find() {
            Err(error) => (0, Err(error)),
            Ok(()) => self.write_out(lines),
        };
        if let Err(error) = result {
            self.complain(&error);
        }
        let whole = lines[..written].iter().filter(|byte| **byte == b'\n');
        whole.count() as u64
    }

    fn write_out(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut stdout = io::stdout();
        let output: &mut dyn Write = match &mut self.file {
            Some(file) => file,
            None => &mut stdout,
        };
        // Whoever reads this finds each line at the beginning of one.
        if self.torn {
            match output.write_all(b"\n") {
                Ok(()) => self.torn = false,
                Err(error) => return (0, Err(error)),
            }
        }
        let mut written = 0;
        while written < lines.len() {
            match output.write(&lines[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.torn = lines[..written].last().is_some_and(|it| *it != b'\n');
                    return (written, Err(error));
                }
            }
        }
        (written, output.flush())
    }

    /// Opens the file anew where another one, or none, has its name now.
    fn find(&mut self) -> io::Result<()> {
        let To::File(path) = &self.to else {
            return Ok(());
        };
        if self.file.is_some() && self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        let same = |file: &File| {
            let (here, there) = (file.metadata().ok()?, std::fs::metadata(path).ok()?);
            Some((here.dev(), here.ino()) == (there.dev(), there.ino()))
        };
        if self.file.as_ref().and_then(same) != Some(true) {
            self.file = None;
            self.file = Some(open(path)?);
            self.torn = false;
        }
        Ok(())
    }

    fn complain(&mut self, error: &io::Error) {
        if self.complained.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.complained = Some(Instant::now());
        warn!(%error, to = ?self.to, "lines of the access log are lost");
    }
}

/// For its owner, and for the group that reads logs.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_moved_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut output = Output::open(To::File(path.clone())).unwrap();
        assert_eq!(output.write(b"one\n"), 1);
        std::fs::rename(&path, &moved).unwrap();
        // Until it is looked at, lines go where the file is now.
        output.looked = Instant::now();
        assert_eq!(output.write(b"two\n"), 1);
        output.looked = Instant::now().checked_sub(LOOK_EVERY).unwrap();
        assert_eq!(output.write(b"three\nfour\n"), 2);
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\nfour\n");
    }

    #[test]
    fn a_folder_that_is_gone_costs_lines_and_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("logs");
        std::fs::create_dir(&inner).unwrap();
        let path = inner.join("log");
        let mut output = Output::open(To::File(path.clone())).unwrap();
        std::fs::remove_dir_all(&inner).unwrap();
        output.looked = Instant::now().checked_sub(LOOK_EVERY).unwrap();
        assert_eq!(output.write(b"lost\n"), 0);
        std::fs::create_dir(&inner).unwrap();
        assert_eq!(output.write(b"found\n"), 1);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "found\n");
    }

    #[test]
    fn a_full_disk_costs_lines() {
        let full = Path::new("/dev/full");
        let mut output = Output::open(To::File(full.into())).unwrap();
        assert_eq!(output.write(b"one\ntwo\n"), 0);
        assert!(output.complained.is_some());
    }
}
