//! Why a peer is not believed. The list is closed, so that metrics have a label for each reason;
//! what a stranger sent is shown shortened or not at all.

use std::io;
use std::time::SystemTime;

use rustls::{AlertDescription, CertificateError, Error as TlsError, OtherError, PeerIncompatible};

use crate::id::IdError;
use crate::moment::Moment;
use crate::svid::{CERTIFICATE_LIMIT, CHAIN_LIMIT};
use crate::verify::CLOCK_SKEW;
use crate::{SpiffeId, TrustDomain};

/// Why a certificate or a handshake is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This side has no certificate yet, or none any more.
    #[error("this side has no identity yet, so it can judge nobody")]
    NoIdentity,
    /// What came is no TLS.
    #[error("what came is no TLS")]
    NotTls,
    /// TLS before 1.3.
    #[error("TLS 1.3 was not offered, and nothing older is taken")]
    TlsVersion,
    /// `h2` was not agreed on.
    #[error("the application protocol is not h2")]
    Alpn,
    /// The client shows no certificate.
    #[error("no certificate was shown")]
    NoCertificate,
    /// The chain has too many certificates, or one that is too long.
    #[error(
        "the chain is too long: {CHAIN_LIMIT} certificates of {CERTIFICATE_LIMIT} bytes are the most"
    )]
    ChainTooLong,
    /// It cannot be parsed.
    #[error("a certificate cannot be parsed: {what}")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// The leaf names no URI.
    #[error("the certificate names no URI, so it says no SPIFFE id")]
    NoUriSan,
    /// The leaf names several URIs.
    #[error("the certificate names {count} URIs; an X.509-SVID names exactly one")]
    TwoUriSans {
        /// How many.
        count: usize,
    },
    /// The leaf's URI is no SPIFFE id of a workload.
    #[error("the certificate's URI is no workload's SPIFFE id: {0}")]
    SpiffeId(#[from] IdError),
    /// The leaf names the trust domain, and no workload in it.
    #[error("the certificate names a whole trust domain; only authorities may")]
    NoWorkload,
    /// The leaf may sign certificates.
    #[error("the certificate is an authority's; a workload's may not sign others")]
    CaLeaf,
    /// The leaf's key usage is not that of an X.509-SVID.
    #[error("the certificate's key usage does not fit: {what}")]
    KeyUsage {
        /// What is wrong.
        what: &'static str,
    },
    /// The leaf's extended key usage is there and lacks one of the two.
    #[error("the certificate's extended key usage must have both serverAuth and clientAuth")]
    ExtendedKeyUsage,
    /// A key or signature that is not taken.
    #[error(
        "a key or signature of the chain is of a kind that is not taken: P-256, P-384, Ed25519 \
         and RSA of at least 2,048 bits are, with SHA-256 or better"
    )]
    WeakKey,
    /// It has ended.
    #[error(
        "the certificate has expired: it ended at {end}, and it is past {now} here; if it should hold \
         still, check the clocks of both sides"
    )]
    Expired {
        /// Its end.
        end: Moment,
        /// The time of this side, to the minute.
        now: Moment,
    },
    /// It has not begun, by more than clocks may differ.
    #[error(
        "the certificate is not valid yet: it begins at {begin}, and it is past {now} here, so the \
         clocks of both sides differ by more than the {} minutes that they may: check them",
        CLOCK_SKEW.as_secs() / 60
    )]
    NotYetValid {
        /// Its beginning.
        begin: Moment,
        /// The time of this side, to the minute.
        now: Moment,
    },
    /// Another trust domain.
    #[error("the certificate is of trust domain {found}, this mesh is {wanted}")]
    WrongTrustDomain {
        /// The certificate's.
        found: TrustDomain,
        /// Ours.
        wanted: TrustDomain,
    },
    /// No root of the bundle signed it.
    #[error("no root of the bundle that is still valid signed the certificate")]
    UnknownRoot,
    /// A signature is wrong.
    #[error(
        "a signature is wrong: it was changed, or an authority of the same name has another key"
    )]
    Signature,
    /// A certificate between leaf and root may not sign.
    #[error("a certificate between the workload's and the root may not sign others: {what}")]
    Intermediate {
        /// Why.
        what: &'static str,
    },
    /// More certificates between leaf and root than an authority allows.
    #[error("the chain is longer than one of its authorities allows")]
    PathLength,
    /// The names that an authority may sign for do not hold this one.
    #[error("an authority of the chain may not sign for this name")]
    NameConstraint,
    /// An extension that must be understood and is not.
    #[error("a certificate has a critical extension that is not known here")]
    CriticalExtension,
    /// Revoked.
    #[error("{id} is revoked, or its certificate is")]
    Revoked {
        /// Whose it is.
        id: SpiffeId,
    },
    /// Valid, but somebody else.
    #[error("{found} answered, {wanted} was meant")]
    NotTheExpectedIdentity {
        /// Who it is.
        found: SpiffeId,
        /// Who was meant.
        wanted: String,
    },
    /// A sidecar of the mesh that says to be another node.
    #[error("{what}")]
    OtherNode {
        /// What it says, and what its certificate does.
        what: String,
    },
    /// The other side refused ours.
    #[error("the other side refused the handshake ({alert}); its log says why")]
    ByPeer {
        /// TLS's name for it.
        alert: String,
    },
    /// It broke off.
    #[error("the connection ended within the handshake")]
    Ended,
    /// It took too long.
    #[error("the handshake was not over in time")]
    TooSlow,
    /// Whatever else TLS says.
    #[error("the handshake failed: {what}")]
    Handshake {
        /// What TLS says.
        what: String,
    },
}

impl Refusal {
    /// It ended then, and now is later.
    #[must_use]
    pub fn expired(end: SystemTime, now: SystemTime) -> Self {
        Self::Expired {
            end: Moment::of(end),
            now: Moment::minute_of(now),
        }
    }

    /// It begins then, and now is earlier.
    #[must_use]
    pub fn not_yet_valid(begin: SystemTime, now: SystemTime) -> Self {
        Self::NotYetValid {
            begin: Moment::of(begin),
            now: Moment::minute_of(now),
        }
    }

    /// The reason as metrics name it.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::NotTls => "not_tls",
            Self::TlsVersion => "tls_version",
            Self::Alpn => "alpn",
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong => "chain_too_long",
            Self::Malformed { .. } => "malformed",
            Self::NoUriSan => "no_uri_san",
            Self::TwoUriSans { .. } => "two_uri_sans",
            Self::SpiffeId(_) => "spiffe_id",
            Self::NoWorkload => "no_workload",
            Self::CaLeaf => "ca_leaf",
            Self::KeyUsage { .. } => "key_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::WeakKey => "weak_key",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::WrongTrustDomain { .. } => "wrong_trust_domain",
            Self::UnknownRoot => "unknown_root",
            Self::Signature => "signature",
            Self::Intermediate { .. } => "intermediate",
            Self::PathLength => "path_length",
            Self::NameConstraint => "name_constraint",
            Self::CriticalExtension => "critical_extension",
            Self::Revoked { .. } => "revoked",
            Self::NotTheExpectedIdentity { .. } => "not_the_expected_identity",
            Self::OtherNode { .. } => "other_node",
            Self::ByPeer { .. } => "by_peer",
            Self::Ended => "ended",
            Self::TooSlow => "too_slow",
            Self::Handshake { .. } => "handshake",
        }
    }

    /// Every label there is, in the order of the list.
    pub const LABELS: [&'static str; 31] = [
        "no_identity",
        "not_tls",
        "tls_version",
        "alpn",
        "no_certificate",
        "chain_too_long",
        "malformed",
        "no_uri_san",
        "two_uri_sans",
        "spiffe_id",
        "no_workload",
        "ca_leaf",
        "key_usage",
        "extended_key_usage",
        "weak_key",
        "expired",
        "not_yet_valid",
        "wrong_trust_domain",
        "unknown_root",
        "signature",
        "intermediate",
        "path_length",
        "name_constraint",
        "critical_extension",
        "revoked",
        "not_the_expected_identity",
        "other_node",
        "by_peer",
        "ended",
        "too_slow",
        "handshake",
    ];

    /// What an error of a TLS stream means. A refusal of our own verifiers comes back as it was.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(error) => Self::of_tls(error),
            None => match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe => Self::Ended,
                kind => Self::Handshake {
                    what: kind.to_string(),
                },
            },
        }
    }

    /// What an error of rustls means.
    #[must_use]
    pub fn of_tls(error: &TlsError) -> Self {
        match error {
            TlsError::InvalidCertificate(error) => of_certificate(error),
            TlsError::NoCertificatesPresented => Self::NoCertificate,
            TlsError::InvalidMessage(_) => Self::NotTls,
            TlsError::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::Tls13RequiredForQuic,
            )
            | TlsError::AlertReceived(AlertDescription::ProtocolVersion) => Self::TlsVersion,
            TlsError::NoApplicationProtocol
            | TlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            TlsError::AlertReceived(alert) => Self::ByPeer {
                alert: format!("{alert:?}"),
            },
            other => Self::Handshake {
                what: other.to_string(),
            },
        }
    }
}

impl From<Refusal> for TlsError {
    fn from(refusal: Refusal) -> Self {
        let inner = OtherError(std::sync::Arc::new(refusal));
        TlsError::InvalidCertificate(CertificateError::Other(inner))
    }
}

fn of_certificate(error: &CertificateError) -> Refusal {
    match error {
        CertificateError::Other(OtherError(inner)) => match inner.downcast_ref::<Refusal>() {
            Some(refusal) => refusal.clone(),
            None => Refusal::Handshake {
                what: inner.to_string(),
            },
        },
        // The signature of the handshake itself, made with the private key.
        CertificateError::BadSignature => Refusal::Signature,
        other => Refusal::Handshake {
            what: other.to_string(),
        },
    }
}
