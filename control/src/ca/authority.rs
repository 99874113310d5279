//! The authority that runs: the pure parts, the store behind them, and what sidecars are told. One
//! change is made at a time, and none is answered before it is on the disk: a token that was used
//! must be used after a crash, too, and a root that signed must be known.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use sidelane_proto::model::{Identity, NodeId};
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

use super::UnixSeconds;
use super::error::{Denied, RotateError};
use super::record::{self, Kept, RecordError, Written};
use super::request::{PublicKey, RequestError};
use super::revoked::{REVOKED_LIMIT, Revocation, Subject};
use super::root::{LeafTerms, ROOT_LIFE, Root, Serial, SignError};
use super::rotation::{Roots, SKEW};
use super::tokens::{Grant, TOKENS_LIMIT, TokenHash, Tokens};
use crate::store::{Ahead, Secret, Writes};

/// The shortest life of a leaf.
pub const LEAF_LIFE_MINIMUM: Duration = Duration::from_secs(2);
/// The longest life of a leaf: a stolen key is of use for no longer.
pub const LEAF_LIFE_MAXIMUM: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Certificates that hold at once: sixteen for each sidecar of the largest mesh that this is built
/// for. Beyond it no more are signed until some have ended.
pub const ISSUED_LIMIT: usize = 65_536;
/// Certificates that a sidecar may hold were given no longer a life than this.
const LONGEST: Duration = LEAF_LIFE_MAXIMUM;

/// What an authority is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The trust domain. A store keeps the one that it was made with.
    pub trust_domain: String,
    /// How long certificates hold.
    pub leaf_life: Duration,
}

/// What sidecars are told of trust. Replaced whole.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Grows with each change, in this process's life.
    pub revision: u64,
    /// The certificates of all roots, DER; the one that signs first.
    pub roots: Vec<Vec<u8>>,
    /// Who is believed no longer.
    pub revoked: super::Revoked,
}

/// A certificate, and what its holder needs beside it.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The leaf's certificate, DER. Its issuer is among the roots.
    pub certificate: Vec<u8>,
    /// Its number.
    pub serial: Serial,
    /// Its end.
    pub not_after: UnixSeconds,
    /// Whose it is.
    pub identity: Identity,
    /// Its issuer.
    pub root: Arc<Root>,
    /// What is trusted.
    pub trust: Arc<Trust>,
}

/// By what right somebody asks.
#[derive(Debug)]
pub enum Right {
    /// A one-time token, by what is kept of its secret.
    Token(TokenHash),
    /// A certificate that was verified, or the right of control's own user: whose it is.
    Proven {
        /// The identity.
        identity: Identity,
        /// The certificate's number, if there is one.
        serial: Option<Serial>,
    },
}

/// A certificate that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issue {
    /// Whose.
    pub(super) node: NodeId,
    /// Its end.
    pub(super) until: UnixSeconds,
}

/// Why the authority did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// No right to it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// What was to be signed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// No new root now.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// A bound.
    #[error("{0} are known, and no more can be; old ones are forgotten after their end")]
    Full(String),
    /// The identity is of another trust domain.
    #[error("{identity} is not of this mesh: its identities begin with spiffe://{trust_domain}/")]
    Foreign {
        /// What was asked for.
        identity: Identity,
        /// This mesh's.
        trust_domain: String,
    },
    /// Nothing to take back.
    #[error("{0} is not revoked")]
    NotRevoked(Subject),
    /// The disk.
    #[error("this cannot be kept, so it was not done: {0}")]
    Store(String),
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// An authority that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What was kept.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The first root.
    #[error(transparent)]
    Made(#[from] AuthorityError),
    /// Another trust domain.
    #[error(
        "control's store was made for trust domain `{kept}`, and --trust-domain says `{given}`: \
         every certificate would turn bad; leave the setting as it was, or begin with another --data"
    )]
    Domain {
        /// The store's.
        kept: String,
        /// The setting's.
        given: String,
    },
}

/// The certificate authority.
pub struct Authority {
    terms: Terms,
    /// One change at a time, the disk included: so this is held while one is written.
    state: Mutex<State>,
    ahead: Ahead,
    trust: watch::Sender<Arc<Trust>>,
}

struct State {
    roots: Roots,
    tokens: Tokens,
    revoked: super::Revoked,
    /// The certificates that hold: a node is revoked by their numbers.
    issued: HashMap<Serial, Issue>,
}

impl Authority {
    /// Takes up what was kept, or makes the first root and keeps it.
    ///
    /// # Errors
    /// What was kept cannot be read or is another trust domain's, or the root cannot be kept.
    pub async fn open(
        terms: Terms,
        kept: Vec<(String, Secret)>,
        ahead: Ahead,
        now: UnixSeconds,
    ) -> Result<Self, OpenError> {
        let Kept {
            domain,
            roots,
            tokens,
            revoked,
            issued,
        } = record::read(&kept)?;
        if let Some(kept) = domain.filter(|kept| *kept != terms.trust_domain) {
            let given = terms.trust_domain;
            return Err(OpenError::Domain { kept, given });
        }
        let roots = match roots {
            Some(roots) => roots,
            None => {
                let made = Root::make(&terms.trust_domain, now, ROOT_LIFE, random()?);
                let roots = Roots::new(made.map_err(AuthorityError::from)?);
                let mut writes = vec![record::domain(&terms.trust_domain)];
                writes.extend(roots.all().map(record::root));
                commit(&ahead, writes).await?;
                roots
            }
        };
        let authority = Self {
            terms,
            state: Mutex::new(State {
                roots,
                tokens,
                revoked,
                issued,
            }),
            ahead,
            trust: watch::Sender::new(Arc::default()),
        };
        authority.publish(&*authority.state.lock().await);
        Ok(authority)
    }

    /// What it was told.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What sidecars are told, now and whenever it changes.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    /// The identity of a node that asks for none: its own service account in namespace `default`.
    ///
    /// # Errors
    /// The node's name is no part of an identity.
    pub fn default_identity(
        &self,
        node: &NodeId,
    ) -> Result<Identity, sidelane_proto::model::FieldError> {
        let domain = &self.terms.trust_domain;
        Identity::new(&format!("spiffe://{domain}/ns/default/sa/{node}"))
    }

    /// The fingerprint of the root that signs.
    pub async fn fingerprint(&self) -> [u8; 32] {
        self.state.lock().await.roots.signing().fingerprint()
    }

    /// Issues a token; gives its secret, which is kept nowhere.
    ///
    /// # Errors
    /// The identity is another trust domain's, too many are known, or it cannot be kept.
    pub async fn issue(&self, grant: Grant) -> Result<Zeroizing<[u8; 32]>, AuthorityError> {
        self.own(&grant.identity)?;
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(random()?);
        let hash = Tokens::hash(&*secret);
        let mut state = self.state.lock().await;
        if let Some(subject) = state.revoked.finds(None, &grant.node, &grant.identity) {
            return Err(Denied::Revoked(subject.to_string()).into());
        }
        if !state.tokens.issue(hash, grant) {
            return Err(AuthorityError::Full(format!("{TOKENS_LIMIT} tokens")));
        }
        let written = record::token(&hash, state.tokens.get(&hash));
        if let Err(error) = commit(&self.ahead, vec![written]).await {
            state.tokens.undo(&hash, None);
            return Err(error);
        }
        Ok(secret)
    }

    /// Signs what was asked for, if there is a right to it. `identity` is what the node asks for, if
    /// it says so.
    ///
    /// # Errors
    /// Why not.
    pub async fn sign(
        &self,
        right: Right,
        node: &NodeId,
        identity: Option<&Identity>,
        request: &[u8],
        now: UnixSeconds,
    ) -> Result<Signed, AuthorityError> {
        let key = PublicKey::of_request(request)?;
        let serial = Serial::from_random(random()?);
        let mut state = self.state.lock().await;
        let identity = match right {
            Right::Token(hash) => {
                let before = state.tokens.get(&hash).cloned();
                let grant = state
                    .tokens
                    .redeem(&hash, node, identity, key.bits(), now)?;
                refuse_revoked(&state, None, node, &grant.identity)?;
                let after = state.tokens.get(&hash);
                if after != before.as_ref() {
                    let written = record::token(&hash, after);
                    if let Err(error) = commit(&self.ahead, vec![written]).await {
                        state.tokens.undo(&hash, before);
                        return Err(error);
                    }
                }
                grant.identity
            }
            Right::Proven { identity, serial } => {
                self.own(&identity)?;
                refuse_revoked(&state, serial, node, &identity)?;
                identity
            }
        };
        let life = self.terms.leaf_life;
        if state.roots.gives(life) {
            let signing = state.roots.all().next().map(record::root);
            commit(&self.ahead, signing.into_iter().collect()).await?;
        }
        let root = Arc::clone(state.roots.signing());
        if state.issued.len() >= ISSUED_LIMIT {
            return Err(AuthorityError::Full(format!("{ISSUED_LIMIT} certificates")));
        }
        let issue = Issue {
            node: node.clone(),
            until: now + life.as_secs(),
        };
        let written = record::issued(serial, Some(&issue));
        commit(&self.ahead, vec![written]).await?;
        state.issued.insert(serial, issue);
        // Signing takes 0.1 ms: others need not wait for it.
        drop(state);
        let leaf = root.sign(
            &key,
            &LeafTerms {
                identity: &identity,
                node,
                serial,
                now,
                life,
            },
        )?;
        Ok(Signed {
            certificate: leaf.certificate,
            serial,
            not_after: leaf.not_after,
            identity,
            root,
            trust: self.trust.borrow().clone(),
        })
    }

    /// Revokes somebody, from now on.
    ///
    /// # Errors
    /// Too many are revoked, or it cannot be kept.
    pub async fn revoke(&self, subject: Subject, now: UnixSeconds) -> Result<(), AuthorityError> {
        let mut state = self.state.lock().await;
        let until = now + (LONGEST + SKEW).as_secs();
        let before = state.revoked.clone();
        let revocation = Revocation {
            subject: subject.clone(),
            until,
        };
        if !state.revoked.add(revocation) {
            return Err(AuthorityError::Full(format!("{REVOKED_LIMIT} revocations")));
        }
        let mut written = vec![record::revoked(&subject, Some(until))];
        if let Subject::Node(node) = &subject {
            let held = state.issued.iter().filter(|(_, issue)| issue.node == *node);
            let held: Vec<Revocation> = held
                .map(|(serial, issue)| Revocation {
                    subject: Subject::Serial(*serial),
                    until: issue.until,
                })
                .collect();
            for revocation in held {
                let Revocation { subject, until } = revocation.clone();
                written.push(record::revoked(&subject, Some(until)));
                if !state.revoked.add(revocation) {
                    state.revoked = before;
                    return Err(AuthorityError::Full(format!("{REVOKED_LIMIT} revocations")));
                }
            }
        }
        if let Err(error) = commit(&self.ahead, written).await {
            state.revoked = before;
            return Err(error);
        }
        self.publish(&state);
        Ok(())
    }

    /// Takes a revocation back.
    ///
    /// # Errors
    /// There is none, or it cannot be kept.
    pub async fn restore(&self, subject: Subject) -> Result<(), AuthorityError> {
        let mut state = self.state.lock().await;
        let before = state.revoked.clone();
        if !state.revoked.remove(&subject) {
            return Err(AuthorityError::NotRevoked(subject));
        }
        // The certificates of a node stay revoked: it gets new ones.
        let written = record::revoked(&subject, None);
        if let Err(error) = commit(&self.ahead, vec![written]).await {
            state.revoked = before;
            return Err(error);
        }
        self.publish(&state);
        Ok(())
    }

    /// Brings a new root in: trusted at once, and signing when the sidecars have it. Gives its
    /// fingerprint.
    ///
    /// # Errors
    /// There is one on its way already, or it cannot be kept.
    pub async fn rotate(&self, now: UnixSeconds) -> Result<[u8; 32], AuthorityError> {
        let root = Root::make(&self.terms.trust_domain, now, ROOT_LIFE, random()?)?;
        let fingerprint = root.fingerprint();
        let mut state = self.state.lock().await;
        let mut roots = state.roots.clone();
        roots.rotate(root, now)?;
        self.keep(&mut state, roots).await?;
        Ok(fingerprint)
    }

    /// Goes on with what the time, or the sidecars, have made ready. To be called now and then.
    ///
    /// # Errors
    /// It cannot be kept; then it is as before, and tried again at the next call.
    pub async fn advance(
        &self,
        now: UnixSeconds,
        acknowledged: bool,
    ) -> Result<(), AuthorityError> {
        let mut state = self.state.lock().await;
        let mut roots = state.roots.clone();
        if roots.advance(now, acknowledged) {
            self.keep(&mut state, roots).await?;
        }
        let mut forgotten: Vec<Written> = Vec::new();
        let tokens = state.tokens.forget(now);
        forgotten.extend(tokens.iter().map(|hash| record::token(hash, None)));
        let revoked = state.revoked.forget(now);
        forgotten.extend(revoked.iter().map(|subject| record::revoked(subject, None)));
        let over = state.issued.iter().filter(|(_, issue)| now >= issue.until);
        let over: Vec<Serial> = over.map(|(serial, _)| *serial).collect();
        for serial in over {
            state.issued.remove(&serial);
            forgotten.push(record::issued(serial, None));
        }
        if !forgotten.is_empty() {
            // What could not be removed is forgotten again after the next start.
            commit(&self.ahead, forgotten).await?;
        }
        if !revoked.is_empty() {
            self.publish(&state);
        }
        Ok(())
    }

    /// Is a new root on its way?
    pub async fn is_rotating(&self) -> bool {
        self.state.lock().await.roots.is_rotating()
    }

    async fn keep(&self, state: &mut State, roots: Roots) -> Result<(), AuthorityError> {
        let mut writes: Vec<Written> = roots.all().map(record::root).collect();
        let gone = state.roots.all().map(|it| record::root_key(&it.root));
        let gone: Vec<_> = gone
            .filter(|key| writes.iter().all(|(kept, _)| kept != key))
            .collect();
        writes.extend(gone.into_iter().map(|key| (key, None)));
        commit(&self.ahead, writes).await?;
        state.roots = roots;
        self.publish(state);
        Ok(())
    }

    fn publish(&self, state: &State) {
        let roots = state.roots.all();
        let roots = roots.map(|it| it.root.certificate().to_vec()).collect();
        let revoked = state.revoked.clone();
        self.trust.send_modify(|trust| {
            *trust = Arc::new(Trust {
                revision: trust.revision + 1,
                roots,
                revoked,
            });
        });
    }

    fn own(&self, identity: &Identity) -> Result<(), AuthorityError> {
        let trust_domain = &self.terms.trust_domain;
        let own = format!("spiffe://{trust_domain}/");
        if identity.as_str().starts_with(&own) {
            return Ok(());
        }
        Err(AuthorityError::Foreign {
            identity: identity.clone(),
            trust_domain: trust_domain.clone(),
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

/// The wall clock.
#[must_use]
pub fn unix_now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// From the system's generator.
///
/// # Errors
/// It has none.
pub fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| AuthorityError::Random)?;
    Ok(bytes)
}

fn refuse_revoked(
    state: &State,
    serial: Option<Serial>,
    node: &NodeId,
    identity: &Identity,
) -> Result<(), Denied> {
    match state.revoked.finds(serial, node, identity) {
        Some(subject) => Err(Denied::Revoked(subject.to_string())),
        None => Ok(()),
    }
}

async fn commit(ahead: &Ahead, writes: Vec<Written>) -> Result<(), AuthorityError> {
    let writes = Writes {
        authority: writes.into_iter().collect(),
        ..Writes::default()
    };
    ahead.commit(writes).await.map_err(AuthorityError::Store)
}
