//! By which roots somebody knows control. While a new root takes over, some know the old one alone and
//! some the new one alone, so control holds a certificate under each, and whoever dials it names the
//! roots that they believe: in the extension `certificate_authorities` (RFC 8446 §4.2.4), by a name
//! that holds the fingerprint, since a token knows nothing else of its root.

use rustls::DistinguishedName;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::svid::Svid;

/// 2.5.4.3, a common name, DER.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
/// `UTF8String`, `SET` and `SEQUENCE` of DER.
const UTF8: u8 = 0x0c;
const SET: u8 = 0x31;
const SEQUENCE: u8 = 0x30;

/// The name of a root with this fingerprint, SHA-256 of its certificate.
pub(crate) fn name(fingerprint: &[u8; 32]) -> DistinguishedName {
    let digits: String = fingerprint
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let attribute = [&COMMON_NAME[..], &wrapped(UTF8, digits.as_bytes())].concat();
    let set = wrapped(SET, &wrapped(SEQUENCE, &attribute));
    DistinguishedName::from(wrapped(SEQUENCE, &set))
}

/// The names of these roots.
pub(crate) fn names(roots: &[CertificateDer<'_>]) -> Vec<DistinguishedName> {
    let fingerprints = roots.iter().map(|root| Sha256::digest(root).into());
    fingerprints.map(|fingerprint| name(&fingerprint)).collect()
}

/// The first of these certificates whose chain has one of the named roots. Who names none that is known
/// here gets the last of the first so many, the oldest that peers believe: those behind it are for who
/// was away, and who was away says by which root.
pub(crate) fn chosen<'a>(
    svids: &[&'a Svid],
    believed: usize,
    named: &[DistinguishedName],
) -> Option<&'a Svid> {
    let fits = |svid: &&&Svid| {
        let above = svid.chain().get(1..).unwrap_or_default();
        let own = names(above);
        named
            .iter()
            .any(|named| own.iter().any(|own| own.as_ref() == named.as_ref()))
    };
    let oldest = svids.get(..believed).and_then(<[_]>::last);
    svids.iter().find(fits).or(oldest).copied()
}

/// Tag, length and content; all of it is shorter than 128 bytes.
fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    [&[tag, length], content].concat()
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, X509Name};

    use super::*;

    #[test]
    fn a_name_is_one_that_anybody_can_read() {
        let named = name(&[0xab; 32]);
        let (rest, read) = X509Name::from_der(named.as_ref()).unwrap();
        assert!(rest.is_empty());
        let common = read.iter_common_name().next().unwrap();
        assert_eq!(common.as_str().unwrap(), "ab".repeat(32));
    }
}
