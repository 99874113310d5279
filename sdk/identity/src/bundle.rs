//! The roots that a trust domain's certificates are judged by. While roots are being changed there
//! are two.

use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pem::{self, PemError};
use crate::svid::CERTIFICATE_LIMIT;
use crate::verify::{is_authority, time};
use crate::{SpiffeId, TrustDomain};

/// Roots in a bundle at most.
pub const ROOTS_LIMIT: usize = 16;

/// Why certificates make no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The text is no PEM.
    #[error("the roots cannot be read: {0}")]
    Pem(#[from] PemError),
    /// None, or too many.
    #[error("a bundle has 1 to {ROOTS_LIMIT} roots, not {count}")]
    Count {
        /// How many there are.
        count: usize,
    },
    /// One is not a certificate authority's.
    #[error("root {place} cannot sign certificates: {why}")]
    Root {
        /// Which one, counted from 1.
        place: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody said whose it is, nor does it.
    #[error(
        "root {place} says no trust domain (one URI, such as spiffe://mesh.example); give the roots \
         that control has, as `sidelane root show` prints them"
    )]
    Nameless {
        /// Which one, counted from 1.
        place: usize,
    },
    /// They are of several meshes.
    #[error(
        "root 1 is of trust domain {first}, and root {place} of {found}: give those of one mesh"
    )]
    Mixed {
        /// The first one's.
        first: TrustDomain,
        /// Which one, counted from 1.
        place: usize,
        /// Its own.
        found: TrustDomain,
    },
}

/// The roots of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<Anchor>,
}

/// A root as chains are verified with it, and what a trust anchor does not carry: its time, and how
/// many there may be between it and a workload (RFC 5280 §4.2.1.9).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Anchor {
    anchor: TrustAnchor<'static>,
    not_after: SystemTime,
    between: Option<u32>,
}

impl Bundle {
    /// From certificates. Whether one has ended is looked at when it is used: a bundle outlives
    /// the roots that leave it.
    ///
    /// # Errors
    /// There is none, there are too many, or one may not sign certificates.
    pub fn new(
        trust_domain: TrustDomain,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let count = roots.len();
        if !(1..=ROOTS_LIMIT).contains(&count) {
            return Err(BundleError::Count { count });
        }
        let anchors = roots.iter().enumerate().map(|(index, root)| {
            anchor(root).map_err(|why| BundleError::Root {
                place: index + 1,
                why,
            })
        });
        let anchors = anchors.collect::<Result<_, _>>()?;
        Ok(Self {
            trust_domain,
            roots,
            anchors,
        })
    }

    /// From a PEM file.
    ///
    /// # Errors
    /// As [`Bundle::new`], or it is no PEM.
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, BundleError> {
        Self::new(trust_domain, pem::certificates(text)?)
    }

    /// From a PEM file of roots that say their trust domain themselves, as control's do (X.509-SVID
    /// §2): for who knows nothing else of the mesh yet.
    ///
    /// # Errors
    /// As [`Bundle::from_pem`], or one says none, or another than the first.
    pub fn named(text: &[u8]) -> Result<Self, BundleError> {
        let roots = pem::certificates(text)?;
        let mut domain: Option<TrustDomain> = None;
        for (index, root) in roots.iter().enumerate() {
            let place = index + 1;
            let found = named(root).ok_or(BundleError::Nameless { place })?;
            match &domain {
                Some(first) if *first != found => {
                    let first = first.clone();
                    return Err(BundleError::Mixed {
                        first,
                        place,
                        found,
                    });
                }
                _ => domain = Some(found),
            }
        }
        let count = roots.len();
        Self::new(domain.ok_or(BundleError::Count { count })?, roots)
    }

    /// Whose roots they are.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Those that have not ended.
    pub(crate) fn anchors(&self, now: SystemTime) -> Vec<TrustAnchor<'_>> {
        let living = self.anchors.iter().filter(|anchor| now <= anchor.not_after);
        living.map(|anchor| borrowed(&anchor.anchor)).collect()
    }

    /// May so many stand between this root and a workload? One that was given twice allows what either
    /// does.
    pub(crate) fn allows(&self, root: &TrustAnchor<'_>, count: usize) -> bool {
        let same = self.anchors.iter().filter(|own| own.anchor == *root);
        let mut limits = same.map(|own| own.between);
        limits.any(|most| most.is_none_or(|most| u32::try_from(count).is_ok_and(|it| it <= most)))
    }
}

fn anchor(root: &CertificateDer<'_>) -> Result<Anchor, &'static str> {
    if root.len() > CERTIFICATE_LIMIT {
        return Err("it is too long");
    }
    let (rest, parsed) = X509Certificate::from_der(root).map_err(|_| "it is no certificate")?;
    if !rest.is_empty() {
        return Err("something follows it");
    }
    is_authority(&parsed)?;
    let anchor = webpki::anchor_from_trusted_cert(root).map_err(|_| "it cannot be parsed")?;
    let basic = parsed.basic_constraints().ok().flatten();
    Ok(Anchor {
        anchor: anchor.to_owned(),
        not_after: time(parsed.validity().not_after),
        between: basic.and_then(|basic| basic.value.path_len_constraint),
    })
}

/// The trust domain that a root names.
fn named(root: &CertificateDer<'_>) -> Option<TrustDomain> {
    let (_, parsed) = X509Certificate::from_der(root).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|it| match it {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let id = SpiffeId::new(uris.next()?).ok()?;
    (uris.next().is_none() && id.path().is_empty()).then(|| id.trust_domain())
}

fn borrowed<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: anchor.subject.as_ref().into(),
        subject_public_key_info: anchor.subject_public_key_info.as_ref().into(),
        name_constraints: anchor
            .name_constraints
            .as_ref()
            .map(|constraints| constraints.as_ref().into()),
    }
}
