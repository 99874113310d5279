//! The key that keeps calls together on one endpoint, as the header `sidelane-hash` carries it. The
//! text is the same whatever language a caller is written in; what it hashes to is the sidecars'
//! business.

use std::fmt;

use tonic::metadata::{Ascii, MetadataValue};

/// The longest key that is carried as it is, in bytes of the header.
pub const HASH_KEY_LIMIT: usize = 256;
/// The header that carries it.
pub(super) const HASH_HEADER: &str = "sidelane-hash";
/// What is kept of a longer key: room for a separator and 16 hexadecimal digits is left.
const KEPT: usize = HASH_KEY_LIMIT - 17;

/// A key as it is carried.
///
/// - An integer or an enum's number is its decimal text, a `bool` is `true` or `false`.
/// - Text is its UTF-8, bytes are themselves. Every byte that is not visible ASCII, and `%`, is
///   written as `%` and two upper-case hexadecimal digits.
/// - What is longer than [`HASH_KEY_LIMIT`] then is cut after 239 bytes, and `~` and the FNV-1a
///   hash (64 bits, 16 lower-case hexadecimal digits) of the whole follow.
/// - An empty text and an absent field are no key: the sidecar takes the caller's node instead.
///
/// ```
/// use sidelane::sender::HashKey;
///
/// assert_eq!(HashKey::of(&-7_i64).unwrap().as_str(), "-7");
/// assert_eq!(HashKey::of("müller 7").unwrap().as_str(), "m%C3%BCller%207");
/// assert_eq!(HashKey::of(""), None);
///
/// # let order = String::from("a-1");
/// let mut request = tonic::Request::new(());
/// HashKey::of(&order).unwrap().put(&mut request);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HashKey(String);

/// A field that calls can be kept together by.
pub trait KeyField {
    /// The key that its value makes; `None` where there is none.
    fn key(&self) -> Option<HashKey>;
}

impl HashKey {
    /// The key of a value; `None` for an empty text and for what is absent.
    #[must_use]
    pub fn of<T: KeyField + ?Sized>(value: &T) -> Option<Self> {
        value.key()
    }

    /// The text of the header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Puts it on a request, instead of what may be there.
    pub fn put<T>(&self, request: &mut tonic::Request<T>) {
        // Visible ASCII is always a value.
        if let Ok(value) = MetadataValue::<Ascii>::try_from(self.as_str()) {
            request.metadata_mut().insert(HASH_HEADER, value);
        }
    }

    fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        let mut text = String::with_capacity(bytes.len());
        for byte in bytes {
            if byte.is_ascii_graphic() && *byte != b'%' {
                text.push(char::from(*byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
        if text.len() > HASH_KEY_LIMIT {
            let whole = fnv(text.as_bytes());
            text.truncate(KEPT);
            text.push_str(&format!("~{whole:016x}"));
        }
        Some(Self(text))
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold)
}

impl KeyField for str {
    fn key(&self) -> Option<HashKey> {
        HashKey::new(self.as_bytes())
    }
}

impl KeyField for String {
    fn key(&self) -> Option<HashKey> {
        self.as_str().key()
    }
}

impl KeyField for [u8] {
    fn key(&self) -> Option<HashKey> {
        HashKey::new(self)
    }
}

impl KeyField for Vec<u8> {
    fn key(&self) -> Option<HashKey> {
        self.as_slice().key()
    }
}

impl KeyField for bytes::Bytes {
    fn key(&self) -> Option<HashKey> {
        HashKey::new(self)
    }
}

impl<T: KeyField> KeyField for Option<T> {
    fn key(&self) -> Option<HashKey> {
        self.as_ref().and_then(T::key)
    }
}

impl<T: KeyField + ?Sized> KeyField for &T {
    fn key(&self) -> Option<HashKey> {
        T::key(self)
    }
}

macro_rules! by_text {
    ($($type:ty),*) => {$(
        impl KeyField for $type {
            fn key(&self) -> Option<HashKey> {
                Some(HashKey(self.to_string()))
            }
        }
    )*};
}

by_text!(bool, i32, i64, u32, u64);

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: KeyField + ?Sized>(value: &T) -> Option<String> {
        HashKey::of(value).map(|key| key.as_str().to_owned())
    }

    #[test]
    fn values_have_the_text_that_is_written_down() {
        for (given, expected) in [
            (text(&0_u64), "0"),
            (text(&u64::MAX), "18446744073709551615"),
            (text(&i64::MIN), "-9223372036854775808"),
            (text(&-1_i32), "-1"),
            (text(&true), "true"),
            (text("orders/7~a"), "orders/7~a"),
            (text("50%\n"), "50%25%0A"),
            (text(&Some("ü".to_owned())), "%C3%BC"),
            (text(&vec![0_u8, 255]), "%00%FF"),
            (text(&bytes::Bytes::from_static(b"b")), "b"),
        ] {
            assert_eq!(given.as_deref(), Some(expected));
        }
        assert_eq!(
            (text(""), text(&None::<u64>), text(&Vec::new())),
            (None, None, None)
        );
    }

    #[test]
    fn a_long_key_is_cut_and_still_told_apart() {
        let most = "x".repeat(HASH_KEY_LIMIT);
        assert_eq!(text(&most), Some(most.clone()));
        let (long, other) = (format!("{most}1"), format!("{most}2"));
        let keys = [text(&long).unwrap(), text(&other).unwrap()];
        assert!(keys.iter().all(|key| key.len() == HASH_KEY_LIMIT));
        assert!(keys.iter().all(|key| key.starts_with(&"x".repeat(239))));
        assert_eq!(keys[0][239..], format!("~{:016x}", fnv(long.as_bytes())));
        assert_ne!(keys[0], keys[1]);
        // The vector of the hash's authors.
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_key_stands_on_the_request_once() {
        let mut request = tonic::Request::new(());
        HashKey::of(&1_u32).unwrap().put(&mut request);
        HashKey::of("ü").unwrap().put(&mut request);
        let values: Vec<_> = request.metadata().get_all(HASH_HEADER).iter().collect();
        assert_eq!(values, ["%C3%BC"]);
    }
}
