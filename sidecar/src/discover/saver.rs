//! Keeps the newest picture on disk. It stands beside the control stream and never in its way:
//! however often the picture changes, it is written at most once a second, on the blocking pool,
//! and only as it is then. A disk that fails is counted, told and tried again.

use std::sync::Arc;

use sidelane_proto::model::Network;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Timing;
use super::disk;
use super::folder::DataFolder;
use super::handle::Shared;

/// Writes the newest picture whenever `changed` says so, until its sender is gone; what is not
/// written then is written first.
pub(super) async fn keep(
    folder: Arc<DataFolder>,
    network: Network,
    shared: Arc<Shared>,
    timing: Timing,
    mut changed: watch::Receiver<()>,
) {
    let mut ended = shared.ended();
    let mut failed = false;
    loop {
        let open = if failed {
            // A full disk may have room again, without any news from control.
            let retry = timeout(timing.save_retry, changed.changed());
            retry.await.unwrap_or(Ok(())).is_ok()
        } else {
            changed.changed().await.is_ok()
        };
        if !open && !failed {
            return;
        }
        failed = !save(&folder, &network, &shared).await;
        if !open {
            return;
        }
        tokio::select! {
            () = sleep(timing.save_interval) => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }
}

async fn save(folder: &Arc<DataFolder>, network: &Network, shared: &Shared) -> bool {
    // A clone of the picture is a reference count per service; the copying is on the other side.
    let held = shared.held().clone();
    let version = held.version().cloned();
    let (folder, network) = (Arc::clone(folder), network.clone());
    let written = tokio::task::spawn_blocking(move || disk::save(&folder, &network, &held)).await;
    let error = match written {
        Ok(Ok(())) => {
            shared.saved(version);
            return true;
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => format!("the snapshot was not written: {error}"),
    };
    shared.not_saved(error);
    false
}
