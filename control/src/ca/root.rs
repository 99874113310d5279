//! One root of trust: a P-256 key and its own certificate, which signs leaves and nothing else. A
//! root is made here and never leaves the store; what travels is its certificate.

use std::fmt;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest, Sha256};
use sidelane_proto::model::{Identity, NodeId};

use super::UnixSeconds;
use super::request::PublicKey;

/// A root's life, unless something else is asked for: ten years.
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
/// Certificates begin this long before they are made, for clocks that are behind. Longer than a
/// leaf's own life it is never.
pub const BACKDATED: Duration = Duration::from_secs(60);

/// A certificate's number: 16 random bytes, of which the first bit is 0 and the second is 1, so that
/// it is a positive number of 16 bytes (RFC 5280 §4.1.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(pub [u8; 16]);

/// A root and its private key.
pub struct Root {
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    not_after: UnixSeconds,
}

/// What stands in a leaf.
#[derive(Debug, Clone)]
pub struct LeafTerms<'a> {
    /// Whose it is: the one URI name.
    pub identity: &'a Identity,
    /// The node, in the subject's common name.
    pub node: &'a NodeId,
    /// The number.
    pub serial: Serial,
    /// The present.
    pub now: UnixSeconds,
    /// How long it holds from now.
    pub life: Duration,
}

/// A certificate that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// DER.
    pub certificate: Vec<u8>,
    /// Its number.
    pub serial: Serial,
    /// Its end.
    pub not_after: UnixSeconds,
}

/// Nothing could be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The root has ended.
    #[error("control's root ended {ago} s ago; make a new one with `sidelane root rotate`")]
    RootEnded {
        /// Since when.
        ago: UnixSeconds,
    },
    /// The library says no.
    #[error("the certificate cannot be made: {0}")]
    Made(#[from] rcgen::Error),
    /// Something in it cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Read(String),
}

impl Root {
    /// Makes one. `random` comes from the system's generator.
    ///
    /// # Errors
    /// The library says no.
    pub fn make(
        trust_domain: &str,
        now: UnixSeconds,
        life: Duration,
        random: [u8; 16],
    ) -> Result<Self, SignError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let serial = Serial::from_random(random);
        let not_after = now + life.as_secs();
        let mut parameters = parameters(&root_name(trust_domain, &key));
        parameters.serial_number = Some(SerialNumber::from_slice(&serial.0));
        let from = now.saturating_sub(BACKDATED.as_secs());
        valid(&mut parameters, from, not_after);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        let certificate = parameters.self_signed(&key)?.der().to_vec();
        let issuer = Issuer::new(parameters, key);
        Ok(Self {
            certificate,
            issuer,
            not_after,
        })
    }

    /// One that was kept.
    ///
    /// # Errors
    /// What is wrong with what was kept.
    pub fn restore(
        certificate: Vec<u8>,
        key: &[u8],
        trust_domain: &str,
    ) -> Result<Self, SignError> {
        let unreadable = |error: &dyn fmt::Display| SignError::Read(error.to_string());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(key),
            &PKCS_ECDSA_P256_SHA256,
        )?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| unreadable(&error))?;
        let own = key.public_key_raw() == &*parsed.public_key().subject_public_key.data;
        let name = root_name(trust_domain, &key);
        let named = parsed.subject().iter_common_name().next();
        if !own || named.and_then(|name| name.as_str().ok()) != Some(name.as_str()) {
            return Err(unreadable(
                &"its key, or its trust domain, is not the kept one's",
            ));
        }
        let not_after = u64::try_from(parsed.validity().not_after.timestamp())
            .map_err(|error| unreadable(&error))?;
        let issuer = Issuer::new(parameters(&name), key);
        Ok(Self {
            certificate,
            issuer,
            not_after,
        })
    }

    /// Its own certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its private key, PKCS#8: for the store only.
    pub(super) fn key(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// Its end.
    #[must_use]
    pub fn not_after(&self) -> UnixSeconds {
        self.not_after
    }

    /// SHA-256 of its certificate: by this a token says which control it is for.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    /// Signs a leaf. It never holds longer than the root.
    ///
    /// # Errors
    /// The root has ended.
    pub fn sign(&self, key: &PublicKey, terms: &LeafTerms<'_>) -> Result<Leaf, SignError> {
        if terms.now >= self.not_after {
            let ago = terms.now - self.not_after;
            return Err(SignError::RootEnded { ago });
        }
        let not_after = (terms.now + terms.life.as_secs()).min(self.not_after);
        let before = BACKDATED.min(terms.life).as_secs();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name(terms.node.as_str());
        parameters.serial_number = Some(SerialNumber::from_slice(&terms.serial.0));
        let from = terms.now.saturating_sub(before);
        valid(&mut parameters, from, not_after);
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        parameters.subject_alt_names = vec![uri(terms.identity.as_str())?];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(key, &self.issuer)?.der().to_vec();
        Ok(Leaf {
            certificate,
            serial: terms.serial,
            not_after,
        })
    }
}

/// When a leaf of these times was signed: [`BACKDATED`] after its beginning, or half of its time where
/// its life is shorter than that. Of one that its root's end cut off, a little early.
#[must_use]
pub fn signed_at(not_before: UnixSeconds, not_after: UnixSeconds) -> UnixSeconds {
    let half = not_after.saturating_sub(not_before) / 2;
    not_before + BACKDATED.as_secs().min(half)
}

impl Serial {
    /// Makes a number of random bytes.
    #[must_use]
    pub fn from_random(mut random: [u8; 16]) -> Self {
        random[0] = random[0] & 0x7f | 0x40;
        Self(random)
    }

    /// Reads a number as people write it: 32 hexadecimal digits, colons allowed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let mut serial = [0; 16];
        if digits.len() != 2 * serial.len() {
            return None;
        }
        for (byte, pair) in serial.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Self(serial))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Root")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Two roots of one mesh must have different names, or a verifier that looks for an issuer by name
/// would find the wrong one: a part of the key is in it.
fn root_name(trust_domain: &str, key: &KeyPair) -> String {
    let digest = Sha256::digest(key.public_key_raw());
    let part: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{trust_domain} root {part}")
}

fn parameters(common_name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = name(common_name);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(Ia5String::try_from(text)?))
}

fn valid(parameters: &mut CertificateParams, from: UnixSeconds, until: UnixSeconds) {
    let beginning = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = beginning + Duration::from_secs(from);
    parameters.not_after = beginning + Duration::from_secs(until);
}
