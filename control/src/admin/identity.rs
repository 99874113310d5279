//! What people change of identity: join tokens, revocations, the root. Each is decided and kept by
//! the authority; here is only what the request means.

use std::time::Duration;

use sidelane_identity::token::{Authority as Whom, JoinToken};
use sidelane_identity::{SpiffeId, TrustDomain};
use sidelane_proto::model::{Identity, NodeId};
use sidelane_proto::wire::admin::v1 as wire;
use sidelane_proto::wire::admin::v1::revoke_request::Subject as Named;
use tonic::Status;

use super::View;
use crate::ca::{Authority, Grant, Serial, Subject, TOKEN_LIFE_LIMIT, unix_now};
use crate::certificates::status;

pub(super) async fn issue_token(
    view: &View,
    request: wire::IssueTokenRequest,
) -> Result<wire::IssueTokenResponse, Status> {
    let authority = authority(view)?;
    let node = NodeId::new(&request.node_id).map_err(invalid)?;
    let identity = match request.identity.as_str() {
        "" => authority.default_identity(&node).map_err(invalid)?,
        text => Identity::new(text).map_err(invalid)?,
    };
    // The stricter of the two readers: what it refuses, no peer would take in a certificate.
    let spiffe = SpiffeId::new(identity.as_str()).map_err(invalid)?;
    let life = Duration::from_secs(request.ttl_seconds);
    if life.is_zero() || life > TOKEN_LIFE_LIMIT {
        let days = TOKEN_LIFE_LIMIT.as_secs() / 86_400;
        let text = format!("ttl_seconds: a token is good for 1 s to {days} days");
        return Err(Status::invalid_argument(text));
    }
    let expires = unix_now() + life.as_secs();
    let grant = Grant {
        node: node.clone(),
        identity: identity.clone(),
        expires,
    };
    let secret = authority.issue(grant, unix_now()).await;
    let secret = secret.map_err(|error| status(&error))?;
    let trust_domain = TrustDomain::new(&authority.terms().trust_domain).map_err(invalid)?;
    let token = JoinToken {
        authority: Whom {
            root: authority.fingerprint().await,
            trust_domain,
        },
        node: node.as_str().to_owned(),
        identity: spiffe,
        expires,
        secret,
    };
    tracing::info!(%node, %identity, expires, "a join token was made");
    Ok(wire::IssueTokenResponse {
        token: token.to_text().to_string(),
        identity: identity.as_str().to_owned(),
        expires,
    })
}

pub(super) async fn revoke(
    view: &View,
    request: wire::RevokeRequest,
) -> Result<wire::RevokeResponse, Status> {
    let authority = authority(view)?;
    let subject = match request.subject {
        Some(Named::NodeId(node)) => Subject::Node(NodeId::new(&node).map_err(invalid)?),
        Some(Named::Identity(text)) => {
            let id = SpiffeId::new(&text).map_err(invalid)?;
            Subject::Identity(Identity::new(id.as_str()).map_err(invalid)?)
        }
        Some(Named::Serial(text)) => Subject::Serial(Serial::parse(&text).ok_or_else(|| {
            Status::invalid_argument("serial: a certificate's number has 32 hexadecimal digits")
        })?),
        None => {
            let text = "subject is missing: name a node, an identity or a certificate's number";
            return Err(Status::invalid_argument(text));
        }
    };
    let text = subject.to_string();
    let done = if request.undo {
        authority.restore(subject, unix_now()).await
    } else {
        authority.revoke(subject, unix_now()).await
    };
    done.map_err(|error| status(&error))?;
    tracing::warn!(subject = text, undo = request.undo, "revoked");
    let revision = authority.trust().borrow().revision;
    Ok(wire::RevokeResponse { revision })
}

pub(super) fn roots(view: &View) -> Result<wire::ListRootsResponse, Status> {
    let roots = authority(view)?.trust().borrow().roots.clone();
    Ok(wire::ListRootsResponse { roots })
}

pub(super) async fn rotate(view: &View) -> Result<wire::RotateRootResponse, Status> {
    let authority = authority(view)?;
    let fingerprint = authority.rotate(unix_now()).await;
    let fingerprint = fingerprint.map_err(|error| status(&error))?;
    let fingerprint: String = fingerprint
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let revision = authority.trust().borrow().revision;
    tracing::warn!(fingerprint, "a new root is on its way to the sidecars");
    Ok(wire::RotateRootResponse {
        fingerprint,
        revision,
    })
}

fn authority(view: &View) -> Result<&Authority, Status> {
    view.authority.as_deref().ok_or_else(|| {
        Status::failed_precondition(
            "control signs nothing here, so it knows no certificates and no tokens: it runs with \
             --trust disabled, or takes its own certificate from files or a SPIFFE agent, whose \
             authority is the one to ask",
        )
    })
}

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}
