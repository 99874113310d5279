//! Is this chain a peer of this mesh? Asks what the X.509-SVID specification asks of a leaf, which
//! webpki does not look at, then has webpki build the path to a root. Pure: the time is told.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

use crate::SpiffeId;
use crate::bundle::Bundle;
use crate::present::Identity;
use crate::refusal::Refusal;
use crate::revoked::{Revoked, Serial};
use crate::svid::{CERTIFICATE_LIMIT, CHAIN_LIMIT};
use crate::tls::provider;

/// How far clocks may differ: a certificate is taken this long before it begins, since who signed
/// it may be ahead. None is taken past its end, because that is what bounds a stolen key.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// RSA keys below 2,048 bits are not taken.
const RSA_BITS: usize = 2048;

const ECDSA: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ED25519: &str = "1.3.101.112";

/// Whom a dialler means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Whoever belongs to the mesh.
    Any,
    /// This workload.
    One(SpiffeId),
    /// One of these.
    Of(Vec<SpiffeId>),
}

impl Expected {
    fn admits(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Any => true,
            Self::One(wanted) => wanted == id,
            Self::Of(wanted) => wanted.contains(id),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("anybody of the mesh"),
            Self::One(wanted) => wanted.fmt(formatter),
            Self::Of(wanted) => {
                formatter.write_str("one of")?;
                wanted.iter().try_for_each(|id| write!(formatter, " {id}"))
            }
        }
    }
}

/// What a leaf says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Whose it is.
    pub id: SpiffeId,
    /// The first common name of its subject: control writes the node there that it signed for. Others
    /// write what they like.
    pub common_name: Option<String>,
    /// Its serial number.
    pub serial: Serial,
    /// The SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

/// Is the chain's first certificate an X.509-SVID, and are the others fit to stand in a chain? Asks
/// nothing of time, roots or who is meant, so what it returns is a claim.
///
/// # Errors
/// What is wrong with it.
pub fn leaf(chain: &[CertificateDer<'_>]) -> Result<Leaf, Refusal> {
    let Some(der) = chain.first() else {
        return Err(Refusal::NoCertificate);
    };
    if chain.len() > CHAIN_LIMIT || chain.iter().any(|each| each.len() > CERTIFICATE_LIMIT) {
        return Err(Refusal::ChainTooLong);
    }
    let leaf = parsed(der)?;
    key(&leaf)?;
    if duplicated(leaf.basic_constraints())?.is_some_and(|basic| basic.value.ca) {
        return Err(Refusal::CaLeaf);
    }
    usage(&leaf)?;
    let id = spiffe_id(&leaf)?;
    for between in &chain[1..] {
        let between = parsed(between)?;
        is_authority(&between).map_err(|what| Refusal::Intermediate { what })?;
        key(&between)?;
    }
    Ok(Leaf {
        id,
        common_name: leaf
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .map(str::to_owned),
        serial: Serial::new(leaf.raw_serial()),
        fingerprint: Sha256::digest(der).into(),
        not_before: time(leaf.validity().not_before),
        not_after: time(leaf.validity().not_after),
    })
}

/// Does the chain prove one who is expected, under the roots and revocations of `identity`?
///
/// # Errors
/// Why not.
pub fn chain(
    chain: &[CertificateDer<'_>],
    identity: &Identity,
    expected: &Expected,
    now: SystemTime,
) -> Result<Leaf, Refusal> {
    under(chain, identity.bundle(), identity.revoked(), expected, now)
}

/// As [`chain`]; who ended at most `late` ago is believed, too. For renewals alone: whoever takes
/// such a certificate looks at its end before anything else is allowed.
///
/// # Errors
/// Why not.
pub fn late(
    shown: &[CertificateDer<'_>],
    identity: &Identity,
    expected: &Expected,
    now: SystemTime,
    late: Duration,
) -> Result<Leaf, Refusal> {
    let end = leaf(shown)?.not_after;
    let within = now > end && now.duration_since(end).is_ok_and(|ago| ago <= late);
    chain(shown, identity, expected, if within { end } else { now })
}

/// As [`chain`], for somebody who has roots and no certificate of their own.
///
/// # Errors
/// Why not.
pub fn under(
    chain: &[CertificateDer<'_>],
    bundle: &Bundle,
    revoked: &Revoked,
    expected: &Expected,
    now: SystemTime,
) -> Result<Leaf, Refusal> {
    let leaf = leaf(chain)?;
    if !leaf.id.is_of(bundle.trust_domain()) {
        return Err(Refusal::WrongTrustDomain {
            found: leaf.id.trust_domain(),
            wanted: bundle.trust_domain().clone(),
        });
    }
    within(&leaf, now)?;
    let anchors = bundle.anchors(now);
    let end_entity = EndEntityCert::try_from(&chain[0]).map_err(|error| of_webpki(&error))?;
    end_entity
        .verify_for_usage(
            provider().signature_verification_algorithms.all,
            &anchors,
            &chain[1..],
            begun(chain, now)?,
            // The leaf's own check has seen to it that both are allowed, or nothing is said.
            KeyUsage::client_auth(),
            None,
            // webpki holds those between to their path lengths, and does not know the roots'.
            Some(&|path| {
                let between = path.intermediate_certificates().count();
                let allowed = bundle.allows(path.anchor(), between);
                let error = webpki::Error::PathLenConstraintViolated;
                if allowed { Ok(()) } else { Err(error) }
            }),
        )
        .map_err(|error| of_webpki(&error))?;
    if is_revoked(&leaf, revoked) {
        return Err(Refusal::Revoked { id: leaf.id });
    }
    if !expected.admits(&leaf.id) {
        return Err(Refusal::NotTheExpectedIdentity {
            found: leaf.id,
            wanted: expected.to_string(),
        });
    }
    Ok(leaf)
}

/// Is a certificate that was believed once to be believed still: not revoked since, and not ended?
///
/// # Errors
/// Why not.
pub fn still(leaf: &Leaf, identity: &Identity, now: SystemTime) -> Result<(), Refusal> {
    if is_revoked(leaf, identity.revoked()) {
        let id = leaf.id.clone();
        return Err(Refusal::Revoked { id });
    }
    within(leaf, now)
}

/// May this certificate sign others?
pub(crate) fn is_authority(certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
    let basic = certificate
        .basic_constraints()
        .map_err(|_| "its basic constraints cannot be read")?;
    if !basic.is_some_and(|basic| basic.value.ca) {
        return Err("it is no authority's (basic constraints)");
    }
    let usage = certificate
        .key_usage()
        .map_err(|_| "its key usage cannot be read")?;
    match usage {
        Some(usage) if usage.value.key_cert_sign() => Ok(()),
        _ => Err("its key usage lacks keyCertSign"),
    }
}

/// A certificate's time. Before 1970 is 1970: no certificate of a mesh is that old.
pub(crate) fn time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// From when until when a certificate is good, whoever's it is.
///
/// # Errors
/// It cannot be read.
pub fn lifetime(der: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), Refusal> {
    let parsed = parsed(der)?;
    let validity = parsed.validity();
    Ok((time(validity.not_before), time(validity.not_after)))
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(Refusal::Malformed {
            what: "something follows it",
        }),
        Err(_) => Err(Refusal::Malformed {
            what: "it is no certificate",
        }),
    }
}

/// An extension that is there twice, or cannot be read, is as bad as one that is wrong.
fn duplicated<Extension, Error>(
    found: Result<Option<Extension>, Error>,
) -> Result<Option<Extension>, Refusal> {
    let what = "an extension is there twice or cannot be read";
    found.map_err(|_| Refusal::Malformed { what })
}

/// X.509-SVID §4.3 and §4.4.
fn usage(leaf: &X509Certificate<'_>) -> Result<(), Refusal> {
    let wrong = |what| Err(Refusal::KeyUsage { what });
    let Some(usage) = duplicated(leaf.key_usage())? else {
        return wrong("there is none, and digitalSignature must be set");
    };
    if !usage.value.digital_signature() {
        return wrong("digitalSignature is not set");
    }
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return wrong("keyCertSign or cRLSign is set");
    }
    match duplicated(leaf.extended_key_usage())? {
        Some(extended) if !(extended.value.server_auth && extended.value.client_auth) => {
            Err(Refusal::ExtendedKeyUsage)
        }
        _ => Ok(()),
    }
}

/// X.509-SVID §2: exactly one URI, and it is the workload's id.
fn spiffe_id(leaf: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let Some(names) = duplicated(leaf.subject_alternative_name())? else {
        return Err(Refusal::NoUriSan);
    };
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let Some(uri) = uris.next() else {
        return Err(Refusal::NoUriSan);
    };
    let more = uris.count();
    if more > 0 {
        return Err(Refusal::TwoUriSans { count: more + 1 });
    }
    let id = SpiffeId::new(uri)?;
    if id.path().is_empty() {
        return Err(Refusal::NoWorkload);
    }
    Ok(id)
}

fn key(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    let info = certificate.public_key();
    let algorithm = info.algorithm.algorithm.to_id_string();
    let curve = || info.algorithm.parameters.as_ref()?.as_oid().ok();
    let fits = match info.parsed() {
        Ok(PublicKey::RSA(key)) => key.key_size() >= RSA_BITS,
        Ok(PublicKey::EC(_)) if algorithm == ECDSA => {
            curve().is_some_and(|curve| [P256, P384].contains(&curve.to_id_string().as_str()))
        }
        _ => algorithm == ED25519,
    };
    if fits { Ok(()) } else { Err(Refusal::WeakKey) }
}

fn within(leaf: &Leaf, now: SystemTime) -> Result<(), Refusal> {
    if now > leaf.not_after {
        return Err(Refusal::expired(leaf.not_after, now));
    }
    if now + CLOCK_SKEW < leaf.not_before {
        return Err(Refusal::not_yet_valid(leaf.not_before, now));
    }
    Ok(())
}

fn is_revoked(leaf: &Leaf, revoked: &Revoked) -> bool {
    !revoked.is_empty() && revoked.names(&leaf.id, &leaf.serial, &leaf.fingerprint)
}

/// The time that webpki is told: now, or a little later if some of the chain begin a little later.
fn begun(chain: &[CertificateDer<'_>], now: SystemTime) -> Result<UnixTime, Refusal> {
    let mut latest = now;
    for der in chain {
        let begins = time(parsed(der)?.validity().not_before);
        if begins <= now + CLOCK_SKEW {
            latest = latest.max(begins);
        }
    }
    let since = latest.duration_since(SystemTime::UNIX_EPOCH);
    Ok(UnixTime::since_unix_epoch(since.unwrap_or_default()))
}

fn told(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

fn of_webpki(error: &webpki::Error) -> Refusal {
    use webpki::Error;
    match error {
        Error::UnknownIssuer => Refusal::UnknownRoot,
        Error::CertExpired { time, not_after } => Refusal::expired(told(*not_after), told(*time)),
        Error::CertNotValidYet { time, not_before } => {
            Refusal::not_yet_valid(told(*not_before), told(*time))
        }
        Error::CaUsedAsEndEntity => Refusal::CaLeaf,
        Error::EndEntityUsedAsCa => Refusal::Intermediate {
            what: "it is a workload's",
        },
        Error::InvalidSignatureForPublicKey => Refusal::Signature,
        Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => Refusal::PathLength,
        Error::NameConstraintViolation => Refusal::NameConstraint,
        Error::RequiredEkuNotFoundContext(_) => Refusal::ExtendedKeyUsage,
        Error::UnsupportedCriticalExtension => Refusal::CriticalExtension,
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Refusal::WeakKey,
        Error::InvalidCertValidity | Error::BadDerTime => Refusal::Malformed {
            what: "its validity",
        },
        Error::UnsupportedCertVersion => Refusal::Malformed {
            what: "its version",
        },
        Error::SignatureAlgorithmMismatch => Refusal::Malformed {
            what: "it names two kinds of signature",
        },
        _ => Refusal::Malformed {
            what: "its encoding",
        },
    }
}
