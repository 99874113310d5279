//! Who may call what. Under trust `strict`: the way to a certificate and the probe of health are
//! open to everybody who speaks TLS; membership wants a certificate; what people ask wants a
//! certificate or the join file; and what changes the mesh wants the join file, which only control's
//! own user on control's machine can read. Pure: a decision over what the connection proves.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use sha2::{Digest, Sha256};
use sidelane_process::settings::Trust;
use tokio::sync::watch;
use tonic::Status;

use crate::ca::Trust as Believed;
use crate::peer::Peer;

/// By this header a process of control's own user shows the secret of the join file, in hexadecimal
/// digits.
pub const JOIN_HEADER: &str = "sidelane-join";

/// Decides about each call.
#[derive(Debug, Clone)]
pub struct Gate {
    trust: Trust,
    /// SHA-256 of the join file's secret.
    join: Option<[u8; 32]>,
    /// What is believed now.
    believed: Option<watch::Receiver<Arc<Believed>>>,
}

/// What a method needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Certificate,
    Reader,
    Owner,
}

impl Gate {
    /// A gate.
    #[must_use]
    pub fn new(trust: Trust, join: Option<[u8; 32]>) -> Self {
        Self {
            trust,
            join,
            believed: None,
        }
    }

    /// And by this, at each call: connections live longer than trust in who opened them.
    #[must_use]
    pub fn judging(mut self, believed: watch::Receiver<Arc<Believed>>) -> Self {
        self.believed = Some(believed);
        self
    }

    /// Is this the join file's secret?
    #[must_use]
    pub fn is_owner(&self, peer: &Peer, secret: &[u8]) -> bool {
        // Hashes are compared, so that the time that it takes tells nothing of the secret.
        let hash: [u8; 32] = Sha256::digest(secret).into();
        peer.secure && peer.here && self.join == Some(hash)
    }

    /// May this call go on? A certificate that has ended is none here: by it only another one can be
    /// had, which `sign` decides.
    ///
    /// # Errors
    /// Not without what the status names.
    pub fn admit(
        &self,
        peer: &Peer,
        path: &str,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<(), Status> {
        if self.trust == Trust::Disabled {
            return Ok(());
        }
        let permissive = self.trust == Trust::Permissive;
        let holds = peer.shown.as_ref().map(|shown| shown.holds(now));
        match needs(path) {
            Needs::Nothing => Ok(()),
            Needs::Certificate | Needs::Reader if permissive && !peer.secure => Ok(()),
            Needs::Certificate if holds == Some(true) => self.believes(peer),
            Needs::Certificate if holds == Some(false) => Err(Status::unauthenticated(
                "the certificate of this connection has ended; a sidecar renews it by itself \
                 (within --renewal-grace), or joins anew with --token-file",
            )),
            Needs::Certificate => Err(Status::unauthenticated(
                "control's trust is strict, and this connection shows no certificate; a sidecar \
                 gets one with --token-file (`sidelane token --node NAME` makes a token)",
            )),
            Needs::Reader | Needs::Owner if self.shows_join(peer, headers) => Ok(()),
            Needs::Reader if holds == Some(true) => self.believes(peer),
            Needs::Reader | Needs::Owner => Err(Status::permission_denied(
                "this needs the join file, which control leaves for its own user on its own \
                 machine: run the command there, as that user",
            )),
        }
    }

    /// Was the certificate of this connection revoked since?
    fn believes(&self, peer: &Peer) -> Result<(), Status> {
        let (Some(believed), Some(shown)) = (&self.believed, &peer.shown) else {
            return Ok(());
        };
        match shown.revoked(&believed.borrow().revoked) {
            Some(found) => {
                let text = format!("{} was revoked, and this connection is its", found.subject);
                Err(Status::permission_denied(text))
            }
            None => Ok(()),
        }
    }

    fn shows_join(&self, peer: &Peer, headers: &HeaderMap) -> bool {
        let shown = headers.get(JOIN_HEADER);
        let secret = shown.and_then(|value| unhex(value.as_bytes()));
        secret.is_some_and(|secret| self.is_owner(peer, &secret))
    }
}

fn needs(path: &str) -> Needs {
    match path {
        "/sidelane.control.v1.Certificates/Sign"
        | "/grpc.health.v1.Health/Check"
        | "/grpc.health.v1.Health/Watch" => Needs::Nothing,
        "/sidelane.control.v1.Membership/Sync" => Needs::Certificate,
        "/sidelane.admin.v1.Mesh/ListNodes"
        | "/sidelane.admin.v1.Mesh/ListServices"
        | "/sidelane.admin.v1.Mesh/ListRules"
        | "/sidelane.admin.v1.Mesh/WaitRevision" => Needs::Reader,
        path if path.starts_with("/grpc.reflection.v1.") => Needs::Reader,
        // What is new here is closed until somebody says otherwise.
        _ => Needs::Owner,
    }
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.chunks(2).map(|pair| {
        let [high, low] = pair else { return None };
        u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
    });
    pairs.collect()
}
