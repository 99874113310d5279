//! The service `sidelane.control.v1.Certificates`: finds out by what right a sidecar asks, and has
//! the authority sign. A refusal carries its machine-readable reason beside the sentence.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sidelane_process::seldom::Seldom;
use sidelane_proto::model::{Identity, NodeId};
use sidelane_proto::wire::control::v1::{
    SignRequest, SignResponse, certificates_server, sign_request::Proof,
};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};

use super::gate::Gate;
use super::review::{NotTheAccount, ReviewError, Reviewer};
use crate::ca::{Authority, AuthorityError, Right, Tokens, unix_now};
use crate::peer::Peer;

/// The largest request that is read, in bytes.
const REQUEST_LIMIT: usize = 64 << 10;
/// By this header a refusal carries its reason.
const REASON_HEADER: &str = "sidelane-error";

/// The service.
pub(crate) struct Certificates {
    /// `None` in trust mode `disabled`.
    authority: Option<Arc<Authority>>,
    gate: Gate,
    kubernetes: Option<Arc<dyn Reviewer>>,
    /// What strangers can have written in the log.
    lines: Seldom,
}

/// The service, ready to be served.
pub(crate) fn service(
    authority: Option<Arc<Authority>>,
    gate: Gate,
    kubernetes: Option<Arc<dyn Reviewer>>,
) -> certificates_server::CertificatesServer<Certificates> {
    let service = Certificates {
        authority,
        gate,
        kubernetes,
        lines: Seldom::default(),
    };
    certificates_server::CertificatesServer::new(service).max_decoding_message_size(REQUEST_LIMIT)
}

#[tonic::async_trait]
impl certificates_server::Certificates for Certificates {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let request = request.into_inner();
        // Whatever else somebody writes there is told in the reason.
        let asked = NodeId::new(&request.node_id).ok();
        let asked = asked.as_ref().map_or("", NodeId::as_str);
        let signed = self.answer(peer, request).await;
        match &signed {
            Ok(signed) => tracing::info!(
                node = asked,
                identity = signed.identity,
                until = signed.not_after,
                "signed"
            ),
            Err(status) => {
                let code = status.code();
                if let Some(omitted) = self.lines.line(code.description(), Instant::now()) {
                    let reason = status.message();
                    tracing::warn!(node = asked, ?code, reason, omitted, "not signed");
                }
            }
        }
        signed.map(Response::new)
    }
}

impl Certificates {
    async fn answer(
        &self,
        peer: Option<Peer>,
        request: SignRequest,
    ) -> Result<SignResponse, Status> {
        if self.authority.is_none() && peer.as_ref().is_some_and(|peer| peer.secure) {
            return Err(refusal(
                Code::FailedPrecondition,
                "SIGNED_ELSEWHERE",
                "control's own certificate comes from files or a SPIFFE agent, so it signs nothing; \
                 give the sidecar --spiffe-socket, or --identity-chain, --identity-key and \
                 --identity-roots",
            ));
        }
        let Some(authority) = &self.authority else {
            return Err(refusal(
                Code::FailedPrecondition,
                "TRUST_DISABLED",
                "control runs with --trust disabled and signs nothing; start it with --trust \
                 strict, or the sidecar with --trust disabled",
            ));
        };
        let Some(peer) = peer.filter(|peer| peer.secure) else {
            let text = "certificates are signed over TLS alone: a secret was sent in the clear";
            return Err(refusal(Code::FailedPrecondition, "NOT_SECURE", text));
        };
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let node = NodeId::new(&request.node_id).map_err(|error| invalid(&error))?;
        let identity = match request.identity.as_str() {
            "" => None,
            text => Some(Identity::new(text).map_err(|error| invalid(&error))?),
        };
        let right = self
            .right(authority, &peer, &node, identity.as_ref(), request.proof)
            .await?;
        let signed = authority
            .sign(right, &node, identity.as_ref(), &request.csr, unix_now())
            .await
            .map_err(|error| status(&error))?;
        Ok(SignResponse {
            chain: vec![signed.certificate],
            trust: Some((&*signed.trust).into()),
            not_after: signed.not_after,
            trust_domain: authority.terms().trust_domain.clone(),
            identity: signed.identity.as_str().to_owned(),
        })
    }

    async fn right(
        &self,
        authority: &Authority,
        peer: &Peer,
        node: &NodeId,
        identity: Option<&Identity>,
        proof: Option<Proof>,
    ) -> Result<Right, Status> {
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let denied = |reason, text: &str| Err(refusal(Code::PermissionDenied, reason, text));
        match proof {
            Some(Proof::Token(secret)) => Ok(Right::Token(Tokens::hash(&secret))),
            Some(Proof::Join(secret)) if self.gate.is_owner(peer, &secret) => {
                let identity = match identity {
                    Some(identity) => identity.clone(),
                    None => authority
                        .default_identity(node)
                        .map_err(|error| invalid(&error))?,
                };
                let held = None;
                Ok(Right::Proven { identity, held })
            }
            Some(Proof::Join(_)) => denied(
                "JOIN_REFUSED",
                "this is not the join file that control left last, or its reader is on another \
                 machine; there, use a token",
            ),
            Some(Proof::Kubernetes(token)) => {
                let Some(cluster) = &self.kubernetes else {
                    return Err(refusal(
                        Code::FailedPrecondition,
                        "KUBERNETES_NOT_CONFIGURED",
                        "control is not connected to a Kubernetes cluster (--kubernetes), so it \
                         cannot ask whose this token is; use a join token",
                    ));
                };
                let account = cluster.review(&token).await.map_err(|error| {
                    let code = match error {
                        ReviewError::Unavailable(_) => Code::Unavailable,
                        ReviewError::NotAllowed(_) => Code::FailedPrecondition,
                        _ => Code::PermissionDenied,
                    };
                    refusal(code, error.label(), &error.to_string())
                })?;
                let domain = &authority.terms().trust_domain;
                let own = account.identity(domain, node, identity);
                let identity = own.map_err(|error| {
                    let reason = match &error {
                        NotTheAccount::Name(_) => "KUBERNETES_NO_SERVICE_ACCOUNT",
                        NotTheAccount::Identity { .. } => "OTHER_IDENTITY",
                        NotTheAccount::Node { .. } => "OTHER_NODE",
                    };
                    refusal(Code::PermissionDenied, reason, &error.to_string())
                })?;
                let held = None;
                Ok(Right::Proven { identity, held })
            }
            None => {
                let Some(shown) = &peer.shown else {
                    return Err(refusal(
                        Code::Unauthenticated,
                        "NO_PROOF",
                        "neither a token nor a certificate was shown; make a token with `sidelane \
                         token --node NAME`, and give it with --token-file",
                    ));
                };
                if shown.node.as_ref() != Some(node) {
                    return denied("OTHER_NODE", "this certificate is another node's");
                }
                if identity.is_some_and(|identity| *identity != shown.identity) {
                    return denied("OTHER_IDENTITY", "this certificate is another identity's");
                }
                // The handshake has asked that, and connections live longer.
                let (ended, grace) = (
                    shown.ended_for(SystemTime::now()),
                    authority.terms().renewal_grace,
                );
                if ended > grace {
                    let text = format!(
                        "this certificate ended {} s ago, and control renews within {} s \
                         (--renewal-grace); show another proof, as `sidelane token --node {node}` \
                         makes one",
                        ended.as_secs(),
                        grace.as_secs()
                    );
                    return denied("CERTIFICATE_ENDED", &text);
                }
                Ok(Right::Proven {
                    identity: shown.identity.clone(),
                    held: Some(shown.held()),
                })
            }
        }
    }
}

/// What an error of the authority is on the wire.
pub(crate) fn status(error: &AuthorityError) -> Status {
    let text = error.to_string();
    match error {
        AuthorityError::Denied(denied) => refusal(Code::PermissionDenied, denied.label(), &text),
        AuthorityError::Request(_) => refusal(Code::InvalidArgument, "CSR", &text),
        AuthorityError::Foreign { .. } => refusal(Code::InvalidArgument, "TRUST_DOMAIN", &text),
        AuthorityError::Reserved(_) => refusal(Code::InvalidArgument, "RESERVED", &text),
        AuthorityError::ForGood { .. } => refusal(Code::FailedPrecondition, "FOR_GOOD", &text),
        AuthorityError::NotRevoked(_) => refusal(Code::NotFound, "NOT_REVOKED", &text),
        AuthorityError::Rotate(_) => refusal(Code::FailedPrecondition, "ROTATION", &text),
        AuthorityError::Full(_) => refusal(Code::ResourceExhausted, "FULL", &text),
        AuthorityError::Sign(_) => refusal(Code::FailedPrecondition, "ROOT", &text),
        AuthorityError::Store(_) => refusal(Code::Unavailable, "STORE", &text),
        AuthorityError::Random => refusal(Code::Internal, "RANDOM", &text),
    }
}

fn refusal(code: Code, reason: &'static str, text: &str) -> Status {
    let mut status = Status::new(code, text);
    let reason = MetadataValue::from_static(reason);
    status.metadata_mut().insert(REASON_HEADER, reason);
    status
}
