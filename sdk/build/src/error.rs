//! What is wrong in `.proto` files, and where. All errors of a run are told at once, in the order
//! of the files, in the form that editors and terminals make links of.

use std::fmt;

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as the caller of the build knows it.
    pub file: String,
    /// Line and column, both from 1; `None` where the descriptors do not say.
    pub position: Option<(u32, u32)>,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.file)?;
        match self.position {
            Some((line, column)) => write!(formatter, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Error {
    /// Where; `None` where it is not about a file.
    pub place: Option<Place>,
    /// What is wrong, and what to try.
    pub message: String,
}

impl Error {
    /// An error that is not about a file.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            place: None,
            message: message.into(),
        }
    }

    /// An error in a file.
    pub fn at(place: Place, message: impl Into<String>) -> Self {
        Self {
            place: Some(place),
            message: message.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(formatter, "{place}: ")?;
        }
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Everything that is wrong, by file, line and column; never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Errors(Vec<Error>);

impl Errors {
    /// Nothing wrong is `Ok`.
    pub(crate) fn none_of(errors: Vec<Error>) -> Result<(), Self> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(Self::of(errors))
    }

    /// These errors, of which there is at least one.
    pub(crate) fn of(errors: impl IntoIterator<Item = Error>) -> Self {
        let mut errors: Vec<_> = errors.into_iter().collect();
        errors.sort();
        errors.dedup();
        Self(errors)
    }

    /// Each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Error> {
        self.0.iter()
    }
}

impl From<Error> for Errors {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{error}")?;
        }
        Ok(())
    }
}

/// As people read it: a build script that returns errors prints them so.
impl fmt::Debug for Errors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the routing rules cannot be built\n{self}")
    }
}

impl std::error::Error for Errors {}
