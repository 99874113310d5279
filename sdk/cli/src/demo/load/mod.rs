//! The load of the demo: the storefront, a program that calls the shop's services through the
//! sidecar beside it, at a steady pace and without a single retry, so that each failure which the
//! mesh lets through is seen. It stands where a user's own service would stand.

mod call;
mod check;
mod clients;
mod pace;
mod record;

use std::sync::Arc;
use std::time::Duration;

use sidelane::TargetError;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::interval;

use super::message::{News, Order};
use clients::Clients;
use pace::Pace;
use record::Recorder;

pub(super) use pace::sentence;

/// How often the load generator tells how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// News that may wait to be written. Failures beyond it would be lost, so each of them is counted
/// in the report as well.
const NEWS_LIMIT: usize = 1_024;

/// The load generator could not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The sidecar beside it is not there.
    #[error(transparent)]
    Sidecar(#[from] TargetError),
    /// The address of the direct calls is none.
    #[error("--direct {given:?} is no URL: {source}")]
    Direct {
        /// As it was given.
        given: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// Standard output is closed.
    #[error("cannot write news: {0}")]
    Output(#[from] std::io::Error),
    /// An order that is not understood.
    #[error("cannot understand the order {line:?}: {source}")]
    Order {
        /// As it was read.
        line: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Makes the load until the parent has gone. `direct` is the URL of an orders app, for the calls
/// past the mesh.
pub(super) async fn run(
    node: &str,
    direct: &str,
    orders: mpsc::Receiver<String>,
) -> Result<(), LoadError> {
    let clients = Clients::connect(node, direct).await?;
    let (news, written) = mpsc::channel(NEWS_LIMIT);
    let recorder = Arc::new(Recorder::new(news.clone()));
    let pace = Pace::start(&clients, &recorder);
    tokio::try_join!(write(written), obey(orders, &pace, &recorder, news))?;
    Ok(())
}

/// Follows orders, and tells how far the load is between them.
async fn obey(
    mut orders: mpsc::Receiver<String>,
    pace: &Pace,
    recorder: &Arc<Recorder>,
    news: mpsc::Sender<News>,
) -> Result<(), LoadError> {
    let mut ticks = interval(PROGRESS_EVERY);
    loop {
        let line = tokio::select! {
            line = orders.recv() => line,
            _ = ticks.tick() => {
                // Where the reader is slow the next one says all that this one would have.
                let _ = news.try_send(News::Progress(recorder.progress()));
                continue;
            }
        };
        let Some(line) = line else { return Ok(()) };
        let order =
            serde_json::from_str(&line).map_err(|source| LoadError::Order { line, source })?;
        match order {
            Order::Phase { name, direct } => {
                recorder.begin(name);
                pace.go(direct);
            }
            // A closed channel means that the writer has failed, which ends the program.
            Order::Interim => drop(news.send(News::Interim(recorder.report())).await),
            Order::Resume => pace.go(false),
            Order::Report => {
                pace.stop();
                let report = recorder.report_when_idle(call::LIMIT * 2).await;
                drop(news.send(News::Report(report)).await);
            }
        }
    }
}

async fn write(mut news: mpsc::Receiver<News>) -> Result<(), LoadError> {
    let mut output = tokio::io::stdout();
    while let Some(news) = news.recv().await {
        let mut line = serde_json::to_vec(&news).map_err(std::io::Error::from)?;
        line.push(b'\n');
        output.write_all(&line).await?;
        output.flush().await?;
    }
    Ok(())
}
