//! A quick hash for maps with a bound, which are asked on the way of each call: a multiplication for
//! each eight bytes, where the standard library's takes ten times as long to be safe with keys that
//! a stranger makes up without an end. It begins with a number of this process's own, so that what
//! collides here does not collide elsewhere.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

/// Odd, and without a pattern: the golden ratio's first 64 bits.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0_u8));

/// Makes [`Quick`] hashers, all of one process alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuickState(u64);

/// Hashes one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quick(u64);

impl Default for QuickState {
    fn default() -> Self {
        Self(*SEED)
    }
}

impl BuildHasher for QuickState {
    type Hasher = Quick;

    fn build_hasher(&self) -> Quick {
        Quick(self.0)
    }
}

impl Quick {
    fn add(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        // Both halves: each bit of the word moves bits of either.
        let (low, high) = (product & u128::from(u64::MAX), product >> 64);
        self.0 = u64::try_from(low ^ high)
            .unwrap_or_default()
            .rotate_left(23);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.add(u64::from_le_bytes(last));
        }
        // So that zeros at the end count.
        self.add(bytes.len() as u64);
    }

    fn write_u8(&mut self, number: u8) {
        self.add(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.add(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.add(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn of(key: &[u8]) -> u64 {
        let mut hasher = QuickState::default().build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    #[test]
    fn keys_that_differ_a_little_spread_over_all_places() {
        let names: Vec<String> = (0..10_000)
            .map(|number| format!("orders-{number}"))
            .collect();
        let hashes: HashSet<u64> = names.iter().map(|name| of(name.as_bytes())).collect();
        assert_eq!(hashes.len(), names.len());
        // Maps look at the lowest bits for the place, and at the highest for who is there.
        for shift in [0, 57] {
            let mut places = [0_u32; 128];
            for hash in &hashes {
                places[usize::try_from((hash >> shift) & 127).unwrap()] += 1;
            }
            let (least, most) = (places.iter().min().unwrap(), places.iter().max().unwrap());
            assert!((30..=150).contains(least), "{least} of 78 at {shift}");
            assert!((30..=150).contains(most), "{most} of 78 at {shift}");
        }
    }

    #[test]
    fn zeros_at_the_end_and_where_a_key_is_cut_count() {
        let all: [&[u8]; 6] = [b"", b"\0", b"\0\0", b"12345678", b"12345678\0", b"1234567"];
        let hashes: HashSet<u64> = all.iter().map(|key| of(key)).collect();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn the_same_key_is_the_same_in_every_map() {
        assert_eq!(of(b"orders-1"), of(b"orders-1"));
    }
}
