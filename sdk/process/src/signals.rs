//! What SIGTERM and SIGINT ask for: the first one to drain, each later one to leave at once.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// A signal that ends a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, as supervisors send it.
    Terminate,
    /// SIGINT, Ctrl-C.
    Interrupt,
}

impl fmt::Display for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The first one: finish what is in flight, then end.
    Drain(Signal),
    /// A later one: end now.
    Force(Signal),
}

/// The signals of this process. From its creation on they no longer kill the process.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    draining: bool,
}

impl Signals {
    /// Takes the signals over. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// The operating system refuses the handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            draining: false,
        })
    }

    /// Waits for the next signal. Safe to use in `select!`: nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Stop {
        let signal = tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        };
        if std::mem::replace(&mut self.draining, true) {
            Stop::Force(signal)
        } else {
            Stop::Drain(signal)
        }
    }
}
