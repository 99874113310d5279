//! What an agent says, read: one identity of those that it names, and the roots of its own trust
//! domain. Pure. What is wrong is named by its field, and nothing that stands in the key is shown.

use std::time::SystemTime;

use sidelane_identity::der::{self, DerError};
use sidelane_identity::{
    Bundle, BundleError, CHAIN_LIMIT, IdError, Identity, IdentityError, PrivateKey, ROOTS_LIMIT,
    Refusal, Revoked, SpiffeId, Svid, SvidError,
};
use sidelane_proto::wire::spiffe::{X509svid, X509svidResponse};
use zeroize::Zeroizing;

/// Identities that an answer may name.
pub const SVIDS_LIMIT: usize = 64;

/// Which of the identities that an agent names is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The first, which the standard calls the default.
    First,
    /// The one with this hint.
    Hint(String),
    /// The one with this id.
    Id(SpiffeId),
}

/// Why an answer gives no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Too few or too many.
    #[error("svids: {count} identities, and 1 to {SVIDS_LIMIT} are taken")]
    Count {
        /// How many.
        count: usize,
    },
    /// The one that is meant is not among them.
    #[error("svids: none of {count} {wanted}; the agent names {named}")]
    NotNamed {
        /// How many there are.
        count: usize,
        /// Which was meant, in words.
        wanted: String,
        /// The ids that are named, the first few.
        named: String,
    },
    /// The certificates are none.
    #[error("x509_svid: {0}")]
    Chain(DerError),
    /// The certificates and the key make no SVID.
    #[error("x509_svid and x509_svid_key: {0}")]
    Svid(#[from] SvidError),
    /// The id is none.
    #[error("spiffe_id: {0}")]
    Id(#[from] IdError),
    /// Two names.
    #[error("spiffe_id says {said}, and the certificate is of {found}")]
    TwoIds {
        /// What the field says.
        said: SpiffeId,
        /// What the certificate says.
        found: SpiffeId,
    },
    /// The roots are none.
    #[error("bundle: {0}")]
    Roots(DerError),
    /// The roots make no bundle.
    #[error("bundle: {0}")]
    Bundle(#[from] BundleError),
    /// Certificate and roots do not fit.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No peer would take the certificate.
    #[error("no peer would take the certificate: {0}")]
    Unsound(#[from] Refusal),
}

impl Wanted {
    fn fits(&self, svid: &X509svid) -> bool {
        match self {
            Self::First => true,
            Self::Hint(hint) => svid.hint == *hint,
            Self::Id(id) => svid.spiffe_id == id.as_str(),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::First => "is the first".to_owned(),
            Self::Hint(hint) => format!("has the hint `{hint}`"),
            Self::Id(id) => format!("is {id}"),
        }
    }
}

/// Reads an answer. The private keys in it, all of them, are overwritten.
pub(crate) fn read(
    answer: X509svidResponse,
    wanted: &Wanted,
    now: SystemTime,
) -> Result<Identity, AnswerError> {
    let count = answer.svids.len();
    let keyed = answer.svids.into_iter().map(|mut svid| {
        let key = Zeroizing::new(std::mem::take(&mut svid.x509_svid_key));
        (svid, key)
    });
    // All of them are taken out before anything can be wrong.
    let keyed: Vec<(X509svid, Zeroizing<Vec<u8>>)> = keyed.collect();
    if !(1..=SVIDS_LIMIT).contains(&count) {
        return Err(AnswerError::Count { count });
    }
    let Some((svid, key)) = keyed.iter().find(|(svid, _)| wanted.fits(svid)) else {
        return Err(AnswerError::NotNamed {
            count,
            wanted: wanted.words(),
            named: named(keyed.iter().map(|(svid, _)| svid)),
        });
    };
    let chain = der::certificates(&svid.x509_svid, CHAIN_LIMIT).map_err(AnswerError::Chain)?;
    let roots = der::certificates(&svid.bundle, ROOTS_LIMIT).map_err(AnswerError::Roots)?;
    let said = SpiffeId::new(&svid.spiffe_id)?;
    let svid = Svid::new(chain, &PrivateKey::pkcs8(key))?;
    if said != *svid.id() {
        let found = svid.id().clone();
        return Err(AnswerError::TwoIds { said, found });
    }
    let bundle = Bundle::new(svid.trust_domain(), roots)?;
    let identity = Identity::new(svid, bundle, Revoked::default())?;
    identity.is_sound(now)?;
    Ok(identity)
}

/// As many ids as fit into a line.
fn named<'a>(svids: impl Iterator<Item = &'a X509svid>) -> String {
    let short = |text: &str| text.chars().take(80).collect::<String>();
    let ids = svids.take(4).map(|svid| match svid.hint.as_str() {
        "" => short(&svid.spiffe_id),
        hint => format!("{} (hint `{}`)", short(&svid.spiffe_id), short(hint)),
    });
    ids.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
