//! How somebody without a certificate comes to the first one: a join token for one node, or the join
//! file that control leaves for its own user. Both say by its fingerprint whom to ask, so that the
//! secret is told to nobody else. As text they are one line; nothing prints them but control.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{SpiffeId, TrustDomain};

/// What a token begins with, so that people and scanners of secrets know it.
const TOKEN: &str = "sidelane-token-1.";
/// The same of a join file.
const JOIN: &str = "sidelane-join-1.";
/// The longest text that is read, in bytes.
pub const TOKEN_LIMIT: usize = 8 << 10;
/// Bytes at the end by which a text that was cut or mistyped is told from a whole one.
const CHECK: usize = 4;

/// Why a text is no token. Says nothing of what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It begins otherwise.
    #[error("it does not begin with {0}, as one does")]
    Other(&'static str),
    /// Cut, mistyped, or too long.
    #[error("it is cut off or has a wrong letter in it; take it as it was printed, in one line")]
    Broken,
}

/// Whom to ask: control, as it is known before there is a certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// SHA-256 of the root's certificate.
    pub root: [u8; 32],
    /// The trust domain.
    pub trust_domain: TrustDomain,
}

/// A token as it was given, not read yet. Nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenText(Zeroizing<String>);

impl TokenText {
    /// Takes it over.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// Reads it.
    ///
    /// # Errors
    /// As [`JoinToken::parse`].
    pub fn parse(&self) -> Result<JoinToken, TokenError> {
        JoinToken::parse(&self.0)
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenText")
    }
}

/// The right of one node to its first certificate. Has no `Debug`.
pub struct JoinToken {
    /// Whom to ask.
    pub authority: Authority,
    /// The node.
    pub node: String,
    /// What it gets.
    pub identity: SpiffeId,
    /// Until when, in seconds since 1970.
    pub expires: u64,
    /// What proves the right.
    pub secret: Zeroizing<[u8; 32]>,
}

/// The right of control's own user. Has no `Debug`.
pub struct JoinFile {
    /// Whom to ask.
    pub authority: Authority,
    /// What proves the right.
    pub secret: Zeroizing<[u8; 32]>,
}

impl JoinToken {
    /// As it is printed.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = head(&self.authority, &self.secret);
        bytes.extend(self.expires.to_be_bytes());
        put(&mut bytes, &self.node);
        put(&mut bytes, self.identity.as_str());
        text(TOKEN, bytes)
    }

    /// Reads one; space around it does not matter.
    ///
    /// # Errors
    /// It is none, or not whole.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let bytes = whole(TOKEN, text)?;
        let mut rest = bytes.as_slice();
        let token = (|| {
            let (authority, secret) = take_head(&mut rest)?;
            let expires = u64::from_be_bytes(take(&mut rest, 8)?.try_into().ok()?);
            let node = take_text(&mut rest)?;
            let identity = SpiffeId::new(&take_text(&mut rest)?).ok()?;
            Some(Self {
                authority,
                node,
                identity,
                expires,
                secret,
            })
        })();
        token.filter(|_| rest.is_empty()).ok_or(TokenError::Broken)
    }
}

impl JoinFile {
    /// As it is written.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        text(JOIN, head(&self.authority, &self.secret))
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is none, or not whole.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let bytes = whole(JOIN, text)?;
        let mut rest = bytes.as_slice();
        let head = take_head(&mut rest).filter(|_| rest.is_empty());
        let (authority, secret) = head.ok_or(TokenError::Broken)?;
        Ok(Self { authority, secret })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} with root ", self.trust_domain)?;
        let begin = self.root.iter().take(8);
        begin
            .into_iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

fn head(authority: &Authority, secret: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    // As much room as any token takes, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(TOKEN_LIMIT));
    bytes.extend(authority.root);
    bytes.extend(secret);
    put(&mut bytes, authority.trust_domain.as_str());
    bytes
}

fn take_head(rest: &mut &[u8]) -> Option<(Authority, Zeroizing<[u8; 32]>)> {
    let root = take(rest, 32)?.try_into().ok()?;
    let secret = Zeroizing::new(take(rest, 32)?.try_into().ok()?);
    let trust_domain = TrustDomain::new(&take_text(rest)?).ok()?;
    Some((Authority { root, trust_domain }, secret))
}

fn put(bytes: &mut Vec<u8>, text: &str) {
    // No name here is longer than 2,048 bytes.
    bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(text.as_bytes());
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, more) = rest.split_at_checked(length)?;
    *rest = more;
    Some(taken)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = u16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
    String::from_utf8(take(rest, length.into())?.to_vec()).ok()
}

fn text(kind: &str, mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<String> {
    let check = Sha256::digest(&*bytes);
    bytes.extend(&check[..CHECK]);
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes));
    let mut text = Zeroizing::new(String::with_capacity(kind.len() + encoded.len()));
    text.push_str(kind);
    text.push_str(&encoded);
    text
}

fn whole(kind: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    let text = text.trim();
    let encoded = text.strip_prefix(kind).ok_or(TokenError::Other(kind))?;
    if text.len() > TOKEN_LIMIT {
        return Err(TokenError::Broken);
    }
    let bytes = URL_SAFE_NO_PAD.decode(encoded);
    let mut bytes = Zeroizing::new(bytes.map_err(|_| TokenError::Broken)?);
    let length = bytes.len().checked_sub(CHECK).ok_or(TokenError::Broken)?;
    let check = Sha256::digest(&bytes[..length]);
    if bytes[length..] != check[..CHECK] {
        return Err(TokenError::Broken);
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            authority: Authority {
                root: [1; 32],
                trust_domain: TrustDomain::new("mesh.example").unwrap(),
            },
            node: "orders-1".to_owned(),
            identity: SpiffeId::new("spiffe://mesh.example/ns/shop/sa/orders").unwrap(),
            expires: 1_800_000_000,
            secret: Zeroizing::new([2; 32]),
        }
    }

    #[test]
    fn a_token_comes_out_as_it_went_in() {
        let text = token().to_text();
        let read = JoinToken::parse(&format!(" {}\n", &*text)).unwrap_or_else(|_| panic!());
        assert_eq!(read.node, "orders-1");
        assert_eq!(read.expires, 1_800_000_000);
        assert_eq!(read.identity, token().identity);
        assert!(read.authority == token().authority && read.secret == token().secret);
        let JoinToken {
            authority, secret, ..
        } = token();
        let file = JoinFile { authority, secret };
        let read = JoinFile::parse(&file.to_text()).unwrap_or_else(|_| panic!());
        assert!(read.secret == file.secret && read.authority == file.authority);
        assert_eq!(JoinFile::parse(&text).err(), Some(TokenError::Other(JOIN)));
    }

    #[test]
    fn a_text_that_is_not_whole_is_told() {
        let text = token().to_text();
        for length in TOKEN.len()..text.len() {
            let cut = JoinToken::parse(&text[..length]).err();
            assert_eq!(cut, Some(TokenError::Broken), "{length}");
        }
        let mistyped = text.replacen('A', "B", 1);
        assert_eq!(JoinToken::parse(&mistyped).err(), Some(TokenError::Broken));
        let long = format!("{TOKEN}{}", "A".repeat(TOKEN_LIMIT));
        assert_eq!(JoinToken::parse(&long).err(), Some(TokenError::Broken));
        assert_eq!(
            JoinToken::parse("hello").err(),
            Some(TokenError::Other(TOKEN))
        );
    }
}
