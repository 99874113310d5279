//! The join file: what a process of control's own user on control's machine needs to join the mesh
//! and to change it. It lies in a folder that nobody else can enter, under control's address, and is
//! written anew with each start and each new root.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sha2::{Digest, Sha256};
use sidelane_identity::TrustDomain;
use sidelane_identity::token::{Authority, JoinFile};
use sidelane_process::runtime::{RuntimeError, RuntimeFolder, join_name};
use zeroize::Zeroizing;

/// The join file of one control.
pub struct Join {
    folder: RuntimeFolder,
    name: String,
    trust_domain: TrustDomain,
    secret: Zeroizing<[u8; 32]>,
}

/// Why there is no join file.
pub type JoinError = RuntimeError;

impl Join {
    /// For control at `listen`.
    #[must_use]
    pub fn new(
        folder: RuntimeFolder,
        listen: SocketAddr,
        trust_domain: TrustDomain,
        secret: [u8; 32],
    ) -> Self {
        Self {
            folder,
            name: join_name(listen),
            trust_domain,
            secret: Zeroizing::new(secret),
        }
    }

    /// What the gate compares with.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(*self.secret).into()
    }

    /// Leaves the file, for who knows control by this root.
    ///
    /// # Errors
    /// It cannot be written, or others could read it.
    pub fn leave(&self, root: [u8; 32]) -> Result<(), JoinError> {
        let file = JoinFile {
            authority: Authority {
                root,
                trust_domain: self.trust_domain.clone(),
            },
            secret: self.secret.clone(),
        };
        self.folder.write(&self.name, file.to_text().as_bytes())
    }

    /// Takes away what a control that was killed has left, if it listened where one at `listen` lets
    /// nobody else: sidecars and commands would find it, and take us for somebody who poses as it.
    pub fn remove_stale(folder: &RuntimeFolder, listen: SocketAddr) {
        let stale: [IpAddr; 2] = if listen.ip().is_unspecified() {
            [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        } else {
            [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
        };
        for ip in stale.into_iter().chain([listen.ip()]) {
            folder.remove(&join_name(SocketAddr::new(ip, listen.port())));
        }
    }

    /// Takes the file away.
    pub fn remove(&self) {
        self.folder.remove(&self.name);
    }
}
