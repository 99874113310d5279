//! How the authority is kept: each thing under a key that begins with its kind. A record that does
//! not come out as it went in is named, and control does not start: to go on with a part of it would
//! be to forget a revocation, or who may join.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use sidelane_proto::model::{Identity, NodeId};
use zeroize::Zeroizing;

use super::authority::LEAF_LIFE_MAXIMUM;
use super::issued::{Issue, Issues};
use super::revoked::{Revocation, Revoked, Subject};
use super::rotation::{Phase, Placed, Roots, SKEW};
use super::tokens::{Grant, Issued, TokenHash, Tokens, Use};
use super::{Root, Serial};
use crate::store::Secret;

const DOMAIN: &str = "domain";
const ROOT: &str = "root/";
const TOKEN: &str = "token/";
const ISSUED: &str = "issued/";
const REVOKED: &str = "revoked/";
const SERIAL: &str = "serial/";
const NODE: &str = "node/";
const IDENTITY: &str = "identity/";

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "control's store holds `{key}`, which cannot be read: {reason}; restore the store from a backup, or move it away to begin with a new root"
)]
pub struct RecordError {
    /// The record.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What is written: a key, and its content; `None` removes it.
pub(super) type Written = (String, Option<Secret>);

/// All that was kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) domain: Option<String>,
    pub(super) roots: Option<Roots>,
    pub(super) tokens: Tokens,
    pub(super) revoked: Revoked,
    pub(super) issued: Issues,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct RootRecord {
    #[prost(bytes = "vec", tag = "1")]
    certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    /// 1 coming, 2 signing, 3 leaving, 4 late.
    #[prost(uint32, tag = "3")]
    phase: u32,
    #[prost(uint64, tag = "4")]
    at: u64,
    #[prost(uint64, tag = "5")]
    longest_seconds: u64,
}

#[derive(Clone, PartialEq, Message)]
struct TokenRecord {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(string, tag = "2")]
    identity: String,
    #[prost(uint64, tag = "3")]
    expires: u64,
    #[prost(bytes = "vec", tag = "4")]
    used_by: Vec<u8>,
    #[prost(uint64, tag = "5")]
    used_at: u64,
    #[prost(uint64, tag = "6")]
    made: u64,
}

#[derive(Clone, PartialEq, Message)]
struct IssuedRecord {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(uint64, tag = "2")]
    until: u64,
    #[prost(string, tag = "3")]
    identity: String,
    #[prost(uint64, tag = "4")]
    signed: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RevokedRecord {
    #[prost(uint64, tag = "1")]
    until: u64,
    #[prost(uint64, tag = "2")]
    since: u64,
    #[prost(bool, tag = "3")]
    lifted: bool,
}

pub(super) fn domain(name: &str) -> Written {
    (
        DOMAIN.to_owned(),
        Some(Secret::new(name.as_bytes().to_vec())),
    )
}

pub(super) fn root(placed: &Placed) -> Written {
    let (phase, at) = match placed.phase {
        Phase::Coming { since } => (1, since),
        Phase::Signing => (2, 0),
        Phase::Leaving { until } => (3, until),
        Phase::Late { until } => (4, until),
    };
    let mut record = RootRecord {
        certificate: placed.root.certificate().to_vec(),
        key: placed.root.key().to_vec(),
        phase,
        at,
        longest_seconds: placed.longest.as_secs(),
    };
    let bytes = Secret::new(record.encode_to_vec());
    drop(Zeroizing::new(std::mem::take(&mut record.key)));
    (root_key(&placed.root), Some(bytes))
}

pub(super) fn root_key(root: &Root) -> String {
    format!("{ROOT}{}", hex(&root.fingerprint()))
}

pub(super) fn token(hash: &TokenHash, issued: Option<&Issued>) -> Written {
    let record = issued.map(|Issued { grant, made, used }| TokenRecord {
        node: grant.node.as_str().to_owned(),
        identity: grant.identity.as_str().to_owned(),
        expires: grant.expires,
        used_by: used.map(|used| used.key.to_vec()).unwrap_or_default(),
        used_at: used.map_or(0, |used| used.at),
        made: *made,
    });
    let bytes = record.map(|record| Secret::new(record.encode_to_vec()));
    (format!("{TOKEN}{}", hex(hash)), bytes)
}

pub(super) fn issued(serial: Serial, issue: Option<&Issue>) -> Written {
    let record = issue.map(|issue| IssuedRecord {
        node: issue.node.as_str().to_owned(),
        until: issue.until,
        identity: issue
            .identity
            .as_ref()
            .map_or("", Identity::as_str)
            .to_owned(),
        signed: issue.signed,
    });
    let bytes = record.map(|record| Secret::new(record.encode_to_vec()));
    (format!("{ISSUED}{serial}"), bytes)
}

pub(super) fn revoked(subject: &Subject, revocation: Option<&Revocation>) -> Written {
    let key = match subject {
        Subject::Serial(serial) => format!("{REVOKED}{SERIAL}{serial}"),
        Subject::Node(node) => format!("{REVOKED}{NODE}{node}"),
        Subject::Identity(identity) => format!("{REVOKED}{IDENTITY}{identity}"),
    };
    let record = revocation.map(|it| RevokedRecord {
        until: it.until,
        since: it.since,
        lifted: it.lifted,
    });
    let bytes = record.map(|record| Secret::new(record.encode_to_vec()));
    (key, bytes)
}

/// Reads everything that was kept.
pub(super) fn read(records: &[(String, Secret)]) -> Result<Kept, RecordError> {
    let mut kept = Kept::default();
    let domain = records.iter().find(|(key, _)| key == DOMAIN);
    if let Some((key, bytes)) = domain {
        let text = String::from_utf8(bytes.as_bytes().to_vec());
        kept.domain = Some(text.map_err(|error| wrong(key, &error))?);
    }
    let domain = kept.domain.clone().unwrap_or_default();
    let (mut roots, mut tokens, mut revoked) = (Vec::new(), Vec::new(), Vec::new());
    for (key, bytes) in records {
        let bytes = bytes.as_bytes();
        let failed = |reason: &dyn std::fmt::Display| wrong(key, reason);
        if key.starts_with(ROOT) {
            roots.push(read_root(bytes, &domain).map_err(|reason| failed(&reason))?);
        } else if let Some(hash) = key.strip_prefix(TOKEN) {
            let hash = unhex(hash).ok_or_else(|| failed(&"its key is no hash"))?;
            let issued = read_token(bytes).map_err(|reason| failed(&reason))?;
            tokens.push((hash, issued));
        } else if let Some(serial) = key.strip_prefix(ISSUED) {
            let serial = Serial::parse(serial).ok_or_else(|| failed(&"its key is no number"))?;
            let record = IssuedRecord::decode(bytes).map_err(|error| failed(&error))?;
            let issue = read_issue(&record).map_err(|reason| failed(&reason))?;
            kept.issued.insert(serial, issue);
        } else if let Some(subject) = key.strip_prefix(REVOKED) {
            let subject = read_subject(subject).map_err(|reason| failed(&reason))?;
            let record = RevokedRecord::decode(bytes).map_err(|error| failed(&error))?;
            let RevokedRecord {
                until,
                since,
                lifted,
            } = record;
            // An earlier build kept no time, and each for so long.
            let kept = (LEAF_LIFE_MAXIMUM + SKEW).as_secs();
            let since = if since == 0 {
                until.saturating_sub(kept)
            } else {
                since
            };
            revoked.push(Revocation {
                subject,
                since,
                until,
                lifted,
            });
        } else if key != DOMAIN {
            return Err(failed(&"this build knows no such record"));
        }
    }
    if !roots.is_empty() {
        let restored = Roots::restore(roots);
        kept.roots = Some(restored.ok_or_else(|| wrong(ROOT, &"not one root signs"))?);
    }
    kept.tokens = Tokens::restore(tokens);
    kept.revoked = Revoked::restore(revoked);
    Ok(kept)
}

fn read_root(bytes: &[u8], domain: &str) -> Result<Placed, String> {
    let record = RootRecord::decode(bytes).map_err(|error| error.to_string())?;
    let key = Zeroizing::new(record.key);
    let phase = match record.phase {
        1 => Phase::Coming { since: record.at },
        2 => Phase::Signing,
        3 => Phase::Leaving { until: record.at },
        4 => Phase::Late { until: record.at },
        other => return Err(format!("there is no phase {other}")),
    };
    let root = Root::restore(record.certificate, &key, domain);
    Ok(Placed {
        root: Arc::new(root.map_err(|error| error.to_string())?),
        phase,
        longest: Duration::from_secs(record.longest_seconds),
    })
}

fn read_issue(record: &IssuedRecord) -> Result<Issue, String> {
    let identity = match record.identity.as_str() {
        "" => None,
        text => Some(Identity::new(text).map_err(|error| error.to_string())?),
    };
    Ok(Issue {
        node: NodeId::new(&record.node).map_err(|error| error.to_string())?,
        identity,
        signed: record.signed,
        until: record.until,
    })
}

fn read_token(bytes: &[u8]) -> Result<Issued, String> {
    let record = TokenRecord::decode(bytes).map_err(|error| error.to_string())?;
    let used = match record.used_by.as_slice() {
        [] => None,
        key => Some(Use {
            key: key
                .try_into()
                .map_err(|_| "its user is no hash".to_owned())?,
            at: record.used_at,
        }),
    };
    let grant = Grant {
        node: NodeId::new(&record.node).map_err(|error| error.to_string())?,
        identity: Identity::new(&record.identity).map_err(|error| error.to_string())?,
        expires: record.expires,
    };
    let made = record.made;
    Ok(Issued { grant, made, used })
}

fn read_subject(key: &str) -> Result<Subject, String> {
    if let Some(serial) = key.strip_prefix(SERIAL) {
        let serial = Serial::parse(serial).ok_or("its key is no number")?;
        Ok(Subject::Serial(serial))
    } else if let Some(node) = key.strip_prefix(NODE) {
        let node = NodeId::new(node).map_err(|error| error.to_string())?;
        Ok(Subject::Node(node))
    } else if let Some(identity) = key.strip_prefix(IDENTITY) {
        let identity = Identity::new(identity).map_err(|error| error.to_string())?;
        Ok(Subject::Identity(identity))
    } else {
        Err("its key names nobody".to_owned())
    }
}

fn wrong(key: &str, reason: &dyn std::fmt::Display) -> RecordError {
    RecordError {
        key: key.to_owned(),
        reason: reason.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
