//! The gRPC path of a call, `/pkg.Service/Method`. It is checked before anything is looked up by
//! it, so that no later stage sees a path that no proto could have made.

use super::name::{SERVICE_NAME_LIMIT, is_identifier, is_service};

/// The longest method name, in bytes.
pub const METHOD_NAME_LIMIT: usize = 255;

/// A path that is well-formed, borrowed from the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallPath<'a> {
    /// `pkg.Service`.
    pub service: &'a str,
    /// `Method`.
    pub method: &'a str,
}

/// Why a path is no gRPC path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing there.
    #[error("the path is empty")]
    Empty,
    /// Relative, or an asterisk.
    #[error("the path does not begin with `/`")]
    NoLeadingSlash,
    /// Longer than any service and method name together.
    #[error("the path is longer than {} bytes", SERVICE_NAME_LIMIT + METHOD_NAME_LIMIT + 2)]
    TooLong,
    /// Bytes that no protobuf name has.
    #[error("the path has characters that no protobuf name has (letters, digits, `_` and `.`)")]
    BadCharacter,
    /// Percent signs: a gRPC path is never encoded.
    #[error("the path is percent-encoded, a gRPC path never is")]
    PercentEncoded,
    /// Not exactly one service and one method.
    #[error("the path does not have the form `/package.Service/Method`")]
    WrongForm,
}

impl<'a> CallPath<'a> {
    /// Reads a path.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(path: &'a str) -> Result<Self, PathError> {
        if path.is_empty() {
            return Err(PathError::Empty);
        }
        if path.len() > SERVICE_NAME_LIMIT + METHOD_NAME_LIMIT + 2 {
            return Err(PathError::TooLong);
        }
        let rest = path.strip_prefix('/').ok_or(PathError::NoLeadingSlash)?;
        let (service, method) = rest.split_once('/').ok_or_else(|| wrong(rest))?;
        if is_service(service) && is_identifier(method) {
            if service.len() > SERVICE_NAME_LIMIT || method.len() > METHOD_NAME_LIMIT {
                return Err(PathError::TooLong);
            }
            return Ok(Self { service, method });
        }
        Err(wrong(rest))
    }

    /// Could this be the name of a method?
    #[must_use]
    pub fn is_method(name: &str) -> bool {
        name.len() <= METHOD_NAME_LIMIT && is_identifier(name)
    }
}

/// Names the reason of a refusal; only ever called on the way out.
fn wrong(rest: &str) -> PathError {
    if rest.contains('%') {
        PathError::PercentEncoded
    } else if rest
        .bytes()
        .any(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'_' | b'.' | b'/'))
    {
        PathError::BadCharacter
    } else {
        PathError::WrongForm
    }
}
