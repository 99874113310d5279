//! The demo's side of the conversation with its load generator: orders go out, and what comes back
//! is kept as one state that can be waited for.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio::time::timeout;

use super::message::{Failed, News, Order, Progress, Report};
use super::process::{Process, ProcessError};

/// Failures that are kept with all their words; the others are counted. A run as it should be has
/// a handful, and thousands of them say no more than the first ones.
const KEPT_LIMIT: usize = 2_000;
/// How long the load generator may take to follow an order.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The conversation broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorefrontError {
    /// The process is not as it should be.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It does not read.
    #[error("cannot give orders to the storefront: {0}")]
    Order(std::io::Error),
    /// It says nothing.
    #[error("the storefront gave no sign within {} s that {wanted}", limit.as_secs())]
    Silent {
        /// What was waited for.
        wanted: &'static str,
        /// How long.
        limit: Duration,
    },
}

/// What the load generator has said so far.
#[derive(Default)]
pub(super) struct Heard {
    /// The newest.
    pub(super) progress: Option<Progress>,
    /// In the order in which they came.
    pub(super) failed: Vec<Failed>,
    /// What was counted until it was asked for.
    pub(super) interim: Option<Report>,
    /// What was counted to the end.
    pub(super) report: Option<Report>,
}

/// The load generator.
pub(super) struct Storefront {
    process: Process,
    input: ChildStdin,
    heard: watch::Receiver<Heard>,
}

impl Storefront {
    /// Takes over a load generator that was just started.
    pub(super) fn new(mut process: Process) -> Result<Self, StorefrontError> {
        let Some((input, output)) = process.take_pipes() else {
            let broken = std::io::Error::other("it has no pipes");
            return Err(StorefrontError::Order(broken));
        };
        let (sender, heard) = watch::channel(Heard::default());
        tokio::spawn(listen(output, sender));
        Ok(Self {
            process,
            input,
            heard,
        })
    }

    /// An error if the process has ended.
    pub(super) fn must_live(&mut self) -> Result<(), StorefrontError> {
        Ok(self.process.must_live()?)
    }

    /// Begins a phase, and returns when every call that ends from now on belongs to it.
    pub(super) async fn phase(&mut self, name: &str, direct: bool) -> Result<(), StorefrontError> {
        let name = name.to_owned();
        self.order(&Order::Phase {
            name: name.clone(),
            direct,
        })
        .await?;
        self.until("a phase has begun", ANSWER_LIMIT, |heard| {
            let progress = heard.progress.as_ref();
            progress.is_some_and(|progress| progress.phase == name)
        })
        .await
    }

    /// Returns what became of the load until now.
    pub(super) async fn interim(&mut self) -> Result<Report, StorefrontError> {
        self.order(&Order::Interim).await?;
        self.until("its interim report is done", ANSWER_LIMIT, |heard| {
            heard.interim.is_some()
        })
        .await?;
        Ok(self.heard.borrow().interim.clone().unwrap_or_default())
    }

    /// Stops the load, and returns what became of it.
    pub(super) async fn report(&mut self) -> Result<Report, StorefrontError> {
        self.order(&Order::Report).await?;
        let limit = ANSWER_LIMIT * 2;
        self.until("its report is done", limit, |heard| heard.report.is_some())
            .await?;
        Ok(self.heard.borrow().report.clone().unwrap_or_default())
    }

    /// Goes on after a report.
    pub(super) async fn resume(&mut self) -> Result<(), StorefrontError> {
        self.order(&Order::Resume).await
    }

    /// What was heard so far.
    pub(super) fn heard(&self) -> watch::Ref<'_, Heard> {
        self.heard.borrow()
    }

    /// Waits for something to be heard.
    pub(super) async fn until(
        &mut self,
        wanted: &'static str,
        limit: Duration,
        is: impl FnMut(&Heard) -> bool,
    ) -> Result<(), StorefrontError> {
        if let Ok(Ok(_)) = timeout(limit, self.heard.wait_for(is)).await {
            return Ok(());
        }
        // The better message, if that is why.
        self.process.must_live()?;
        Err(StorefrontError::Silent { wanted, limit })
    }

    async fn order(&mut self, order: &Order) -> Result<(), StorefrontError> {
        let line = serde_json::to_string(order).map_err(std::io::Error::from);
        let line = line.map_err(StorefrontError::Order)? + "\n";
        let written = self.input.write_all(line.as_bytes()).await;
        if written.is_err() {
            self.process.must_live()?;
        }
        written.map_err(StorefrontError::Order)
    }
}

async fn listen(output: ChildStdout, heard: watch::Sender<Heard>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(news) = serde_json::from_str(&line) else {
            continue; // A panic's text, say; it ends the process, which is noticed.
        };
        heard.send_modify(|heard| match news {
            News::Progress(progress) => heard.progress = Some(progress),
            News::Interim(report) => heard.interim = Some(report),
            News::Report(report) => heard.report = Some(report),
            News::Failed(failed) if heard.failed.len() < KEPT_LIMIT => heard.failed.push(failed),
            News::Failed(_) => {}
        });
    }
}
