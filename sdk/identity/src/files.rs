//! An identity from files: the certificates, the private key, and the roots, in PEM. The files are
//! read again every second, so that whoever writes them need not tell us.
//!
//! They are three, and are not written in one moment. What does not fit together yet is left alone
//! and the last good identity stays; it is said once, and again when it changes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::SpiffeId;
use crate::bundle::{Bundle, BundleError};
use crate::present::{Identity, IdentityError};
use crate::refusal::Refusal;
use crate::revoked::Revoked;
use crate::svid::{Svid, SvidError};

/// Between two looks at the files.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest file, in bytes.
pub const FILE_LIMIT: u64 = 256 * 1024;

/// Where an identity's parts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The workload's certificate, and those between it and the root.
    pub chain: PathBuf,
    /// Its private key, for its owner alone.
    pub key: PathBuf,
    /// The roots.
    pub roots: PathBuf,
}

/// Why the files make no identity. Nothing that stands in the key is said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
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
    /// It cannot be read again and again.
    #[error("{path} is no plain file, and it is read every second", path = path.display())]
    NotAFile {
        /// Which one.
        path: PathBuf,
    },
    /// Others may read the key.
    #[error(
        "{path} has mode {mode:03o}, so others may read the private key: chmod 600 {path}",
        path = path.display(),
        mode = mode
    )]
    Permissions {
        /// Which one.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The certificates and the key make no SVID.
    #[error("{chain} and {key}: {source}", chain = chain.display(), key = key.display())]
    Svid {
        /// The certificates' file.
        chain: PathBuf,
        /// The key's.
        key: PathBuf,
        /// What is wrong.
        source: SvidError,
    },
    /// The roots make no bundle.
    #[error("{path}: {source}", path = path.display())]
    Bundle {
        /// The roots' file.
        path: PathBuf,
        /// What is wrong.
        source: BundleError,
    },
    /// Certificate and roots do not fit.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate is somebody else's than the one before.
    #[error(
        "{chain}: this program is {held}, and the certificate is of {found}; who is somebody else \
         starts anew",
        chain = chain.display()
    )]
    AnotherId {
        /// The certificates' file.
        chain: PathBuf,
        /// Whose was held.
        held: SpiffeId,
        /// Whose it is.
        found: SpiffeId,
    },
    /// No peer would take the certificate.
    #[error("{chain}: no peer would take this certificate: {refusal}", chain = chain.display())]
    Unsound {
        /// The certificates' file.
        chain: PathBuf,
        /// What peers would say.
        refusal: Refusal,
    },
}

impl Files {
    /// Reads them.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(&self, now: SystemTime) -> Result<Identity, FilesError> {
        owners_alone(&self.key)?;
        let svid = Svid::from_pem(&read(&self.chain)?, &read(&self.key)?);
        let svid = svid.map_err(|source| FilesError::Svid {
            chain: self.chain.clone(),
            key: self.key.clone(),
            source,
        })?;
        let bundle = Bundle::from_pem(svid.trust_domain(), &read(&self.roots)?);
        let bundle = bundle.map_err(|source| FilesError::Bundle {
            path: self.roots.clone(),
            source,
        })?;
        let identity = Identity::new(svid, bundle, Revoked::default())?;
        identity
            .is_sound(now)
            .map_err(|refusal| FilesError::Unsound {
                chain: self.chain.clone(),
                refusal,
            })?;
        Ok(identity)
    }

    /// Puts what the files say into `present`, now and whenever they change, until nobody listens.
    /// `say` hears of each change, once of each thing that is wrong, and when nothing is any more.
    pub async fn follow(
        self,
        present: watch::Sender<Option<Arc<Identity>>>,
        mut say: impl FnMut(Result<&Identity, &FilesError>),
    ) {
        let mut wrong = None;
        while !present.is_closed() {
            let held = present.borrow().clone();
            match self.next(held.as_deref(), SystemTime::now()) {
                Ok(found) => {
                    let mended = wrong.take().is_some();
                    let changed = !held.is_some_and(|held| same(&held, &found));
                    if mended || changed {
                        say(Ok(&found));
                    }
                    if changed {
                        present.send_replace(Some(Arc::new(found)));
                    }
                }
                Err(error) => {
                    if wrong.as_ref() != Some(&error) {
                        say(Err(&error));
                        wrong = Some(error);
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Files {
    /// What takes the place of what is held.
    fn next(&self, held: Option<&Identity>, now: SystemTime) -> Result<Identity, FilesError> {
        let found = self.read(now)?;
        match held {
            Some(held) if held.svid().id() != found.svid().id() => Err(FilesError::AnotherId {
                chain: self.chain.clone(),
                held: held.svid().id().clone(),
                found: found.svid().id().clone(),
            }),
            _ => Ok(found),
        }
    }
}

/// A key fits one certificate, so it need not be compared.
fn same(held: &Identity, found: &Identity) -> bool {
    held.svid().chain() == found.svid().chain() && held.bundle() == found.bundle()
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let unreadable = |error: io::Error| FilesError::Read {
        path: path.to_owned(),
        kind: error.kind(),
    };
    let found = fs::metadata(path).map_err(unreadable)?;
    if !found.is_file() {
        let path = path.to_owned();
        return Err(FilesError::NotAFile { path });
    }
    if found.len() > FILE_LIMIT {
        let path = path.to_owned();
        return Err(FilesError::TooLong { path });
    }
    fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

fn owners_alone(path: &Path) -> Result<(), FilesError> {
    let unreadable = |error: io::Error| FilesError::Read {
        path: path.to_owned(),
        kind: error.kind(),
    };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let path = path.to_owned();
    Err(FilesError::Permissions { path, mode })
}
