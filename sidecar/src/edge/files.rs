//! The certificate that users are shown, from two files in PEM: the chain, and its private key
//! (PKCS#8, SEC1 or PKCS#1). They are read again every second, and what does not fit together yet
//! leaves the last good pair in place; it is said once, and again when it changes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use sidelane_identity::PrivateKey;
use sidelane_identity::verify::lifetime;
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
    /// Everybody on the machine may read the key.
    #[error(
        "{path} has mode {mode:03o}, so everybody on this machine may read the private key: chmod 600 \
         {path} (or 640, for a group)",
        path = path.display(),
        mode = mode
    )]
    Permissions {
        /// Which one.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Nobody takes the certificate at this time.
    #[error("{path}: the certificate {what}", path = path.display())]
    OutOfTime {
        /// Its file.
        path: PathBuf,
        /// Has ended, or has not begun.
        what: &'static str,
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
        let mode = self.mode()?;
        if mode & 0o007 != 0 {
            let path = self.key.clone();
            return Err(PairError::Permissions { path, mode });
        }
        // Both wipe what they hold: the file's text, and the key that was in it.
        let text = zeroize::Zeroizing::new(read(&self.key)?);
        let key = PrivateKey::from_pem(&text).map_err(|_| PairError::NoKey {
            path: self.key.clone(),
        })?;
        let unfit = |what: String| PairError::Unfit {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            what,
        };
        let key = key.signing().map_err(|error| unfit(error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        certified
            .keys_match()
            .map_err(|error| unfit(error.to_string()))?;
        Ok(certified)
    }

    /// Will anybody take this certificate now?
    ///
    /// # Errors
    /// It has ended, or has not begun.
    pub fn in_time(&self, shown: &CertifiedKey, now: SystemTime) -> Result<(), PairError> {
        let told = |what| {
            let path = self.certificate.clone();
            Err(PairError::OutOfTime { path, what })
        };
        let life = shown.cert.first().and_then(|leaf| lifetime(leaf).ok());
        match life {
            None => told("cannot be read"),
            Some((_, end)) if now > end => told("has ended"),
            Some((begin, _)) if now < begin => told("has not begun"),
            Some(_) => Ok(()),
        }
    }

    fn mode(&self) -> Result<u32, PairError> {
        let about = fs::metadata(&self.key).map_err(|error| PairError::Read {
            path: self.key.clone(),
            kind: error.kind(),
        })?;
        Ok(about.permissions().mode() & 0o777)
    }

    /// What takes the place of what is shown: a pair that fits, and that somebody takes.
    fn next(&self, now: SystemTime) -> Result<CertifiedKey, PairError> {
        let found = self.read()?;
        self.in_time(&found, now)?;
        Ok(found)
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
            match self.next(SystemTime::now()) {
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
