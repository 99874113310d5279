//! Calls of which the types say everything: the request says its method, the service its rule.

use std::sync::Arc;
use std::time::Duration;

use sidelane_proto::model::{ConnectionClass, Lane};
use tonic::Status;

use super::bound::Bound;
use super::connection::{TypedConnection, unary};
use super::hash::HashKey;
use super::network::{ConnectionKey, NetworkSender, Recipient};
use super::pool::Pool;
use crate::routing::{
    ConnectionMarker, LaneMarker, RoutingConfig, ServiceRouting, ValidRoutingMatrix,
};

/// A request of one of the unary methods of `S`. The build writes it for every message that is the
/// request of exactly one; by hand it is three lines.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is the request of no method of `{S}`",
    label = "not a request of this service",
    note = "the build writes `RpcRequest` for a message that is the request of exactly one unary \
            method of a service"
)]
pub trait RpcRequest<S: ServiceRouting>: prost::Message + 'static {
    /// What the method answers.
    type Response: prost::Message + Default + 'static;

    /// The method's name without its service.
    const METHOD: &'static str;

    /// The key that the method's `hash_on` finds in it.
    fn hash_key(&self) -> Option<HashKey> {
        None
    }
}

/// From a sender of anything to one of types.
pub trait NetworkSenderExt: NetworkSender + Sized {
    /// Calls by types, through this sender.
    fn typed(self) -> TypedNetworkSender {
        TypedNetworkSender {
            pool: Arc::new(Pool::new(Arc::new(self))),
        }
    }
}

impl<T: NetworkSender> NetworkSenderExt for T {}

/// Makes calls by types, over connections that it keeps: one for each node, generation, class and
/// lane, up to [`POOL_LIMIT`](super::POOL_LIMIT). Clones share them.
#[derive(Clone)]
pub struct TypedNetworkSender {
    pool: Arc<Pool>,
}

impl TypedNetworkSender {
    /// A connection to this node, or to whom each rule's strategy picks, in this class and lane.
    /// The same way gives the same connection. Nothing is dialled before its first call.
    #[must_use]
    pub fn get_typed_connection<C: ValidRoutingMatrix<L>, L: LaneMarker>(
        &self,
        node: impl Into<Recipient>,
        routing: RoutingConfig<C, L>,
    ) -> TypedConnection<C, L> {
        let key = self.key(node.into(), routing.class(), routing.lane());
        TypedConnection::new(self.pool.get(&key), key, routing.witness())
    }

    /// Calls the method of `S` whose request this is. Class, lane, strategy and security are those
    /// of the rule of `S`, and the sidecar refuses the call rather than send it otherwise. A
    /// `sort_key` keeps calls together on one endpoint where the strategy goes by a key; without a
    /// `timeout` the rule's holds.
    ///
    /// # Errors
    /// What the callee or the mesh answers.
    pub async fn call_rpc_with_service_routing<Q, S, R>(
        &self,
        node: impl Into<Recipient>,
        request: Q,
        sort_key: Option<u64>,
        timeout: Option<Duration>,
    ) -> Result<R, Status>
    where
        S: ServiceRouting,
        Q: RpcRequest<S, Response = R>,
    {
        let answer = unary(self.way::<S>(node), request, sort_key, timeout).await?;
        Ok(answer.into_inner())
    }

    /// What a generated client of `S` stands on to use the connection that its rule asks for.
    #[must_use]
    pub fn bind<S: ServiceRouting>(&self, node: impl Into<Recipient>) -> Bound<S> {
        let (sender, recipient) = self.way::<S>(node);
        Bound::shared(sender, recipient)
    }

    /// How many connections are kept.
    #[must_use]
    pub fn pooled(&self) -> usize {
        self.pool.len()
    }

    fn way<S: ServiceRouting>(
        &self,
        node: impl Into<Recipient>,
    ) -> (Arc<dyn NetworkSender>, Recipient) {
        let class = <S::Connection as ConnectionMarker>::CLASS;
        let key = self.key(node.into(), class, <S::Lane as LaneMarker>::LANE);
        (self.pool.get(&key), key.recipient)
    }

    fn key(&self, recipient: Recipient, class: ConnectionClass, lane: Lane) -> ConnectionKey {
        let node = recipient.node();
        ConnectionKey {
            generation: node.and_then(|node| self.pool.sender().generation(node)),
            recipient,
            class,
            lane,
        }
    }
}

impl std::fmt::Debug for TypedNetworkSender {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("TypedNetworkSender");
        shown
            .field("pooled", &self.pooled())
            .finish_non_exhaustive()
    }
}
