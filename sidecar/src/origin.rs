//! Where this node's certificate comes from, and how that goes: what the admin pages say of it. The
//! certificate itself is read from its source by links; nothing here stands in a call's way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use crate::discover::Holder;
use crate::discover::certificate::Figures;

/// Where the certificate comes from.
#[derive(Clone)]
pub enum Origin {
    /// There is none: trust mode `disabled`.
    Nowhere,
    /// Control signs it.
    Control(Arc<Holder>),
    /// Somebody else does, and control is shown it.
    Elsewhere(Arc<Elsewhere>),
}

/// Who signs, where control does not.
#[derive(Debug)]
pub struct Elsewhere {
    kind: &'static str,
    place: String,
    renewed: AtomicU64,
    failed: AtomicU64,
    trouble: ArcSwapOption<String>,
}

impl Origin {
    /// Where control says what is trusted.
    #[must_use]
    pub fn holder(&self) -> Option<&Arc<Holder>> {
        match self {
            Self::Control(holder) => Some(holder),
            Self::Nowhere | Self::Elsewhere(_) => None,
        }
    }

    /// The kind, as `/config` and metrics name it: `control`, `files` or `spiffe`.
    #[must_use]
    pub fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Nowhere => None,
            Self::Control(_) => Some("control"),
            Self::Elsewhere(elsewhere) => Some(elsewhere.kind),
        }
    }

    /// A file or an agent's address.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        match self {
            Self::Elsewhere(elsewhere) => Some(&elsewhere.place),
            Self::Nowhere | Self::Control(_) => None,
        }
    }

    /// Why there is no news, where there should be.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<String>> {
        match self {
            Self::Nowhere => None,
            Self::Control(holder) => holder.trouble(),
            Self::Elsewhere(elsewhere) => elsewhere.trouble.load_full(),
        }
    }

    /// What became of renewals so far.
    #[must_use]
    pub fn figures(&self) -> Option<Figures> {
        match self {
            Self::Nowhere => None,
            Self::Control(holder) => Some(holder.figures()),
            Self::Elsewhere(elsewhere) => Some(Figures {
                renewed: elsewhere.renewed.load(Ordering::Relaxed),
                failed: elsewhere.failed.load(Ordering::Relaxed),
            }),
        }
    }
}

impl Elsewhere {
    /// Of this kind and place.
    #[must_use]
    pub fn new(kind: &'static str, place: String) -> Self {
        Self {
            kind,
            place,
            renewed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            trouble: ArcSwapOption::empty(),
        }
    }

    /// All is well; what was taken is new, or what was held already.
    pub fn taken(&self, new: bool) {
        self.renewed.fetch_add(u64::from(new), Ordering::Relaxed);
        self.trouble.store(None);
    }

    /// One was not taken, or did not come.
    pub fn failed(&self, why: &impl ToString) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.trouble.store(Some(Arc::new(why.to_string())));
    }
}
