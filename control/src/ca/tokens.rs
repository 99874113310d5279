//! Join tokens: each is the right of one node to get its first certificate, once. What is kept is
//! the SHA-256 of its secret (which is random and long, so that nothing slower is needed), never the
//! secret. A token that was used stays known until its end, and a day more, so that its second use
//! is told apart from one that never was.

use std::collections::HashMap;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sidelane_proto::model::{Identity, NodeId};

use super::UnixSeconds;
use super::error::Denied;

/// The longest life of a token.
pub const TOKEN_LIFE_LIMIT: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Tokens that are known at once, used ones included.
pub const TOKENS_LIMIT: usize = 10_000;
/// The same key may use a token again for so long after its first use: its answer may have been lost
/// on the way. A sidecar asks again within seconds.
pub const REPEAT_LIMIT: Duration = Duration::from_secs(300);
/// A token is known for so long after its end.
const REMEMBERED: Duration = Duration::from_secs(24 * 3_600);

/// SHA-256 of a token's secret.
pub type TokenHash = [u8; 32];

/// What a token gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// To this node.
    pub node: NodeId,
    /// This identity.
    pub identity: Identity,
    /// Before this time.
    pub expires: UnixSeconds,
}

/// A token that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// What it gives.
    pub grant: Grant,
    /// When it was made.
    pub made: UnixSeconds,
    /// Its use.
    pub used: Option<Use>,
}

/// How a token was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// SHA-256 of the public key.
    pub key: [u8; 32],
    /// When, for the first time.
    pub at: UnixSeconds,
}

/// All tokens that are known.
#[derive(Debug, Default)]
pub struct Tokens {
    known: HashMap<TokenHash, Issued>,
}

impl Tokens {
    /// As they were kept.
    #[must_use]
    pub fn restore(kept: impl IntoIterator<Item = (TokenHash, Issued)>) -> Self {
        Self {
            known: kept.into_iter().collect(),
        }
    }

    /// What is kept of a secret.
    #[must_use]
    pub fn hash(secret: &[u8]) -> TokenHash {
        Sha256::digest(secret).into()
    }

    /// Remembers a token that was made then. False: too many are known.
    pub fn issue(&mut self, hash: TokenHash, grant: Grant, made: UnixSeconds) -> bool {
        if self.known.len() >= TOKENS_LIMIT {
            return false;
        }
        let used = None;
        self.known.insert(hash, Issued { grant, made, used });
        true
    }

    /// Takes a token that could not be kept, or its use, back.
    pub fn undo(&mut self, hash: &TokenHash, before: Option<Issued>) {
        match before {
            Some(issued) => {
                self.known.insert(*hash, issued);
            }
            None => {
                self.known.remove(hash);
            }
        }
    }

    /// How a token stands.
    #[must_use]
    pub fn get(&self, hash: &TokenHash) -> Option<&Issued> {
        self.known.get(hash)
    }

    /// What a token gives to this node and public key now. Nothing is used by that. The same key may
    /// come again for [`REPEAT_LIMIT`] after its first use, and a little past the token's end with it.
    ///
    /// # Errors
    /// Why it gives no right.
    pub fn check(
        &self,
        hash: &TokenHash,
        node: &NodeId,
        identity: Option<&Identity>,
        key: &[u8],
        now: UnixSeconds,
    ) -> Result<&Issued, Denied> {
        let asked = node.clone();
        let Some(issued) = self.known.get(hash) else {
            return Err(Denied::Unknown { asked });
        };
        let grant = &issued.grant;
        match issued.used {
            Some(used) => {
                let key: [u8; 32] = Sha256::digest(key).into();
                if used.key != key || now >= used.at + REPEAT_LIMIT.as_secs() {
                    return Err(Denied::Used { asked });
                }
            }
            None if now >= grant.expires => {
                let ago = now - grant.expires;
                return Err(Denied::Expired { asked, ago });
            }
            None => {}
        }
        if grant.node != *node {
            let node = grant.node.clone();
            return Err(Denied::OtherNode { asked, node });
        }
        if let Some(asked) = identity.filter(|asked| **asked != grant.identity) {
            return Err(Denied::OtherIdentity {
                asked: asked.clone(),
                identity: grant.identity.clone(),
            });
        }
        Ok(issued)
    }

    /// This key has used a token that [`Tokens::check`] found good.
    pub fn mark_used(&mut self, hash: &TokenHash, key: &[u8], now: UnixSeconds) {
        if let Some(issued) = self.known.get_mut(hash) {
            let key = Sha256::digest(key).into();
            issued.used.get_or_insert(Use { key, at: now });
        }
    }

    /// Forgets what ended long ago; gives what it forgot.
    pub fn forget(&mut self, now: UnixSeconds) -> Vec<TokenHash> {
        let over = |issued: &Issued| now >= issued.grant.expires + REMEMBERED.as_secs();
        let forgotten: Vec<TokenHash> = self
            .known
            .iter()
            .filter(|(_, issued)| over(issued))
            .map(|(hash, _)| *hash)
            .collect();
        for hash in &forgotten {
            self.known.remove(hash);
        }
        forgotten
    }
}
