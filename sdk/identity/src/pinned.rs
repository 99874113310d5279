//! TLS to control before there is a certificate: control is known by the fingerprint of its root,
//! which the join token carries. Control shows its root beside its certificate, so the root that fits
//! is believed, and control's certificate must be of it and control's own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

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
    let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(authority)))
        .with_no_client_auth();
    Ok(Arc::new(tls::bounded(config)))
}

struct Pinned(Authority);

impl std::fmt::Debug for Pinned {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Pinned({})", self.0)
    }
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
            fingerprint == self.0.root
        };
        let root = between.iter().find(pinned).ok_or(Refusal::UnknownRoot)?;
        let domain = &self.0.trust_domain;
        let bundle = Bundle::new(domain.clone(), vec![root.clone().into_owned()])
            .map_err(|_| Refusal::UnknownRoot)?;
        let expected = Expected::One(control(domain));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let chain = [leaf.clone()];
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
}
