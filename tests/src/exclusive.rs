//! One test at a time: tests that load the machine, kill and freeze processes, or measure time
//! would disturb each other.

use tokio::sync::{Mutex, MutexGuard};

static TURN: Mutex<()> = Mutex::const_new(());

/// Waits for the other tests of this program that asked for the same, until it is dropped.
pub async fn exclusive() -> MutexGuard<'static, ()> {
    TURN.lock().await
}
