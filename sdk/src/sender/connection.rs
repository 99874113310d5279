//! A connection that carries what travels in its class and lane. What travels elsewhere does not
//! compile.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use sidelane_proto::model::{ConnectionClass, Lane};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::bound::Bound;
use super::hash::HashKey;
use super::network::{ConnectionKey, NetworkSender, Recipient};
use super::typed::RpcRequest;
use crate::routing::{LaneMarker, RoutingWitness, ServiceRouting, ValidRoutingMatrix};

/// The rule of this service says class `C` and lane `L`. Every service does so of its own, and of
/// no others.
pub trait TravelsIn<C, L>: ServiceRouting {}

impl<S: ServiceRouting> TravelsIn<S::Connection, S::Lane> for S {}

/// A way to one node or to any, in one class and one lane.
///
/// ```
/// # use sidelane::sender::{NetworkSender, NetworkSenderExt, NodeId};
/// use sidelane::routing::{Gossip, GossipServiceRouting, Internal, RoutingFactory};
/// use sidelane::sender::TypedConnection;
///
/// # fn example(sender: impl NetworkSender, node: NodeId) {
/// let sender = sender.typed();
/// let heartbeats: TypedConnection<Internal, Gossip> =
///     sender.get_typed_connection(node, RoutingFactory::internal_gossip());
/// let bound = heartbeats.bind::<GossipServiceRouting>();
/// // let mut gossip = GossipClient::new(bound);
/// # }
/// ```
///
/// ```compile_fail,E0271
/// # use sidelane::routing::{Gossip, Internal, MetadataServiceRouting};
/// # use sidelane::sender::TypedConnection;
/// fn wrong(heartbeats: &TypedConnection<Internal, Gossip>) {
///     // error: type mismatch resolving `<MetadataServiceRouting as ServiceRouting>::Lane == Gossip`
///     let _ = heartbeats.bind::<MetadataServiceRouting>();
/// }
/// ```
pub struct TypedConnection<C: ValidRoutingMatrix<L>, L: LaneMarker> {
    sender: Arc<dyn NetworkSender>,
    key: ConnectionKey,
    witness: PhantomData<RoutingWitness<C, L>>,
}

impl<C: ValidRoutingMatrix<L>, L: LaneMarker> TypedConnection<C, L> {
    pub(super) fn new(
        sender: Arc<dyn NetworkSender>,
        key: ConnectionKey,
        _: RoutingWitness<C, L>,
    ) -> Self {
        Self {
            sender,
            key,
            witness: PhantomData,
        }
    }

    /// The class.
    #[must_use]
    pub const fn class(&self) -> ConnectionClass {
        C::CLASS
    }

    /// The lane.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        L::LANE
    }

    /// What it is pooled by.
    #[must_use]
    pub fn key(&self) -> &ConnectionKey {
        &self.key
    }

    /// Who is meant.
    #[must_use]
    pub fn recipient(&self) -> &Recipient {
        &self.key.recipient
    }

    /// What a generated client of `S` stands on to use this connection.
    #[must_use]
    pub fn bind<S: TravelsIn<C, L>>(&self) -> Bound<S> {
        Bound::shared(Arc::clone(&self.sender), self.recipient().clone())
    }

    /// Calls the method of `S` whose request this is. A `sort_key` keeps calls together on one
    /// endpoint, instead of what the request says itself; without a `timeout` the rule's holds.
    ///
    /// # Errors
    /// What the callee or the mesh answers.
    pub async fn call<Q, S>(
        &self,
        request: Q,
        sort_key: Option<u64>,
        timeout: Option<Duration>,
    ) -> Result<Response<Q::Response>, Status>
    where
        S: TravelsIn<C, L>,
        Q: RpcRequest<S>,
    {
        let to = (Arc::clone(&self.sender), self.recipient().clone());
        unary(to, request, sort_key, timeout).await
    }
}

pub(super) async fn unary<Q, S>(
    (sender, recipient): (Arc<dyn NetworkSender>, Recipient),
    request: Q,
    sort_key: Option<u64>,
    timeout: Option<Duration>,
) -> Result<Response<Q::Response>, Status>
where
    S: ServiceRouting,
    Q: RpcRequest<S>,
{
    let path = PathAndQuery::try_from(format!("/{}/{}", S::NAME, Q::METHOD))
        .map_err(|error| Status::internal(format!("{} is no method: {error}", Q::METHOD)))?;
    let key = sort_key.map_or_else(|| request.hash_key(), |key| HashKey::of(&key));
    let mut request = Request::new(request);
    if let Some(key) = key {
        key.put(&mut request);
    }
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    let bound = Bound::<S>::of_method(sender, recipient, Q::METHOD);
    let mut client = tonic::client::Grpc::new(bound);
    client
        .unary(request, path, ProstCodec::<Q, Q::Response>::default())
        .await
}

impl<C: ValidRoutingMatrix<L>, L: LaneMarker> Clone for TypedConnection<C, L> {
    fn clone(&self) -> Self {
        Self {
            sender: Arc::clone(&self.sender),
            key: self.key.clone(),
            witness: PhantomData,
        }
    }
}

impl<C: ValidRoutingMatrix<L>, L: LaneMarker> std::fmt::Debug for TypedConnection<C, L> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("TypedConnection");
        shown.field("key", &self.key).finish_non_exhaustive()
    }
}
