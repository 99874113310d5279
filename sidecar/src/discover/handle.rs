//! The rest of the sidecar's handle on discovery: what it wants is noted here, and what is known
//! is read here. Nothing waits for control unless it says so and for how long; the control stream
//! is run by `client`, which shares the state below.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sidelane_proto::model::{Addresses, Generation, Offer, ServiceName, Version};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::held::Held;
use super::intent::{Intent, TooManyWanted};
use super::status::{Counters, Source, State, Status};

/// A handle on the control stream. Clones share it.
#[derive(Debug, Clone)]
pub struct Discovery {
    pub(super) shared: Arc<Shared>,
    /// How long a goodbye may take, this side's part included.
    pub(super) goodbye: Duration,
}

/// Whether the others know that this node takes no new calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Control has told everybody who listens.
    Confirmed {
        /// Sidecars that had not acknowledged it when control's own wait was over.
        unacknowledged: u32,
    },
    /// Nobody can tell. Control will be told when it is reached.
    Unconfirmed {
        /// Why, for people.
        why: String,
    },
}

impl Discovery {
    /// Asks to be told about a service, from now on until it is forgotten. Asking again, or many
    /// at once, costs nothing more. Services of the initial picture are wanted already.
    ///
    /// # Errors
    /// So many services are wanted that there is no room for one more.
    pub fn want(&self, service: &ServiceName) -> Result<(), TooManyWanted> {
        let wanted = self.shared.intent().want(service);
        match wanted {
            Ok(true) => self.shared.wake.notify_one(),
            Ok(false) => {}
            Err(_) => count(&self.shared.counts.refused_subscriptions),
        }
        wanted.map(|_| ())
    }

    /// Asks to be told no more about a service: the caller has not used it for long. Its state
    /// leaves the sink's picture when control is next there.
    pub fn forget(&self, service: &ServiceName) {
        if self.shared.intent().forget(service) {
            self.shared.wake.notify_one();
        }
    }

    /// The services that are wanted, in no order: what a sweep for idle ones goes through.
    #[must_use]
    pub fn wanted(&self) -> Vec<ServiceName> {
        self.shared.intent().wanted().cloned().collect()
    }

    /// What this node offers from now on. Replaces what it offered.
    pub fn set_offers(&self, offers: Vec<Offer>) {
        if self.shared.intent().set_offers(offers) {
            self.shared.wake.notify_one();
        }
    }

    /// What peers dial from now on, whatever the hook in the parameters says. Control can learn
    /// that by a Hello only, so the stream is opened anew.
    pub fn set_addresses(&self, addresses: Addresses) {
        if self.shared.intent().set_addresses(addresses) {
            self.shared.wake.notify_one();
        }
    }

    /// The local address of the connection to control, the newest there was.
    #[must_use]
    pub fn local_address(&self) -> watch::Receiver<Option<IpAddr>> {
        self.shared.local.subscribe()
    }

    /// The control stream and the picture, as they are and as they change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// How often things happened since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counts.read()
    }

    /// First discovery: waits, for at most `wait`, until control has told about a wanted service
    /// on the stream that is open (or, at the start, about to be opened). False if that did not
    /// happen, and at once if control is away. Ask for the service first.
    pub async fn answered(&self, service: &ServiceName, wait: Duration) -> bool {
        let mut status = self.shared.status.subscribe();
        let answer = async {
            loop {
                let away = !may_answer(&status.borrow_and_update().state);
                if self.shared.answered().contains(service) {
                    return true;
                }
                if away || status.changed().await.is_err() {
                    return false;
                }
            }
        };
        timeout(wait, answer).await.unwrap_or(false)
    }

    /// Tells control that this node takes no new calls, and waits, for at most `wait`, until it
    /// has told the others. From here on each Hello says so, too.
    pub async fn drain(&self, wait: Duration) -> DrainOutcome {
        let mut confirmed = self.shared.confirmed.subscribe();
        let mut status = self.shared.status.subscribe();
        self.shared.intent().drain();
        self.shared.wake.notify_one();
        let confirm = async {
            loop {
                if let Some(why) = away(&status.borrow_and_update().state) {
                    return DrainOutcome::Unconfirmed { why };
                }
                tokio::select! {
                    biased;
                    Ok(()) = confirmed.changed() => {
                        let unacknowledged = *confirmed.borrow();
                        return DrainOutcome::Confirmed { unacknowledged };
                    }
                    Ok(()) = status.changed() => {}
                    else => return DrainOutcome::Unconfirmed { why: "control is gone".into() },
                }
            }
        };
        timeout(wait, confirm)
            .await
            .unwrap_or_else(|_| DrainOutcome::Unconfirmed {
                why: format!("control did not confirm within {wait:?}"),
            })
    }

    /// Tells control that this node is gone, and waits until that has left this machine, or cannot
    /// any more. The stream never comes back; the future of [`start`](super::start) ends.
    pub async fn goodbye(&self, reason: &str) {
        self.shared.intent().leave(reason);
        self.shared.wake.notify_one();
        let mut ended = self.shared.ended.subscribe();
        // Past this bound the process must go on ending; control will see the stream break.
        let _ = timeout(self.goodbye * 3, ended.wait_for(|ended| *ended)).await;
    }
}

/// State shared between the handle, the stream and the saver. Each lock is held for a few
/// instructions, or for the merge of one update.
#[derive(Debug)]
pub(super) struct Shared {
    intent: Mutex<Intent>,
    held: Mutex<Held>,
    answered: Mutex<HashSet<ServiceName>>,
    /// Wakes the stream when the intent changed.
    pub(super) wake: Notify,
    pub(super) status: watch::Sender<Status>,
    pub(super) local: watch::Sender<Option<IpAddr>>,
    /// The unacknowledged sessions of the newest confirmation.
    pub(super) confirmed: watch::Sender<u32>,
    ended: watch::Sender<bool>,
    pub(super) counts: Counts,
}

impl Shared {
    pub(super) fn new(offers: Vec<Offer>, held: Held, generation: Generation) -> Self {
        let mut intent = Intent::new(offers);
        for state in held.services() {
            // What does not fit is dropped when control is there.
            let _ = intent.want(&state.service);
        }
        let status = Status {
            state: State::Connecting { last_error: None },
            source: held.version().map_or(Source::None, |_| Source::Disk),
            version: held.version().cloned(),
            updated: None,
            refused_update: None,
            rules: held.rules().len(),
            refused_rules: Vec::new(),
            generation,
            highest_generation: None,
            saved: None,
            disk_error: None,
            answers: 0,
        };
        Self {
            intent: Mutex::new(intent),
            held: Mutex::new(held),
            answered: Mutex::default(),
            wake: Notify::new(),
            status: watch::Sender::new(status),
            local: watch::Sender::new(None),
            confirmed: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            counts: Counts::default(),
        }
    }

    pub(super) fn intent(&self) -> MutexGuard<'_, Intent> {
        lock(&self.intent)
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    pub(super) fn answered(&self) -> MutexGuard<'_, HashSet<ServiceName>> {
        lock(&self.answered)
    }

    /// Returns once goodbye was asked for. Only the stream's loop may wait for it: it takes the
    /// wake-ups.
    pub(super) async fn leaving(&self) {
        while !self.intent().leaves() {
            self.wake.notified().await;
        }
    }

    /// The stream is over for good.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
    }

    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// The picture was written to disk, at this version.
    pub(super) fn saved(&self, version: Option<Version>) {
        count(&self.counts.saved);
        self.status.send_modify(|status| {
            if status.disk_error.take().is_some() {
                tracing::info!("the picture of the mesh is kept on disk again");
            }
            status.saved = version;
        });
    }

    /// The picture could not be written to disk.
    pub(super) fn not_saved(&self, error: String) {
        count(&self.counts.save_failures);
        self.status.send_if_modified(|status| {
            let news = status.disk_error.as_ref() != Some(&error);
            if news {
                tracing::warn!(%error, "the picture of the mesh is not kept on disk");
                status.disk_error = Some(error);
            }
            news
        });
    }
}

/// [`Counters`], as they grow.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connected: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) updates: AtomicU64,
    pub(super) refused_updates: AtomicU64,
    pub(super) refused_rules: AtomicU64,
    refused_subscriptions: AtomicU64,
    saved: AtomicU64,
    save_failures: AtomicU64,
}

impl Counts {
    fn read(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            connected: read(&self.connected),
            failed: read(&self.failed),
            updates: read(&self.updates),
            refused_updates: read(&self.refused_updates),
            refused_rules: read(&self.refused_rules),
            refused_subscriptions: read(&self.refused_subscriptions),
            saved: read(&self.saved),
            save_failures: read(&self.save_failures),
        }
    }
}

pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(super) fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

/// Nothing that these locks guard is left half-changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True while an answer is likely to come: connected, or at the very first attempt.
fn may_answer(state: &State) -> bool {
    matches!(
        state,
        State::Connected { .. } | State::Connecting { last_error: None }
    )
}

/// Why control is away; `None` if it is there.
fn away(state: &State) -> Option<String> {
    Some(match state {
        State::Connected { .. } => return None,
        State::Connecting { last_error: None } => "control is not reached yet".to_owned(),
        State::Connecting {
            last_error: Some(error),
        } => error.clone(),
        State::Refused { reason, text } => format!("control refused this node: {reason}: {text}"),
        State::Superseded { text, .. } => format!("this node was replaced: {text}"),
        State::Left => "goodbye was said already".to_owned(),
    })
}
