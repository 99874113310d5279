//! The authority that runs: the pure parts, the store behind them, and what sidecars are told. One
//! change is made at a time, and none is answered before it is on the disk: a token that was used
//! must be used after a crash, too, and a root that signed must be known.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use sidelane_proto::model::{Identity, NodeId};
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

use super::UnixSeconds;
use super::error::{Denied, RotateError};
use super::issued::{Issue, Issues};
use super::record::{self, Kept, RecordError, Written};
use super::request::{PublicKey, RequestError};
use super::revoked::{Held, REVOKED_FOR, REVOKED_LIMIT, Revocation, Revoked, Subject};
use super::root::{LeafTerms, ROOT_LIFE, Root, Serial, SignError};
use super::rotation::{Phase, Placed, Roots};
use super::tokens::{Grant, TOKENS_LIMIT, TokenHash, Tokens};
use crate::store::{Ahead, Secret, Writes};

/// The shortest life of a leaf.
pub const LEAF_LIFE_MINIMUM: Duration = Duration::from_secs(2);
/// The longest life of a leaf: a stolen key is of use for no longer.
pub const LEAF_LIFE_MAXIMUM: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The path of control's own identity (`sidelane_identity::pinned::control`).
const CONTROL: &str = "/ns/sidelane/sa/control";
/// The node of control's own certificates, which no sidecar can be.
pub const NODE: &str = "control";

/// What an authority is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The trust domain. A store keeps the one that it was made with.
    pub trust_domain: String,
    /// How long certificates hold.
    pub leaf_life: Duration,
    /// How long after its end a certificate can still be renewed.
    pub renewal_grace: Duration,
}

/// What sidecars are told of trust. Replaced whole.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Grows with each change, in this process's life.
    pub revision: u64,
    /// The certificates of all roots, DER; the one that signs first.
    pub roots: Vec<Vec<u8>>,
    /// Those that control alone believes, for who was away. Nobody is told of them.
    pub late: Vec<Vec<u8>>,
    /// Who is believed no longer.
    pub revoked: Revoked,
}

/// Which sidecars have acknowledged what is trusted.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Every open session has.
    pub all: bool,
    /// The nodes that have.
    pub nodes: HashSet<NodeId>,
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
        /// The certificate, if it is one.
        held: Option<Held>,
    },
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
    /// It was not revoked by itself.
    #[error(
        "{certificate} was signed before {subject} was revoked, and that holds for good, also after \
         `--undo`; a new token gives a new certificate"
    )]
    ForGood {
        /// The certificate.
        certificate: Subject,
        /// Who was revoked.
        subject: Subject,
    },
    /// It is control's own name.
    #[error(
        "{0} is control itself: no sidecar can be that, and revoking it would cut everybody off from \
         control; give the node another name, and replace control's root with `sidelane root rotate`"
    )]
    Reserved(Subject),
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
    revoked: Revoked,
    issued: Issues,
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
    /// The identity is another trust domain's or control's own, too many are known, or it cannot be
    /// kept.
    pub async fn issue(
        &self,
        grant: Grant,
        now: UnixSeconds,
    ) -> Result<Zeroizing<[u8; 32]>, AuthorityError> {
        self.own(&grant.node, &grant.identity)?;
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(random()?);
        let hash = Tokens::hash(&*secret);
        let mut state = self.state.lock().await;
        refuse_revoked(&state, None, &grant.node, &grant.identity)?;
        let made = now.max(state.revoked.newer(&grant.node, &grant.identity));
        if !state.tokens.issue(hash, grant, made) {
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
    /// it says so. Whatever may be refused is refused before a token is used.
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
        let (identity, held, token) = match right {
            Right::Token(hash) => {
                let issued = state.tokens.check(&hash, node, identity, key.bits(), now)?;
                let (serial, made) = (None, issued.made);
                let identity = issued.grant.identity.clone();
                (identity, Some(Held { serial, made }), Some(hash))
            }
            Right::Proven { identity, held } => (identity, held, None),
        };
        self.own(node, &identity)?;
        refuse_revoked(&state, held, node, &identity)?;
        state.issued.room(node).map_err(AuthorityError::Full)?;
        // What is signed must be newer than what a revocation that was taken back has spoiled.
        let from = now.max(state.revoked.newer(node, &identity));
        let life = self.terms.leaf_life;
        let root = Arc::clone(state.roots.signing());
        let terms = LeafTerms {
            identity: &identity,
            node,
            serial,
            now: from,
            life,
        };
        let leaf = root.sign(&key, &terms)?;
        let issue = Issue {
            node: node.clone(),
            identity: Some(identity.clone()),
            signed: from,
            until: leaf.not_after,
        };
        let mut written = vec![record::issued(serial, Some(&issue))];
        let roots = state.roots.clone();
        if state.roots.gives(life) {
            written.extend(state.roots.all().next().map(record::root));
        }
        let before = token.map(|hash| (hash, state.tokens.get(&hash).cloned()));
        if let Some(hash) = token {
            state.tokens.mark_used(&hash, key.bits(), now);
            written.push(record::token(&hash, state.tokens.get(&hash)));
        }
        state.issued.insert(serial, issue);
        if let Err(error) = commit(&self.ahead, written).await {
            state.issued.remove(&serial);
            state.roots = roots;
            if let Some((hash, before)) = before {
                state.tokens.undo(&hash, before);
            }
            return Err(error);
        }
        Ok(Signed {
            certificate: leaf.certificate,
            serial,
            not_after: leaf.not_after,
            identity,
            root,
            trust: self.trust.borrow().clone(),
        })
    }

    /// Signs a key of control's own under each root that somebody may know it by: the one that signs
    /// first, then those before it, the latest first. They are not counted among those of nodes.
    ///
    /// # Errors
    /// The root that signs does not.
    pub async fn sign_own(
        &self,
        identity: &Identity,
        request: &[u8],
        now: UnixSeconds,
    ) -> Result<Vec<Signed>, AuthorityError> {
        let key = PublicKey::of_request(request)?;
        let node = NodeId::new(NODE).map_err(|error| SignError::Read(error.to_string()))?;
        let life = self.terms.leaf_life;
        let mut state = self.state.lock().await;
        let before = state.roots.clone();
        if state.roots.gives(life) {
            let written = state.roots.all().next().map(record::root);
            if let Err(error) = commit(&self.ahead, written.into_iter().collect()).await {
                state.roots = before;
                return Err(error);
            }
        }
        let mut signed = Vec::new();
        for root in state.roots.known() {
            let serial = Serial::from_random(random()?);
            let terms = LeafTerms {
                identity,
                node: &node,
                serial,
                now,
                life,
            };
            let leaf = match root.sign(&key, &terms) {
                Ok(leaf) => leaf,
                // Who knows nothing but a root that has ended needs another proof anyway.
                Err(_) if !signed.is_empty() => continue,
                Err(error) => return Err(error.into()),
            };
            signed.push(Signed {
                certificate: leaf.certificate,
                serial,
                not_after: leaf.not_after,
                identity: identity.clone(),
                root: Arc::clone(root),
                trust: self.trust.borrow().clone(),
            });
        }
        Ok(signed)
    }

    /// Revokes somebody: all that was signed or made for them up to now.
    ///
    /// # Errors
    /// It is control, too many are revoked, or it cannot be kept.
    pub async fn revoke(&self, subject: Subject, now: UnixSeconds) -> Result<(), AuthorityError> {
        self.refuse_reserved(&subject)?;
        let mut state = self.state.lock().await;
        let mut revocations = vec![Revocation {
            subject: subject.clone(),
            since: now,
            until: now + REVOKED_FOR.as_secs(),
            lifted: false,
        }];
        // Peers know certificates and identities; of a node they hear by its numbers.
        if let Subject::Node(node) = &subject {
            revocations.extend(numbers(&state, now, |issue| issue.node == *node));
        }
        self.add(&mut state, revocations).await
    }

    /// Takes a revocation back. Of a node or an identity, what was signed or made before stays of no
    /// use: its certificates are known by their numbers from here on.
    ///
    /// # Errors
    /// There is none, it holds for good, or it cannot be kept.
    pub async fn restore(&self, subject: Subject, now: UnixSeconds) -> Result<(), AuthorityError> {
        let mut state = self.state.lock().await;
        if let Subject::Serial(serial) = &subject
            && let Some(issue) = state.issued.get(serial)
            && let Some(identity) = &issue.identity
        {
            let (serial, made) = (None, issue.signed);
            let held = Some(Held { serial, made });
            if let Some(found) = state.revoked.finds(held, Some(&issue.node), identity) {
                return Err(AuthorityError::ForGood {
                    certificate: subject,
                    subject: found.subject,
                });
            }
        }
        let mut revoked = state.revoked.clone();
        let Some(kept) = revoked.lift(&subject) else {
            return Err(AuthorityError::NotRevoked(subject));
        };
        let written = vec![record::revoked(&subject, kept.as_ref())];
        let numbers = match &subject {
            Subject::Identity(identity) => numbers(&state, now, |issue| {
                issue.identity.as_ref() == Some(identity)
            }),
            _ => Vec::new(),
        };
        self.keep_revoked(&mut state, revoked, written, numbers)
            .await
    }

    async fn add(
        &self,
        state: &mut State,
        revocations: Vec<Revocation>,
    ) -> Result<(), AuthorityError> {
        let revoked = state.revoked.clone();
        self.keep_revoked(state, revoked, Vec::new(), revocations)
            .await
    }

    /// Keeps this list with these revocations more, beside what is to be written anyway.
    async fn keep_revoked(
        &self,
        state: &mut State,
        mut revoked: Revoked,
        mut written: Vec<Written>,
        more: Vec<Revocation>,
    ) -> Result<(), AuthorityError> {
        for revocation in more {
            written.push(record::revoked(&revocation.subject, Some(&revocation)));
            if !revoked.add(revocation) {
                return Err(AuthorityError::Full(format!("{REVOKED_LIMIT} revocations")));
            }
        }
        commit(&self.ahead, written).await?;
        state.revoked = revoked;
        self.publish(state);
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

    /// Goes on with what the time, or the sidecars, have made ready. To be called now and then. A new
    /// root waits for all sessions, and for those that hold a certificate and have none: they would
    /// not believe those whom it signs.
    ///
    /// # Errors
    /// It cannot be kept; then it is as before, and tried again at the next call.
    pub async fn advance(&self, now: UnixSeconds, heard: &Heard) -> Result<(), AuthorityError> {
        let mut state = self.state.lock().await;
        let mut roots = state.roots.clone();
        let acknowledged = || {
            let mut holders = state.issued.holders(now).into_iter();
            heard.all && holders.all(|node| heard.nodes.contains(node))
        };
        let acknowledged = roots.is_rotating() && acknowledged();
        if roots.advance(now, acknowledged, self.terms.renewal_grace) {
            self.keep(&mut state, roots).await?;
        }
        let mut forgotten: Vec<Written> = Vec::new();
        let tokens = state.tokens.forget(now);
        forgotten.extend(tokens.iter().map(|hash| record::token(hash, None)));
        let revoked = state.revoked.forget(now);
        forgotten.extend(revoked.iter().map(|subject| record::revoked(subject, None)));
        let issued = state.issued.forget(now);
        forgotten.extend(issued.iter().map(|serial| record::issued(*serial, None)));
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
        let der = |it: &Placed| it.root.certificate().to_vec();
        let (late, roots): (Vec<_>, Vec<_>) = state
            .roots
            .all()
            .partition(|it| matches!(it.phase, Phase::Late { .. }));
        let (late, roots) = (late.into_iter().map(der), roots.into_iter().map(der));
        let (late, roots): (Vec<_>, Vec<_>) = (late.collect(), roots.collect());
        let revoked = state.revoked.clone();
        self.trust.send_modify(|trust| {
            *trust = Arc::new(Trust {
                revision: trust.revision + 1,
                roots,
                late,
                revoked,
            });
        });
    }

    /// May somebody be this node and identity of this mesh?
    fn own(&self, node: &NodeId, identity: &Identity) -> Result<(), AuthorityError> {
        let trust_domain = &self.terms.trust_domain;
        let own = format!("spiffe://{trust_domain}/");
        if !identity.as_str().starts_with(&own) {
            return Err(AuthorityError::Foreign {
                identity: identity.clone(),
                trust_domain: trust_domain.clone(),
            });
        }
        self.refuse_reserved(&Subject::Node(node.clone()))?;
        self.refuse_reserved(&Subject::Identity(identity.clone()))
    }

    fn refuse_reserved(&self, subject: &Subject) -> Result<(), AuthorityError> {
        let reserved = match subject {
            Subject::Serial(_) => false,
            Subject::Node(node) => node.as_str() == NODE,
            Subject::Identity(identity) => {
                let domain = &self.terms.trust_domain;
                identity.as_str() == format!("spiffe://{domain}{CONTROL}")
            }
        };
        match reserved {
            true => Err(AuthorityError::Reserved(subject.clone())),
            false => Ok(()),
        }
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
    held: Option<Held>,
    node: &NodeId,
    identity: &Identity,
) -> Result<(), Denied> {
    let Some(found) = state.revoked.finds(held, Some(node), identity) else {
        return Ok(());
    };
    let subject = found.subject.to_string();
    Err(match found.lifted {
        true => Denied::RevokedBefore {
            asked: node.clone(),
            subject,
        },
        false => Denied::Revoked(subject),
    })
}

/// Of the certificates that fit and that somebody may believe still, the revocations by number.
fn numbers(state: &State, now: UnixSeconds, fits: impl Fn(&Issue) -> bool) -> Vec<Revocation> {
    let held = state.issued.which(fits);
    held.map(|(serial, issue)| Revocation {
        subject: Subject::Serial(serial),
        since: now,
        until: issue.believed_until(),
        lifted: false,
    })
    .collect()
}

async fn commit(ahead: &Ahead, writes: Vec<Written>) -> Result<(), AuthorityError> {
    let writes = Writes {
        authority: writes.into_iter().collect(),
        ..Writes::default()
    };
    ahead.commit(writes).await.map_err(AuthorityError::Store)
}
