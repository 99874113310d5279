//! Whose a Kubernetes service account's token is: what a cluster is asked (a `TokenReview` of
//! `authentication.k8s.io/v1`), and what its answer means. Pure; `cluster` does the asking.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sidelane_proto::model::{Identity, NodeId};
use zeroize::Zeroizing;

/// The audience that a token must be for, so that one for somebody else is of no use here.
pub const AUDIENCE: &str = "sidelane";
/// What the cluster says of the pod that a token is bound to.
const POD: &str = "authentication.kubernetes.io/pod-name";
/// A service account's user name begins with this.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// What a cluster says of why is told on up to so many bytes.
const TOLD: usize = 200;

/// Asks a Kubernetes cluster whose a service account's token is.
#[tonic::async_trait]
pub trait Reviewer: Send + Sync {
    /// Whose is it?
    ///
    /// # Errors
    /// Nobody's, or the cluster does not answer.
    async fn review(&self, token: &str) -> Result<ServiceAccount, ReviewError>;
}

/// A Kubernetes service account, by a token of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pod that the token is bound to, if it is.
    pub pod: Option<String>,
}

/// A token that was not reviewed, or is nobody's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The cluster does not vouch for it.
    #[error("the Kubernetes cluster does not vouch for this token: {0}")]
    Nobody(String),
    /// It was vouched for, for others.
    #[error(
        "this token is not for audience `{AUDIENCE}`; project one into the pod with \
         `serviceAccountToken: {{ audience: {AUDIENCE} }}`"
    )]
    Audience,
    /// Somebody else than a service account.
    #[error("this token is of `{0}`, which is no service account")]
    NoServiceAccount(String),
    /// It says no.
    #[error(
        "the Kubernetes cluster does not let control review tokens ({0}); control's own service \
         account needs the role `system:auth-delegator`"
    )]
    NotAllowed(String),
    /// It does not answer, or not so that it is understood.
    #[error("the Kubernetes cluster does not answer whose this token is: {0}")]
    Unavailable(String),
}

impl ReviewError {
    /// The machine-readable reason.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Nobody(_) => "KUBERNETES_REFUSED",
            Self::Audience => "KUBERNETES_AUDIENCE",
            Self::NoServiceAccount(_) => "KUBERNETES_NO_SERVICE_ACCOUNT",
            Self::NotAllowed(_) => "KUBERNETES_NOT_ALLOWED",
            Self::Unavailable(_) => "KUBERNETES_UNAVAILABLE",
        }
    }
}

/// An account that may not be what it asks to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTheAccount {
    /// Its names make no identity.
    #[error("{0}")]
    Name(#[from] sidelane_proto::model::FieldError),
    /// It asks to be somebody else.
    #[error(
        "this token is of {own}, and {asked} was asked for; leave --identity away, or run the pod \
         under the service account that is meant"
    )]
    Identity {
        /// Who it is.
        own: Identity,
        /// Who it would like to be.
        asked: Identity,
    },
    /// It asks to be another node.
    #[error(
        "this token is of pod `{pod}`, and node `{asked}` came with it; a pod's sidecar is the node \
         of the pod's name: --node {pod} (`metadata.name` by the downward API)"
    )]
    Node {
        /// The pod.
        pod: String,
        /// The node.
        asked: NodeId,
    },
}

impl ServiceAccount {
    /// The identity that it has in this trust domain, if it may be the node and the identity that it
    /// asks to be.
    ///
    /// # Errors
    /// It may not.
    pub fn identity(
        &self,
        trust_domain: &str,
        node: &NodeId,
        asked: Option<&Identity>,
    ) -> Result<Identity, NotTheAccount> {
        let Self {
            namespace, name, ..
        } = self;
        let own = Identity::new(&format!("spiffe://{trust_domain}/ns/{namespace}/sa/{name}"))?;
        if let Some(pod) = self.pod.as_ref().filter(|pod| *pod != node.as_str()) {
            return Err(NotTheAccount::Node {
                pod: pod.clone(),
                asked: node.clone(),
            });
        }
        match asked.filter(|asked| **asked != own) {
            Some(asked) => Err(NotTheAccount::Identity {
                own,
                asked: asked.clone(),
            }),
            None => Ok(own),
        }
    }
}

#[derive(Serialize)]
struct Question<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
struct Spec<'a> {
    token: &'a str,
    audiences: [&'static str; 1],
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    status: Verdict,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Verdict {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: HashMap<String, Vec<String>>,
}

/// What the cluster is asked, JSON.
pub(super) fn question(token: &str) -> Zeroizing<Vec<u8>> {
    let question = Question {
        api_version: "authentication.k8s.io/v1",
        kind: "TokenReview",
        spec: Spec {
            token,
            audiences: [AUDIENCE],
        },
    };
    // As much room as it takes, so that growing leaves no copy of the token behind.
    let mut json = Zeroizing::new(Vec::with_capacity(2 * token.len() + 256));
    // Strings and lists of strings make JSON, and memory takes what is written.
    let _ = serde_json::to_writer(&mut *json, &question);
    json
}

/// What its answer means: the status of HTTP, and the body.
pub(super) fn verdict(status: u16, body: &[u8]) -> Result<ServiceAccount, ReviewError> {
    match status {
        200..=202 => {}
        401 | 403 => return Err(ReviewError::NotAllowed(format!("HTTP {status}"))),
        _ => return Err(ReviewError::Unavailable(format!("HTTP {status}"))),
    }
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|error| ReviewError::Unavailable(format!("no TokenReview came back: {error}")))?;
    let Verdict {
        authenticated,
        user,
        audiences,
        error,
    } = answer.status;
    if !authenticated {
        let why = match shortened(&error) {
            "" => "it has ended, is not its own, or its pod is gone",
            why => why,
        };
        return Err(ReviewError::Nobody(why.to_owned()));
    }
    // A cluster that does not know audiences names none: then the token is for anybody.
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(ReviewError::Audience);
    }
    let account = user.username.strip_prefix(SERVICE_ACCOUNT);
    let account = account.and_then(|account| account.split_once(':'));
    let Some((namespace, name)) = account.filter(|(_, name)| !name.contains(':')) else {
        let who = shortened(&user.username).to_owned();
        return Err(ReviewError::NoServiceAccount(who));
    };
    let pod = user.extra.get(POD).and_then(|pods| pods.first());
    Ok(ServiceAccount {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        pod: pod.cloned(),
    })
}

fn shortened(text: &str) -> &str {
    let end = text.floor_char_boundary(TOLD.min(text.len()));
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(status: &Value) -> Vec<u8> {
        json!({ "kind": "TokenReview", "status": status })
            .to_string()
            .into_bytes()
    }

    fn vouched() -> Value {
        json!({
            "authenticated": true,
            "user": {
                "username": "system:serviceaccount:shop:orders",
                "uid": "1",
                "groups": ["system:serviceaccounts"],
                "extra": { POD: ["orders-1"], "authentication.kubernetes.io/pod-uid": ["2"] }
            },
            "audiences": [AUDIENCE]
        })
    }

    #[test]
    fn what_is_asked_names_the_audience() {
        let asked: Value = serde_json::from_slice(&question("a\"b")).unwrap();
        assert_eq!(asked["kind"], "TokenReview");
        assert_eq!(asked["apiVersion"], "authentication.k8s.io/v1");
        assert_eq!(
            asked["spec"],
            json!({ "token": "a\"b", "audiences": [AUDIENCE] })
        );
    }

    #[test]
    fn an_account_is_who_the_cluster_says_it_is() {
        let account = verdict(201, &answer(&vouched())).unwrap();
        let orders = NodeId::new("orders-1").unwrap();
        let own = account.identity("mesh.example", &orders, None).unwrap();
        assert_eq!(own.as_str(), "spiffe://mesh.example/ns/shop/sa/orders");
        let same = account.identity("mesh.example", &orders, Some(&own));
        assert_eq!(same.unwrap(), own);
        let billing = Identity::new("spiffe://mesh.example/ns/shop/sa/billing").unwrap();
        let other = account.identity("mesh.example", &orders, Some(&billing));
        assert!(matches!(other, Err(NotTheAccount::Identity { .. })));
        let node = NodeId::new("orders-2").unwrap();
        let other = account.identity("mesh.example", &node, None);
        let text = other.unwrap_err().to_string();
        assert!(text.contains("--node orders-1"), "{text}");
        // A token that is bound to no pod is good for any node of its account.
        let mut unbound = vouched();
        unbound["user"]["extra"] = json!({});
        let account = verdict(201, &answer(&unbound)).unwrap();
        account.identity("mesh.example", &node, None).unwrap();
    }

    #[test]
    fn whatever_else_is_answered_is_no_right() {
        let changed = |path: &str, value: Value| {
            let mut status = vouched();
            *status.pointer_mut(path).unwrap() = value;
            verdict(201, &answer(&status)).unwrap_err().label()
        };
        assert_eq!(
            changed("/authenticated", json!(false)),
            "KUBERNETES_REFUSED"
        );
        assert_eq!(changed("/audiences", json!([])), "KUBERNETES_AUDIENCE");
        let other = json!(["https://kubernetes.default.svc"]);
        assert_eq!(changed("/audiences", other), "KUBERNETES_AUDIENCE");
        for user in [
            "admin",
            "system:serviceaccount:shop",
            "system:serviceaccount:a:b:c",
        ] {
            let label = changed("/user/username", json!(user));
            assert_eq!(label, "KUBERNETES_NO_SERVICE_ACCOUNT", "{user}");
        }
        let labels = [401, 403, 404, 500, 302].map(|status| {
            let refused = verdict(status, &answer(&vouched())).unwrap_err();
            refused.label()
        });
        let (no, none) = ("KUBERNETES_NOT_ALLOWED", "KUBERNETES_UNAVAILABLE");
        assert_eq!(labels, [no, no, none, none, none]);
        for body in ["", "{", "7", "null"] {
            let refused = verdict(201, body.as_bytes()).unwrap_err();
            assert_eq!(refused.label(), none, "{body}");
        }
        assert_eq!(
            verdict(201, b"{}").unwrap_err().label(),
            "KUBERNETES_REFUSED"
        );
        let text = json!({ "error": "no ".repeat(1_000) });
        let refused = verdict(201, &answer(&text)).unwrap_err().to_string();
        assert!(refused.len() < 2 * TOLD, "{refused}");
    }
}
