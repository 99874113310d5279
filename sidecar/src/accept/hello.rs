//! The callee's side of a link's Hello: who dials, whom it means, in which class and lane.

use std::sync::{Arc, OnceLock};

use sidelane_identity::{Refusal, SpiffeId};
use sidelane_proto::model::{
    ConnectionClass, FieldError, Generation, Identity, Lane, NodeId, ProtocolRange,
};
use sidelane_proto::wire::peer::v1 as wire;
use sidelane_proto::wire::peer::v1::peer_server::Peer as Service;
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use crate::call::Peer;
use crate::identity::Own;
use crate::preamble::Preamble;

/// Who this sidecar is, for those who say Hello.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// This node.
    pub own: Own,
    /// The versions of the peer protocol that it speaks.
    pub protocol: ProtocolRange,
    /// Which identity control names for whom.
    pub known: Known,
}

/// Which identity control names for a node, as far as this sidecar has heard of it. A certificate
/// proves an identity, and a Hello says a node: where both are known, they must agree, so that
/// nobody calls in another node's name.
#[derive(Clone)]
pub struct Known(pub Arc<Naming>);

/// The identity of a node, where it is known.
pub type Naming = dyn Fn(&NodeId) -> Option<Identity> + Send + Sync;

impl std::fmt::Debug for Known {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Known")
    }
}

impl Known {
    fn agrees(&self, node: &NodeId, shown: Option<&SpiffeId>) -> Result<(), Refusal> {
        let Some(shown) = shown else { return Ok(()) };
        match (self.0)(node) {
            Some(named) if named.as_str() != shown.as_str() => Err(Refusal::OtherNode {
                what: format!(
                    "Hello says node {node}, which is {named}; the certificate is of {shown}"
                ),
            }),
            _ => Ok(()),
        }
    }
}

/// Is told who says to be another node.
pub(super) struct Notice(pub(super) Box<dyn Fn(&Refusal) + Send + Sync>);

impl std::fmt::Debug for Notice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Notice")
    }
}

/// One link that waits for its Hello, or has had it.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) welcome: Welcome,
    pub(super) preamble: Preamble,
    /// Whose certificate was shown.
    pub(super) identity: Option<SpiffeId>,
    /// The node that the certificate names, if it names one.
    pub(super) signed_for: Option<String>,
    pub(super) streams: u32,
    pub(super) peer: OnceLock<Arc<Peer>>,
    pub(super) said: Notify,
    pub(super) notice: Notice,
}

/// Who says this Hello on a link that was opened so, where it is taken.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
#[must_use]
pub fn greeted(welcome: Welcome, preamble: Preamble, hello: &wire::HelloRequest) -> Option<Peer> {
    let greeting = Greeting {
        welcome,
        preamble,
        identity: None,
        signed_for: None,
        streams: 1,
        peer: OnceLock::new(),
        said: Notify::new(),
        notice: Notice(Box::new(|_| {})),
    };
    greeting.check(hello).ok().map(|(peer, _)| peer)
}

impl Greeting {
    /// Nobody speaks for another node, though both may be of one identity.
    fn is_its_node(&self, node: &NodeId) -> Result<(), Refusal> {
        if self.identity.is_none() || !self.welcome.own.control_signs {
            return Ok(());
        }
        match self.signed_for.as_deref() {
            Some(signed_for) if signed_for == node.as_str() => Ok(()),
            signed_for => {
                let signed_for = signed_for.map_or_else(
                    || "no node".to_owned(),
                    |it| format!("node {}", it.chars().take(80).collect::<String>()),
                );
                Err(Refusal::OtherNode {
                    what: format!(
                        "Hello says node {node}; the certificate was signed for {signed_for}"
                    ),
                })
            }
        }
    }

    fn check(&self, hello: &wire::HelloRequest) -> Result<(Peer, u32), Status> {
        let invalid = |error: FieldError| Status::invalid_argument(format!("Hello: {error}"));
        let class =
            ConnectionClass::from_spoken(hello.connection, &hello.class).ok_or_else(|| {
                Status::invalid_argument(format!(
                    "Hello: connection {} `{}` is not a class that is known here",
                    hello.connection, hello.class
                ))
            })?;
        let lane = Lane::from_wire(hello.lane_id, &hello.lane, None).map_err(invalid)?;
        let node = NodeId::new(&hello.node_id).map_err(invalid)?;
        let generation = Generation::new(hello.generation)
            .ok_or_else(|| Status::invalid_argument("Hello: generation is missing"))?;
        if (class, lane) != (self.preamble.class, self.preamble.lane) {
            return Err(Status::failed_precondition(format!(
                "Hello says {class}, lane {lane}; the link was opened as {}, lane {}",
                self.preamble.class, self.preamble.lane
            )));
        }
        let own = &self.welcome.own;
        let (own_node, own_generation) = (&own.node, own.generation());
        // Whoever means an earlier generation learns of this one from the answer; a later one is
        // alive somewhere else.
        let agreed = self.welcome.known.agrees(&node, self.identity.as_ref());
        agreed
            .and_then(|()| self.is_its_node(&node))
            .map_err(|refusal| {
                (self.notice.0)(&refusal);
                Status::permission_denied(refusal.to_string())
            })?;
        if hello.expected_node_id != own_node.as_str() || hello.expected_generation > own_generation
        {
            return Err(Status::failed_precondition(format!(
                "Hello is meant for node {}, generation {}; this is node {}, generation {}",
                hello.expected_node_id, hello.expected_generation, own_node, own_generation
            )));
        }
        let theirs = ProtocolRange::try_from(hello.protocol).map_err(invalid)?;
        let spoken = self.welcome.protocol;
        let protocol = spoken.common(theirs).ok_or_else(|| {
            Status::failed_precondition(format!(
                "no common version of the peer protocol: {node} speaks {theirs}, {own_node} speaks {spoken}"
            ))
        })?;
        Ok((
            Peer {
                node,
                generation,
                class,
                lane,
                identity: self.identity.clone(),
                unmarked: hello.unmarked_is_unrecorded,
            },
            protocol,
        ))
    }
}

/// The tonic service, for one link.
#[derive(Debug, Clone)]
pub(super) struct HelloService(pub(super) Arc<Greeting>);

#[tonic::async_trait]
impl Service for HelloService {
    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let greeting = &self.0;
        let (peer, protocol) = greeting.check(request.get_ref())?;
        let rules = &greeting.welcome.own.rules;
        rules.compare(&peer.node, &request.get_ref().rules_digest);
        let answer = wire::HelloResponse {
            node_id: greeting.welcome.own.node.as_str().to_owned(),
            generation: greeting.welcome.own.generation(),
            max_concurrent_streams: greeting.streams,
            protocol,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            connection: peer.class.spoken().0,
            class: peer.class.spoken().1.to_owned(),
            lane_id: peer.lane.id().into(),
            lane: peer.lane.name().to_owned(),
            rules_digest: rules.to_wire(),
            unmarked_is_unrecorded: peer.unmarked,
        };
        if greeting.peer.set(Arc::new(peer)).is_err() {
            return Err(Status::failed_precondition(
                "Hello was said already on this link",
            ));
        }
        greeting.said.notify_one();
        Ok(Response::new(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidelane_proto::model::Lane;

    fn greeting() -> Greeting {
        Greeting {
            welcome: Welcome {
                own: Own::new(
                    NodeId::new("orders-1").unwrap(),
                    Generation::new(7).unwrap(),
                ),
                protocol: ProtocolRange {
                    oldest: 1,
                    newest: 2,
                },
                known: Known(Arc::new(|node| {
                    (node.as_str() == "store")
                        .then(|| Identity::new("spiffe://mesh/ns/shop/sa/store").unwrap())
                })),
            },
            identity: None,
            signed_for: None,
            preamble: Preamble {
                class: ConnectionClass::Internal,
                lane: Lane::GOSSIP,
            },
            streams: 9,
            peer: OnceLock::new(),
            said: Notify::new(),
            notice: Notice(Box::new(|_| {})),
        }
    }

    fn hello() -> wire::HelloRequest {
        wire::HelloRequest {
            node_id: "store".into(),
            generation: 3,
            expected_node_id: "orders-1".into(),
            expected_generation: 7,
            connection: ConnectionClass::Internal.spoken().0,
            class: String::new(),
            lane_id: 1,
            lane: "gossip".into(),
            protocol: Some(
                ProtocolRange {
                    oldest: 1,
                    newest: 1,
                }
                .into(),
            ),
            build: "test".into(),
            rules_digest: Vec::new(),
            unmarked_is_unrecorded: false,
        }
    }

    #[test]
    fn each_wrong_hello_is_refused_by_name() {
        type Spoil = fn(&mut wire::HelloRequest);
        let cases: [(Spoil, &str); 7] = [
            (|hello| hello.node_id.clear(), "Hello: node_id is missing"),
            (|hello| hello.generation = 0, "Hello: generation is missing"),
            (
                |hello| hello.lane = "general".into(),
                "Hello: lane contradicts another field: lane_id 1 is `gossip`, lane says `general`",
            ),
            (
                |hello| (hello.lane_id, hello.lane) = (0, "general".into()),
                "Hello says Internal, lane general; the link was opened as Internal, lane gossip",
            ),
            (
                |hello| hello.expected_node_id = "orders-2".into(),
                "Hello is meant for node orders-2, generation 7; this is node orders-1, generation 7",
            ),
            (
                |hello| hello.expected_generation = 8,
                "Hello is meant for node orders-1, generation 8; this is node orders-1, generation 7",
            ),
            (
                |hello| {
                    hello.protocol = Some(
                        ProtocolRange {
                            oldest: 3,
                            newest: 4,
                        }
                        .into(),
                    );
                },
                "no common version of the peer protocol: store speaks 3 to 4, orders-1 speaks 1 to 2",
            ),
        ];
        assert_eq!(greeting().check(&hello()).unwrap().1, 1);
        for (spoil, expected) in cases {
            let mut hello = hello();
            spoil(&mut hello);
            assert_eq!(greeting().check(&hello).unwrap_err().message(), expected);
        }
    }

    #[test]
    fn a_certificate_of_another_node_is_refused() {
        let with = |id: &str| Greeting {
            identity: Some(SpiffeId::new(id).unwrap()),
            ..greeting()
        };
        let peer = with("spiffe://mesh/ns/shop/sa/store").check(&hello());
        let identity = peer.unwrap().0.identity.unwrap();
        assert_eq!(identity.as_str(), "spiffe://mesh/ns/shop/sa/store");
        let refused = with("spiffe://mesh/ns/shop/sa/other").check(&hello());
        assert_eq!(
            refused.unwrap_err().message(),
            "Hello says node store, which is spiffe://mesh/ns/shop/sa/store; the certificate is of \
             spiffe://mesh/ns/shop/sa/other"
        );
    }

    #[test]
    fn where_control_signs_a_certificate_speaks_for_its_own_node_alone() {
        let with = |signed_for: Option<&str>, control_signs| {
            let mut greeting = Greeting {
                identity: Some(SpiffeId::new("spiffe://mesh/ns/shop/sa/store").unwrap()),
                signed_for: signed_for.map(str::to_owned),
                ..greeting()
            };
            greeting.welcome.own.control_signs = control_signs;
            greeting.check(&hello()).map(|_| ())
        };
        assert!(with(Some("store"), true).is_ok());
        assert!(
            with(Some("store-2"), false).is_ok(),
            "others write what they like"
        );
        let other = with(Some("store-2"), true).unwrap_err();
        assert_eq!(
            other.message(),
            "Hello says node store; the certificate was signed for node store-2"
        );
        let none = with(None, true).unwrap_err();
        assert!(none.message().ends_with("signed for no node"), "{none:?}");
    }

    #[test]
    fn whoever_means_an_earlier_generation_is_let_in_to_learn_of_this_one() {
        let hello = wire::HelloRequest {
            expected_generation: 6,
            ..hello()
        };
        assert!(greeting().check(&hello).is_ok());
    }

    #[tokio::test]
    async fn hello_is_said_once() {
        let service = HelloService(Arc::new(greeting()));
        let answer = service
            .hello(Request::new(hello()))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (answer.node_id.as_str(), answer.max_concurrent_streams),
            ("orders-1", 9)
        );
        assert_eq!(service.0.peer.get().unwrap().node.as_str(), "store");
        let again = service.hello(Request::new(hello())).await.unwrap_err();
        assert_eq!(again.message(), "Hello was said already on this link");
    }
}
