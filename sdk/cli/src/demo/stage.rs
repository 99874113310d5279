//! Where the demo says what it does, line by line, each with the time since its beginning.

use std::io::{Write as _, stderr, stdout};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The demo's progress.
pub(super) struct Stage {
    began: Instant,
    to_stderr: bool,
    last: Mutex<String>,
}

impl Stage {
    /// Progress goes to standard output, or to standard error where the output is for programs.
    pub(super) fn new(to_stderr: bool) -> Self {
        Self {
            began: Instant::now(),
            to_stderr,
            last: Mutex::default(),
        }
    }

    /// One more line.
    pub(super) fn say(&self, line: &str) {
        let time = self.began.elapsed().as_secs_f64();
        self.show(&format!("[{time:5.1} s] {line}\n"));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        line.clone_into(&mut last);
    }

    /// A text that ends its own lines.
    pub(super) fn show(&self, text: &str) {
        // Nobody may be reading any more; the demo goes on all the same.
        let _ = if self.to_stderr {
            stderr().lock().write_all(text.as_bytes())
        } else {
            stdout().lock().write_all(text.as_bytes())
        };
    }

    /// The line that was said last.
    pub(super) fn last(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }
}
