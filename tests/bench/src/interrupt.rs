//! The signals that end a benchmark early: it is told, so that it can end what it has started.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Ends with the exit code that shells give to the signal that came.
pub(crate) fn interrupted() -> Result<impl Future<Output = u8>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => 128 + 2,
            _ = terminate.recv() => 128 + 15,
            _ = hang_up.recv() => 128 + 1,
        }
    })
}
