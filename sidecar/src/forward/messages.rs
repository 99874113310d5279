//! Follows the messages of a request by their prefixes (gRPC over HTTP/2, "Length-Prefixed-Message"),
//! to count them, and for those whose size has a bound. Nothing is decoded or held: a message that is
//! too large is known by its first five bytes.

use crate::telemetry::Carried;

/// How long a prefix is, in bytes: one that says whether it is compressed, and the length.
const PREFIX: u8 = 5;

/// A message that is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of the request has {size} bytes, and at most {limit} are taken from outside")]
pub struct TooLarge {
    /// Its size as it travels, in bytes.
    pub size: u32,
    /// The bound.
    pub limit: u32,
}

/// Where in its messages a request is.
#[derive(Debug)]
pub(super) struct Messages {
    limit: u32,
    /// Bytes of a prefix that were read.
    prefix: u8,
    /// The length, as far as it was read; then what is left of the message.
    left: u32,
    /// All that was read, and what of it was whole.
    carried: Carried,
}

impl Default for Messages {
    /// Of any size.
    fn default() -> Self {
        Self::up_to(u32::MAX)
    }
}

impl Messages {
    pub(super) fn up_to(limit: u32) -> Self {
        Self {
            limit,
            prefix: 0,
            left: 0,
            carried: Carried::default(),
        }
    }

    /// What has come so far.
    pub(super) const fn carried(&self) -> Carried {
        self.carried
    }

    /// Takes in the next bytes.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), TooLarge> {
        self.carried.bytes += bytes.len() as u64;
        while let Some((first, rest)) = bytes.split_first() {
            if self.prefix == PREFIX {
                let skip = bytes.len().min(self.left as usize);
                // At most what is left, so it fits.
                self.left -= u32::try_from(skip).unwrap_or(self.left);
                bytes = &bytes[skip..];
                self.whole();
            } else if self.prefix == 0
                && let Some(([_, length @ ..], rest)) = bytes.split_first_chunk::<5>()
            {
                // Nearly always a prefix comes in one piece.
                self.left = u32::from_be_bytes(*length);
                bytes = rest;
                self.begun()?;
            } else {
                if self.prefix > 0 {
                    self.left = (self.left << 8) | u32::from(*first);
                }
                self.prefix += 1;
                bytes = rest;
                if self.prefix == PREFIX {
                    self.begun()?;
                }
            }
        }
        Ok(())
    }

    /// A prefix was read.
    fn begun(&mut self) -> Result<(), TooLarge> {
        self.prefix = PREFIX;
        if self.left > self.limit {
            let (size, limit) = (self.left, self.limit);
            return Err(TooLarge { size, limit });
        }
        self.whole();
        Ok(())
    }

    /// If nothing is left of the message, it was read.
    fn whole(&mut self) {
        if self.left == 0 {
            self.prefix = 0;
            self.carried.messages += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(sizes: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for size in sizes {
            bytes.push(0);
            bytes.extend(size.to_be_bytes());
            bytes.extend(vec![0xFF; *size as usize]);
        }
        bytes
    }

    proptest! {
        #[test]
        fn the_first_message_past_the_bound_is_found_however_it_is_cut(
            sizes in prop::collection::vec(0_u32..40, 0..12),
            cuts in prop::collection::vec(1_usize..20, 1..8),
        ) {
            let limit = 30;
            let mut messages = Messages::up_to(limit);
            let (bytes, mut cuts) = (framed(&sizes), cuts.iter().cycle());
            let mut rest = &bytes[..];
            let mut found = None;
            while !rest.is_empty() && found.is_none() {
                let (part, behind) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                found = messages.read(part).err();
                rest = behind;
            }
            let large = sizes.iter().find(|size| **size > limit);
            prop_assert_eq!(found, large.map(|size| TooLarge { size: *size, limit }));
            if found.is_none() {
                let (bytes, whole) = (bytes.len() as u64, sizes.len() as u64);
                prop_assert_eq!(messages.carried(), Carried { bytes, messages: whole });
            }
        }
    }
}
