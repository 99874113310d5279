//! TLS to control before there is a certificate: control is known by the fingerprint of its root,
//! which the join token carries, or by a file of its roots. Control shows its root beside its
//! certificate, so the root that fits is believed, and control's certificate must be of it and
//! control's own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use crate::hint;
use crate::refusal::Refusal;
use crate::revoked::Revoked;
use crate::tls::{self, provider};
use crate::token::Authority;
use crate::verify::{self, Expected};
use crate::{Bundle, SpiffeId, TrustDomain};

/// Who control is in its mesh.
///
/// # Panics
/// Never: every trust domain that exists leaves room for this path.
#[must_use]
pub fn control(domain: &TrustDomain) -> SpiffeId {
    SpiffeId::workload(domain, "sidelane", "control").unwrap_or_else(|error| {
        unreachable!("255 and 24 bytes are fewer than 2,048: {error}");
    })
}

/// How control is dialled by somebody who has no certificate.
///
/// # Errors
/// The provider has no TLS 1.3.
pub fn client(authority: Authority) -> Result<Arc<ClientConfig>, Error> {
    pinned(authority.trust_domain, vec![authority.root])
}

/// The same, by somebody who was told all its roots. One of them is enough: while they are being
/// changed, control is known by the old one and by the new one.
///
/// # Errors
/// The provider has no TLS 1.3.
pub fn under(bundle: &Bundle) -> Result<Arc<ClientConfig>, Error> {
    let roots = bundle.roots().iter();
    let roots = roots.map(|root| Sha256::digest(root).into()).collect();
    pinned(bundle.trust_domain().clone(), roots)
}

fn pinned(domain: TrustDomain, roots: Vec<[u8; 32]>) -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            believed: roots.iter().map(hint::name).collect(),
            roots,
            domain,
        }))
        .with_no_client_auth();
    Ok(Arc::new(tls::bounded(config)))
}

#[derive(Debug)]
struct Pinned {
    domain: TrustDomain,
    /// The fingerprints of the roots.
    roots: Vec<[u8; 32]>,
    /// Their names.
    believed: Vec<DistinguishedName>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = |shown: &&CertificateDer<'_>| {
            let fingerprint: [u8; 32] = Sha256::digest(shown).into();
            self.roots.contains(&fingerprint)
        };
        let root = between.iter().find(pinned).ok_or(Refusal::UnknownRoot)?;
        let domain = &self.domain;
        let bundle = Bundle::new(domain.clone(), vec![root.clone().into_owned()])
            .map_err(|_| Refusal::UnknownRoot)?;
        let expected = Expected::One(control(domain));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        // Another authority may have others between its root and control.
        let between = between.iter().filter(|shown| *shown != root);
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(leaf).chain(between).cloned().collect();
        verify::under(&chain, &bundle, &Revoked::default(), &expected, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Refusal::TlsVersion.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls::signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        Some(&self.believed)
    }
}
