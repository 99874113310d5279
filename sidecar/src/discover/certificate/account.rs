//! A Kubernetes service account's token as the proof: the file that the cluster mounts into the pod,
//! and the roots by which control is known there, since such a token says nothing of control. Both are
//! read anew at each asking: the cluster replaces the token, and who rolls the mesh out the roots.

use std::io;
use std::path::{Path, PathBuf};

use sidelane_identity::{Bundle, BundleError};
use zeroize::Zeroizing;

/// The longest token that is read, in bytes. One has a kilobyte or two.
pub(super) const ACCOUNT_TOKEN_LIMIT: u64 = 16 << 10;
/// The longest file of roots, in bytes.
pub(super) const ROOTS_FILE_LIMIT: u64 = 256 << 10;

/// Where the two are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// The token, as the cluster mounts it.
    pub token: PathBuf,
    /// Control's roots, PEM.
    pub roots: PathBuf,
}

/// Why there is no token to show, or nobody to show it to. Says nothing of what stands in the token.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// A file cannot be read.
    #[error("{path}, which {flag} names, cannot be read: {source}", path = path.display())]
    Read {
        /// The setting.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is longer than any that is meant.
    #[error("{path}, which {flag} names, is longer than {limit} bytes", path = path.display())]
    TooLong {
        /// The setting.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit: u64,
    },
    /// There is no token in it.
    #[error(
        "{path} holds no service account's token: a token is one line of letters, digits and dots; \
         project one into the pod with `serviceAccountToken: {{ audience: sidelane }}`",
        path = path.display()
    )]
    NoToken {
        /// The file.
        path: PathBuf,
    },
    /// The roots are none.
    #[error("{path} does not say who control is: {error}", path = path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: BundleError,
    },
}

impl ServiceAccount {
    /// What both say now.
    ///
    /// # Errors
    /// One of them says nothing.
    pub(super) fn read(&self) -> Result<(Bundle, Zeroizing<String>), AccountError> {
        let roots = read("--control-roots", &self.roots, ROOTS_FILE_LIMIT)?;
        let bundle = Bundle::named(&roots).map_err(|error| AccountError::Roots {
            path: self.roots.clone(),
            error,
        })?;
        let bytes = read("--service-account-token", &self.token, ACCOUNT_TOKEN_LIMIT)?;
        let text = std::str::from_utf8(bytes.trim_ascii()).unwrap_or_default();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let path = self.token.clone();
            return Err(AccountError::NoToken { path });
        }
        Ok((bundle, Zeroizing::new(text.to_owned())))
    }
}

/// Reads a file that somebody else keeps. In a pod it is a link, and open to the pod's users.
fn read(flag: &'static str, path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, AccountError> {
    let unreadable = |source| AccountError::Read {
        flag,
        path: path.to_owned(),
        source,
    };
    let found = std::fs::metadata(path).map_err(unreadable)?;
    if !found.is_file() {
        // To open a pipe would be to wait for whoever writes to it.
        return Err(unreadable(io::Error::other("it is no plain file")));
    }
    if found.len() > limit {
        return Err(AccountError::TooLong {
            flag,
            path: path.to_owned(),
            limit,
        });
    }
    std::fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root of this trust domain, PEM.
    fn root(domain: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        if !domain.is_empty() {
            let uri = format!("spiffe://{domain}");
            params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        }
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn token_and_roots_are_read_anew_and_what_is_wrong_with_them_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let account = ServiceAccount {
            token: folder.path().join("token"),
            roots: folder.path().join("roots.pem"),
        };
        let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        let wrong = || account.read().expect_err("something is wrong");
        assert!(wrong().to_string().contains("--control-roots"));
        let (one, two) = (root("mesh.example"), root("mesh.example"));
        write(&account.roots, &format!("{one}{two}"));
        let missing = wrong().to_string();
        assert!(missing.contains("--service-account-token"), "{missing}");
        write(&account.token, "first.of.three\n");
        let (bundle, token) = account.read().ok().unwrap();
        assert_eq!(
            (bundle.roots().len(), token.as_str()),
            (2, "first.of.three")
        );
        assert_eq!(bundle.trust_domain().as_str(), "mesh.example");
        write(&account.token, "second.of.three");
        assert_eq!(account.read().ok().unwrap().1.as_str(), "second.of.three");

        for none in ["", " \n", "two words", "a\u{fc}b"] {
            write(&account.token, none);
            assert!(matches!(wrong(), AccountError::NoToken { .. }), "{none:?}");
            assert!(none.trim().is_empty() || !wrong().to_string().contains(none));
        }
        let limit = usize::try_from(ACCOUNT_TOKEN_LIMIT).unwrap();
        write(&account.token, &"a".repeat(limit));
        assert_eq!(account.read().ok().unwrap().1.len(), limit);
        write(&account.token, &"a".repeat(limit + 1));
        assert!(matches!(wrong(), AccountError::TooLong { .. }));

        for (roots, why) in [
            (String::new(), "-----BEGIN CERTIFICATE-----"),
            (root(""), "root 1 says no trust domain"),
            (
                format!("{one}{}", root("other.example")),
                "root 2 of other.example",
            ),
        ] {
            write(&account.roots, &roots);
            let text = wrong().to_string();
            assert!(text.contains(why), "{text}");
        }
        let long = usize::try_from(ROOTS_FILE_LIMIT).unwrap() + 1;
        write(&account.roots, &"#".repeat(long));
        assert!(matches!(wrong(), AccountError::TooLong { .. }));
    }
}
