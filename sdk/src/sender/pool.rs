//! The connections that are kept, each for its own way: no two lanes share one, and no two nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::network::{ConnectionKey, NetworkSender};

/// The most connections that one typed sender keeps. Past it the one that was asked for the
/// longest time ago is let go; who still holds it keeps it alive.
pub const POOL_LIMIT: usize = 256;

pub(super) struct Pool {
    sender: Arc<dyn NetworkSender>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    connections: HashMap<ConnectionKey, Connection>,
    /// Counts what is asked for: the smaller, the longer ago.
    asked: u64,
}

struct Connection {
    sender: Arc<dyn NetworkSender>,
    asked: u64,
}

impl Pool {
    pub(super) fn new(sender: Arc<dyn NetworkSender>) -> Self {
        Self {
            sender,
            held: Mutex::default(),
        }
    }

    pub(super) fn sender(&self) -> &Arc<dyn NetworkSender> {
        &self.sender
    }

    /// The connection of this way, made if there is none.
    pub(super) fn get(&self, key: &ConnectionKey) -> Arc<dyn NetworkSender> {
        let mut held = self.held();
        held.asked += 1;
        let asked = held.asked;
        if let Some(known) = held.connections.get_mut(key) {
            known.asked = asked;
            return Arc::clone(&known.sender);
        }
        let sender = self.sender.apart(key);
        let sender = sender.unwrap_or_else(|| Arc::clone(&self.sender));
        held.forget_older(key);
        held.make_room();
        let connection = Connection {
            sender: Arc::clone(&sender),
            asked,
        };
        held.connections.insert(key.clone(), connection);
        sender
    }

    pub(super) fn len(&self) -> usize {
        self.held().connections.len()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // A panic while it was held leaves at worst a connection too few.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// A node that lives in a newer generation is reached by no older connection.
    fn forget_older(&mut self, key: &ConnectionKey) {
        if key.generation.is_some() {
            self.connections.retain(|known, _| {
                known.recipient != key.recipient || known.generation >= key.generation
            });
        }
    }

    fn make_room(&mut self) {
        while self.connections.len() >= POOL_LIMIT {
            let longest = self.connections.iter().min_by_key(|(_, it)| it.asked);
            let Some(key) = longest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.connections.remove(&key);
        }
    }
}
