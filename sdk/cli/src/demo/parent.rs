//! What a child of the demo owes its parent: to end with it. Each child has a pipe as its standard
//! input; the kernel closes it however the parent ends, SIGKILL included, so nothing is ever left
//! behind. A thread watches the pipe, because the programs beside it own the async runtime.

use std::io::{BufRead as _, BufReader, stdin};
use std::process;
use std::thread;

use tokio::sync::mpsc;

/// Exit code of a child whose parent has gone.
const PARENT_GONE: i32 = 3;
/// Lines from the parent that may wait to be read. The parent waits for an answer to each, so one
/// would do.
const LINES_LIMIT: usize = 16;

/// Ends this process as soon as its parent has gone.
pub(super) fn watch() {
    drop(lines());
}

/// The same, and hands over what the parent writes, line by line.
pub(super) fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES_LIMIT);
    thread::spawn(move || {
        for line in BufReader::new(stdin()).lines() {
            let Ok(line) = line else { break };
            // Nobody may be listening: then only the end of the input counts.
            let _ = sender.blocking_send(line);
        }
        process::exit(PARENT_GONE);
    });
    receiver
}
