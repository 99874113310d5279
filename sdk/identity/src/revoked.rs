//! What is no longer believed although it has not ended: certificates by serial number or by
//! fingerprint, and whole identities.

use std::collections::HashSet;
use std::fmt;

use crate::SpiffeId;

/// Entries at most. They may go once the certificates that they name have ended.
pub const REVOKED_LIMIT: usize = 10_000;

/// There are too many entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a list of revocations has at most {REVOKED_LIMIT} entries; this would be one more")]
pub struct RevokedError;

/// A certificate's serial number, big-endian, without leading zeros; 0 has no bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// From big-endian bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes[zeros..].into())
    }

    /// From hexadecimal digits, with or without colons, as [`fmt::Display`] writes them.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        if digits.is_empty() || !digits.len().is_multiple_of(2) {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let bytes = digits
            .chunks(2)
            .map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok());
        Some(Self::new(&bytes.collect::<Option<Vec<u8>>>()?))
    }

    /// The bytes, big-endian.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("00");
        }
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Revocations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    serials: HashSet<Serial>,
    fingerprints: HashSet<[u8; 32]>,
    identities: HashSet<SpiffeId>,
}

impl Revoked {
    /// Revokes the certificate of this serial number.
    ///
    /// # Errors
    /// The list is full.
    pub fn serial(&mut self, serial: Serial) -> Result<(), RevokedError> {
        self.room(self.serials.contains(&serial))?;
        self.serials.insert(serial);
        Ok(())
    }

    /// Revokes the certificate of this SHA-256.
    ///
    /// # Errors
    /// The list is full.
    pub fn fingerprint(&mut self, sha256: [u8; 32]) -> Result<(), RevokedError> {
        self.room(self.fingerprints.contains(&sha256))?;
        self.fingerprints.insert(sha256);
        Ok(())
    }

    /// Revokes every certificate of this identity.
    ///
    /// # Errors
    /// The list is full.
    pub fn identity(&mut self, id: SpiffeId) -> Result<(), RevokedError> {
        self.room(self.identities.contains(&id))?;
        self.identities.insert(id);
        Ok(())
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.serials.len() + self.fingerprints.len() + self.identities.len()
    }

    /// Is nothing revoked?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is this certificate revoked, or everything of its identity?
    #[must_use]
    pub fn names(&self, id: &SpiffeId, serial: &Serial, sha256: &[u8; 32]) -> bool {
        self.serials.contains(serial)
            || self.fingerprints.contains(sha256)
            || self.identities.contains(id)
    }

    fn room(&self, known: bool) -> Result<(), RevokedError> {
        if known || self.len() < REVOKED_LIMIT {
            Ok(())
        } else {
            Err(RevokedError)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_compared_as_numbers() {
        let serial = Serial::new(&[0, 0, 0x8a, 1]);
        assert_eq!(serial, Serial::new(&[0x8a, 1]));
        assert_eq!(serial.to_string(), "8a01");
        assert_eq!(Serial::from_hex("00:8A:01"), Some(serial.clone()));
        assert_eq!(Serial::from_hex("8a01"), Some(serial));
        let zero = Serial::new(&[0]);
        assert_eq!(Serial::from_hex(&zero.to_string()), Some(zero));
        for text in ["", "8", "8x", "::", "8a 1"] {
            assert_eq!(Serial::from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn the_list_is_bounded() {
        let mut revoked = Revoked::default();
        let id = SpiffeId::new("spiffe://a/b").unwrap();
        revoked.identity(id.clone()).unwrap();
        revoked.fingerprint([7; 32]).unwrap();
        for number in 2..REVOKED_LIMIT {
            revoked.serial(Serial::new(&number.to_be_bytes())).unwrap();
        }
        assert_eq!(revoked.len(), REVOKED_LIMIT);
        assert_eq!(revoked.serial(Serial::new(&[1])), Err(RevokedError));
        assert_eq!(revoked.fingerprint([8; 32]), Err(RevokedError));
        assert_eq!(revoked.identity(id.clone()), Ok(()));
        let other = SpiffeId::new("spiffe://a/c").unwrap();
        assert_eq!(revoked.identity(other.clone()), Err(RevokedError));
        let serial = Serial::new(&[1]);
        assert!(revoked.names(&id, &serial, &[0; 32]));
        assert!(revoked.names(&other, &Serial::new(&[2]), &[0; 32]));
        assert!(revoked.names(&other, &serial, &[7; 32]));
        assert!(!revoked.names(&other, &serial, &[0; 32]));
    }
}
