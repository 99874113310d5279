//! The certificate that users are shown, from two files in PEM: the chain, and its private key
//! (PKCS#8, SEC1 or PKCS#1). They are read again every second, and what does not fit together yet
//! leaves the last good pair in place; it is said once, and again when it changes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sidelane_identity::tls::provider;
use tokio::sync::watch;

/// Between two looks at the files.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest file, in bytes.
pub const FILE_LIMIT: u64 = 256 * 1024;

/// Where the certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why the files make no certificate. Nothing that stands in the key is said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {kind}", path = path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// A file is longer than any that is meant.
    #[error("{path} is longer than {FILE_LIMIT} bytes", path = path.display())]
    TooLong {
        /// Which one.
        path: PathBuf,
    },
    /// There is no certificate in the file, or one that cannot be read.
    #[error("{path}: there is no certificate in PEM in it", path = path.display())]
    NoCertificate {
        /// Which one.
        path: PathBuf,
    },
    /// There is no private key in the file.
    #[error(
        "{path}: there is no private key in PEM in it (PKCS#8, SEC1 or PKCS#1, not encrypted)",
        path = path.display()
    )]
    NoKey {
        /// Which one.
        path: PathBuf,
    },
    /// They do not go together, or are of a kind that TLS does not take.
    #[error("{certificate} and {key}: {what}", certificate = certificate.display(), key = key.display())]
    Unfit {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// What TLS says.
        what: String,
    },
}

impl Pair {
    /// Reads them.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(&self) -> Result<CertifiedKey, PairError> {
        let path = self.certificate.clone();
        let none = |_| PairError::NoCertificate { path: path.clone() };
        let text = read(&self.certificate)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(none)?;
        if chain.is_empty() {
            return Err(PairError::NoCertificate { path });
        }
        // Its bytes are wiped by the type that holds them.
        let text = zeroize::Zeroizing::new(read(&self.key)?);
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| PairError::NoKey {
            path: self.key.clone(),
        })?;
        CertifiedKey::from_der(chain, key, provider()).map_err(|error| PairError::Unfit {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            what: error.to_string(),
        })
    }

    /// May others than its owner and group read the key?
    #[must_use]
    pub fn is_open(&self) -> bool {
        fs::metadata(&self.key).is_ok_and(|about| about.permissions().mode() & 0o007 != 0)
    }

    /// Puts what the files say into `present` whenever they change, until nobody listens. `say`
    /// hears of each change, and once of each thing that is wrong.
    pub async fn follow(
        self,
        present: watch::Sender<Arc<CertifiedKey>>,
        mut say: impl FnMut(Result<(), &PairError>),
    ) {
        let mut wrong = None;
        while !present.is_closed() {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.read() {
                Ok(found) => {
                    wrong = None;
                    // A key fits one certificate, so it need not be compared.
                    if present.borrow().cert != found.cert {
                        present.send_replace(Arc::new(found));
                        say(Ok(()));
                    }
                }
                Err(error) if wrong.as_ref() != Some(&error) => {
                    say(Err(&error));
                    wrong = Some(error);
                }
                Err(_) => {}
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PairError> {
    let unread = |error: io::Error| PairError::Read {
        path: path.to_owned(),
        kind: error.kind(),
    };
    if fs::metadata(path).map_err(unread)?.len() > FILE_LIMIT {
        let path = path.to_owned();
        return Err(PairError::TooLong { path });
    }
    fs::read(path).map_err(unread)
}
