//! What of identity is served: `sign` answers sidecars that ask for certificates, `gate` says who may
//! call what on the gRPC port, `join` leaves the file by which control's own user may, and `keeper`
//! sees to control's own certificate and to rotations, `cluster` asks Kubernetes whose a token is, and
//! `review` says what that means. Who may get which certificate is decided in
//! `crate::ca`.

mod cluster;
mod gate;
mod join;
mod keeper;
mod outside;
mod review;
mod sign;

#[cfg(test)]
mod tests;

pub use cluster::{ANSWER_LIMIT, Cluster, Kubernetes, REVIEW_LIMIT, REVIEWS_LIMIT};
pub use gate::{Gate, JOIN_HEADER};
pub use join::{Join, JoinError};
pub use keeper::{Keeper, LOOK_EVERY};
pub use outside::{FIRST_LIMIT, Outside};
pub use review::{AUDIENCE, NotTheAccount, ReviewError, Reviewer, ServiceAccount};
pub(crate) use sign::{service, status};

use sidelane_identity::{Revoked, Serial, SpiffeId};
use sidelane_proto::wire::control::v1 as wire;

use crate::ca::{Subject, Trust};

/// What sidecars are told of trust.
impl From<&Trust> for wire::Trust {
    fn from(trust: &Trust) -> Self {
        let mut told = Self {
            revision: trust.revision,
            roots: trust.roots.clone(),
            ..Self::default()
        };
        for revocation in trust.revoked.iter() {
            match revocation.subject {
                Subject::Serial(serial) => told.revoked_serials.push(serial.0.to_vec()),
                Subject::Identity(identity) => {
                    told.revoked_identities.push(identity.as_str().to_owned());
                }
                // Its certificates are in the list, each by its number.
                Subject::Node(_) => {}
            }
        }
        told
    }
}

/// The same for control's own handshakes.
fn revoked(trust: &Trust) -> Revoked {
    let mut revoked = Revoked::default();
    for revocation in trust.revoked.iter() {
        let added = match revocation.subject {
            Subject::Serial(serial) => revoked.serial(Serial::new(&serial.0)),
            Subject::Identity(identity) => match SpiffeId::new(identity.as_str()) {
                Ok(id) => revoked.identity(id),
                Err(_) => continue,
            },
            Subject::Node(_) => continue,
        };
        if let Err(error) = added {
            tracing::error!(%error, "control itself cannot judge by all revocations");
            break;
        }
    }
    revoked
}
