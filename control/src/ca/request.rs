//! What a sidecar asks to have signed: a PKCS#10 request (RFC 2986). Only its public key is taken,
//! and only from whoever shows that the private key is theirs. The name, the subject alternative
//! names and every extension that it asks for are ignored: who it is comes from the proof of right.

use rcgen::{PublicKeyData, SignatureAlgorithm};
use rustls_pki_types::SignatureVerificationAlgorithm;
use webpki::aws_lc_rs as verify;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;

/// The smallest RSA key that is signed, in bits (NIST SP 800-131A).
pub const RSA_BITS_MINIMUM: usize = 2048;
/// The largest request that is read, in bytes: one with an RSA key of 8192 bits has 2,200.
pub const REQUEST_LIMIT: usize = 16 << 10;

/// 1.2.840.10045.4.3.2, ecdsa-with-SHA256.
const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
/// 1.3.101.112, Ed25519.
const ED25519: &str = "1.3.101.112";
/// 1.2.840.113549.1.1.11, sha256WithRSAEncryption.
const RSA_SHA256: &str = "1.2.840.113549.1.1.11";
/// 1.2.840.10045.2.1, an elliptic curve's key.
const EC_KEY: &str = "1.2.840.10045.2.1";
/// 1.2.840.10045.3.1.7, the curve P-256.
const P256: &str = "1.2.840.10045.3.1.7";
/// 1.2.840.113549.1.1.1, an RSA key.
const RSA_KEY: &str = "1.2.840.113549.1.1.1";

/// How a signature is verified.
type Verify = &'static dyn SignatureVerificationAlgorithm;

/// The key of somebody who has shown that the private half is theirs.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// As it stands in a `SubjectPublicKeyInfo`.
    bits: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

/// A request that is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than any.
    #[error("the request has {0} bytes, and no more than {REQUEST_LIMIT} are read")]
    TooLong(usize),
    /// No such thing.
    #[error("this is no certificate signing request (PKCS#10, DER): {0}")]
    Malformed(String),
    /// A key that is not signed.
    #[error(
        "keys of kind {0} are not signed here; make a P-256, Ed25519 or RSA key of 2048 bits or more"
    )]
    Kind(String),
    /// A key that is too short.
    #[error("an RSA key of {0} bits is too short; {RSA_BITS_MINIMUM} are the least")]
    Short(usize),
    /// The signature does not fit the key.
    #[error(
        "the request's signature is not of the key in it, so nothing shows that its sender has the private key"
    )]
    NoPossession,
}

impl PublicKey {
    /// Reads a request.
    ///
    /// # Errors
    /// It is none, its key is not of a kind that is signed, or it is not signed by that key.
    pub fn of_request(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > REQUEST_LIMIT {
            return Err(RequestError::TooLong(der.len()));
        }
        let malformed = |error: &dyn std::fmt::Display| RequestError::Malformed(error.to_string());
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|error| malformed(&error))?;
        if !rest.is_empty() {
            return Err(malformed(&"something follows it"));
        }
        let info = &request.certification_request_info;
        let key = &info.subject_pki;
        let signed_by = request.signature_algorithm.algorithm.to_id_string();
        let kind = key.algorithm.algorithm.to_id_string();
        let curve = || {
            let parameters = key.algorithm.parameters.as_ref()?;
            Some(parameters.as_oid().ok()?.to_id_string())
        };
        let (algorithm, verify): (_, Verify) = match (kind.as_str(), signed_by.as_str()) {
            (EC_KEY, ECDSA_SHA256) if curve().as_deref() == Some(P256) => {
                (&rcgen::PKCS_ECDSA_P256_SHA256, verify::ECDSA_P256_SHA256)
            }
            (ED25519, ED25519) => (&rcgen::PKCS_ED25519, verify::ED25519),
            (RSA_KEY, RSA_SHA256) => {
                let bits = match key.parsed().map_err(|error| malformed(&error))? {
                    Parsed::RSA(key) => key.key_size(),
                    _ => 0,
                };
                if bits < RSA_BITS_MINIMUM {
                    return Err(RequestError::Short(bits));
                }
                (&rcgen::PKCS_RSA_SHA256, verify::RSA_PKCS1_2048_8192_SHA256)
            }
            _ => {
                let curve = curve().map(|curve| format!(" {curve}")).unwrap_or_default();
                return Err(RequestError::Kind(format!(
                    "{kind}{curve}, signed with {signed_by}"
                )));
            }
        };
        let bits = key.subject_public_key.data.to_vec();
        verify
            .verify_signature(&bits, info.raw, &request.signature_value.data)
            .map_err(|_| RequestError::NoPossession)?;
        Ok(Self { bits, algorithm })
    }

    /// The key's bits, for telling one key from another.
    #[must_use]
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}
