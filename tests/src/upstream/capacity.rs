//! A server with a known capacity: so many calls at once, each for so long, and whatever comes
//! beyond that waits inside it. What it is like for its callers when nobody protects it is exactly
//! what a sidecar is to keep from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::{Request, Response};

use super::Upstream;
use crate::wire::v1::{UnaryRequest, UnaryResponse};

/// A server of `Echo.Unary` that can do so much and no more.
#[derive(Debug)]
pub struct Capacity {
    /// The server.
    pub upstream: Upstream,
    seen: Arc<Seen>,
}

#[derive(Debug)]
struct Seen {
    node: String,
    places: Semaphore,
    inside: AtomicUsize,
    most: AtomicUsize,
    answered: AtomicUsize,
}

impl Capacity {
    /// Does `places` calls at once, each for `time`.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(node: &str, places: usize, time: Duration) -> Self {
        let seen = Arc::new(Seen {
            node: node.to_owned(),
            places: Semaphore::new(places),
            inside: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&seen);
        let upstream = Upstream::named(node)
            .answering_unary(move |_: Request<UnaryRequest>| serve(Arc::clone(&serving), time))
            .start()
            .await;
        Self { upstream, seen }
    }

    /// The most calls that were inside at once, those that waited there among them.
    #[must_use]
    pub fn most_inside(&self) -> usize {
        self.seen.most.load(Ordering::Relaxed)
    }

    /// Calls that it answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.seen.answered.load(Ordering::Relaxed)
    }
}

async fn serve(seen: Arc<Seen>, time: Duration) -> Result<Response<UnaryResponse>, tonic::Status> {
    let inside = seen.inside.fetch_add(1, Ordering::Relaxed) + 1;
    seen.most.fetch_max(inside, Ordering::Relaxed);
    // Also where the call is given up.
    let _inside = Inside(&seen);
    let place = seen.places.acquire().await;
    let _place = place.expect("it is never closed");
    tokio::time::sleep(time).await;
    seen.answered.fetch_add(1, Ordering::Relaxed);
    Ok(Response::new(UnaryResponse {
        node: seen.node.clone(),
        ..UnaryResponse::default()
    }))
}

struct Inside<'a>(&'a Seen);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}
