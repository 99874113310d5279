//! What messages that carry secrets show of themselves: never the secret, so that no log line and no
//! failed assertion can hold one.

use std::fmt::{Debug, Formatter, Result};

use crate::wire::admin::v1::IssueTokenResponse;
use crate::wire::control::v1::SignRequest;
use crate::wire::control::v1::sign_request::Proof;
use crate::wire::spiffe::X509svid;

impl Debug for SignRequest {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        formatter
            .debug_struct("SignRequest")
            .field("node_id", &self.node_id)
            .field("identity", &self.identity)
            .field("proof", &self.proof)
            .finish_non_exhaustive()
    }
}

impl Debug for Proof {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        formatter.write_str(match self {
            Self::Token(_) => "Token(…)",
            Self::Join(_) => "Join(…)",
            Self::Kubernetes(_) => "Kubernetes(…)",
        })
    }
}

impl Debug for IssueTokenResponse {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        formatter
            .debug_struct("IssueTokenResponse")
            .field("identity", &self.identity)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Debug for X509svid {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        formatter
            .debug_struct("X509svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::wire::spiffe::X509svidResponse;

    use super::*;

    #[test]
    fn nothing_that_carries_a_secret_shows_it() {
        let secret = || "hunter2".to_owned();
        let proofs = [
            Proof::Token(secret().into_bytes()),
            Proof::Join(secret().into_bytes()),
            Proof::Kubernetes(secret()),
        ];
        let mut shown: Vec<String> = proofs
            .into_iter()
            .map(|proof| {
                let proof = Some(proof);
                let node_id = "orders-1".to_owned();
                format!(
                    "{:?}",
                    SignRequest {
                        node_id,
                        proof,
                        ..SignRequest::default()
                    }
                )
            })
            .collect();
        assert!(shown.iter().all(|it| it.contains("orders-1")), "{shown:?}");
        let token = secret();
        shown.push(format!(
            "{:?}",
            IssueTokenResponse {
                token,
                ..IssueTokenResponse::default()
            }
        ));
        let svid = X509svid {
            x509_svid_key: secret().into_bytes(),
            ..X509svid::default()
        };
        shown.push(format!(
            "{:?}",
            X509svidResponse {
                svids: vec![svid],
                ..X509svidResponse::default()
            }
        ));
        let bytes = format!("{:?}", secret().into_bytes());
        for shown in shown {
            assert!(
                !shown.contains("hunter2") && !shown.contains(bytes.trim_matches(['[', ']'])),
                "{shown}"
            );
        }
    }
}
