//! Certificates that follow each other in DER, without anything between them, as the SPIFFE Workload
//! API sends them.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why bytes are no certificates one after the other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DerError {
    /// There is none.
    #[error("there is no certificate")]
    Missing,
    /// One is none, or broken off.
    #[error("certificate {place} is none, or broken off")]
    Broken {
        /// Which one, counted from 1.
        place: usize,
    },
    /// More than any that is meant.
    #[error("there are more than {limit} certificates")]
    TooMany {
        /// The most.
        limit: usize,
    },
}

/// Takes them apart, at most `limit` of them.
///
/// # Errors
/// There is none, one is broken, or there are too many.
pub fn certificates(
    mut bytes: &[u8],
    limit: usize,
) -> Result<Vec<CertificateDer<'static>>, DerError> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let place = found.len() + 1;
        if place > limit {
            return Err(DerError::TooMany { limit });
        }
        let (rest, _) = X509Certificate::from_der(bytes).map_err(|_| DerError::Broken { place })?;
        let one = &bytes[..bytes.len() - rest.len()];
        found.push(CertificateDer::from(one.to_vec()));
        bytes = rest;
    }
    if found.is_empty() {
        return Err(DerError::Missing);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::default().self_signed(&key);
        made.unwrap().der().to_vec()
    }

    #[test]
    fn certificates_are_told_apart_and_what_is_none_is_refused_by_its_place() {
        let (first, second) = (one(), one());
        let both = [first.clone(), second.clone()].concat();
        let found = certificates(&both, 2).unwrap();
        assert_eq!((found[0].as_ref(), found[1].as_ref()), (&*first, &*second));
        assert_eq!(certificates(&[], 2), Err(DerError::Missing));
        let many = certificates(&both, 1);
        assert_eq!(many, Err(DerError::TooMany { limit: 1 }));
        let cut = certificates(&both[..both.len() - 1], 2);
        assert_eq!(cut, Err(DerError::Broken { place: 2 }));
        let garbage = certificates(b"garbage", 2);
        assert_eq!(garbage, Err(DerError::Broken { place: 1 }));
    }
}
