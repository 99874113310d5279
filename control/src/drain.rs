//! The end of the process, as everything that runs in it sees it: a signal that it begins, and a
//! way to know when everybody has taken note and ended.

use tokio::sync::watch;

/// Begins the end, and waits for it.
#[derive(Debug)]
pub struct Drain(watch::Sender<bool>);

/// Sees the end come. The end is not over while one of these lives.
#[derive(Debug, Clone)]
pub struct Draining(watch::Receiver<bool>);

impl Drain {
    /// Nothing ends yet.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// For something that must end before the process does.
    #[must_use]
    pub fn watch(&self) -> Draining {
        Draining(self.0.subscribe())
    }

    /// Begins the end.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Has the end begun?
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until everybody who watches has ended.
    pub async fn finished(&self) {
        self.0.closed().await;
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Draining {
    /// Waits for the end to begin. Safe to use in `select!`.
    pub async fn begun(&mut self) {
        // An error means that nobody is left who could begin it: then it has come, too.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}
