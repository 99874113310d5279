//! The generated clients, over the channel that any program would use: the SDK's, to the sidecar
//! that `SIDELANE_TARGET` names. Only the direct calls, made for comparison, go past it.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::LoadError;
use crate::shop::v1::heartbeat_client::HeartbeatClient;
use crate::shop::v1::inventory_client::InventoryClient;
use crate::shop::v1::order_log_client::OrderLogClient;
use crate::shop::v1::orders_client::OrdersClient;

/// How long a dial may take, past the mesh.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// One client for each service; clones share their connections.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) node: String,
    pub(super) direct: OrdersClient<Channel>,
    pub(super) orders: OrdersClient<Channel>,
    pub(super) inventory: InventoryClient<Channel>,
    pub(super) order_log: OrderLogClient<Channel>,
    pub(super) heartbeat: HeartbeatClient<Channel>,
}

impl Clients {
    pub(super) async fn connect(node: &str, direct: &str) -> Result<Self, LoadError> {
        let mesh = sidelane::channel().await?;
        let direct = Endpoint::from_shared(direct.to_owned()).map_err(|source| {
            let given = direct.to_owned();
            LoadError::Direct { given, source }
        })?;
        let direct = direct
            .connect_timeout(DIAL_LIMIT)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Self {
            node: node.to_owned(),
            direct: OrdersClient::new(direct),
            orders: OrdersClient::new(mesh.clone()),
            inventory: InventoryClient::new(mesh.clone()),
            order_log: OrderLogClient::new(mesh.clone()),
            heartbeat: HeartbeatClient::new(mesh),
        })
    }
}
