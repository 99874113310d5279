//! What the shop's services answer. Nothing here can fail by itself, so each failure that a caller
//! sees was made on the way.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::inflight::{InFlight, Open};
use crate::shop::v1 as wire;
use crate::shop::v1::heartbeat_server::Heartbeat;
use crate::shop::v1::inventory_server::Inventory;
use crate::shop::v1::order_log_server::OrderLog;
use crate::shop::v1::orders_server::Orders;

/// The size of an order, in bytes: what a small record has.
pub(in crate::demo) const ORDER_BYTES: usize = 256;
/// The longest block of the log, in bytes; with its frame below the 4 MiB that clients accept.
const BLOCK_LIMIT: u32 = 1024 * 1024;
/// Time between two steps of an order's way.
const STEP_EVERY: Duration = Duration::from_millis(5);
/// Time between two blocks of the log. Bulk must be there all the time, and must leave a machine
/// with two cores room for everything else.
const BLOCK_EVERY: Duration = Duration::from_millis(10);
/// Answers of one stream that wait for the transport to take them.
const ANSWERS_LIMIT: usize = 4;

/// All services of one node.
#[derive(Clone)]
pub(super) struct Shop {
    node: Arc<str>,
    in_flight: InFlight,
}

/// What is the same in all answers to one call. Its end is the end of the call.
struct Answerer {
    node: String,
    lane: String,
    _open: Open,
}

type Answers<T> = Response<ReceiverStream<Result<T, Status>>>;

impl Shop {
    pub(super) fn new(node: Arc<str>, in_flight: InFlight) -> Self {
        Self { node, in_flight }
    }

    fn answerer<T>(&self, request: &Request<T>) -> Answerer {
        // A call that came straight here, past the mesh, has no lane.
        let lane = request.metadata().get("sidelane-lane");
        Answerer {
            node: self.node.to_string(),
            lane: lane
                .and_then(|lane| lane.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            _open: self.in_flight.open(),
        }
    }
}

#[tonic::async_trait]
impl Orders for Shop {
    async fn get_order(
        &self,
        request: Request<wire::GetOrderRequest>,
    ) -> Result<Response<wire::GetOrderResponse>, Status> {
        let answerer = self.answerer(&request);
        Ok(Response::new(wire::GetOrderResponse {
            order_id: request.into_inner().order_id,
            node: answerer.node.clone(),
            content: vec![b'.'; ORDER_BYTES],
            lane: answerer.lane.clone(),
        }))
    }

    async fn import_orders(
        &self,
        request: Request<Streaming<wire::ImportOrdersRequest>>,
    ) -> Result<Response<wire::ImportOrdersResponse>, Status> {
        let answerer = self.answerer(&request);
        let mut orders = request.into_inner();
        let mut taken = 0;
        while orders.message().await?.is_some() {
            taken += 1;
        }
        Ok(Response::new(wire::ImportOrdersResponse {
            taken,
            node: answerer.node.clone(),
            lane: answerer.lane.clone(),
        }))
    }

    type WatchOrderStream = ReceiverStream<Result<wire::WatchOrderResponse, Status>>;

    async fn watch_order(
        &self,
        request: Request<wire::WatchOrderRequest>,
    ) -> Result<Answers<wire::WatchOrderResponse>, Status> {
        let answerer = self.answerer(&request);
        let steps = request.into_inner().steps;
        Ok(paced(STEP_EVERY, steps, move |step| {
            wire::WatchOrderResponse {
                step,
                node: answerer.node.clone(),
                lane: answerer.lane.clone(),
            }
        }))
    }
}

#[tonic::async_trait]
impl OrderLog for Shop {
    type ReplicateStream = ReceiverStream<Result<wire::ReplicateResponse, Status>>;

    async fn replicate(
        &self,
        request: Request<wire::ReplicateRequest>,
    ) -> Result<Answers<wire::ReplicateResponse>, Status> {
        let answerer = self.answerer(&request);
        let wire::ReplicateRequest {
            blocks,
            block_bytes,
        } = request.into_inner();
        if block_bytes > BLOCK_LIMIT {
            return Err(Status::invalid_argument(format!(
                "blocks of {block_bytes} bytes were asked for, the most is {BLOCK_LIMIT}"
            )));
        }
        let size = usize::try_from(block_bytes).unwrap_or_default();
        Ok(paced(BLOCK_EVERY, blocks, move |_| {
            wire::ReplicateResponse {
                block: vec![0; size],
                node: answerer.node.clone(),
                lane: answerer.lane.clone(),
            }
        }))
    }
}

#[tonic::async_trait]
impl Inventory for Shop {
    type ReserveStream = ReceiverStream<Result<wire::ReserveResponse, Status>>;

    async fn reserve(
        &self,
        request: Request<Streaming<wire::ReserveRequest>>,
    ) -> Result<Answers<wire::ReserveResponse>, Status> {
        let answerer = self.answerer(&request);
        let mut articles = request.into_inner();
        let (sender, receiver) = mpsc::channel(ANSWERS_LIMIT);
        tokio::spawn(async move {
            while let Some(article) = articles.message().await.transpose() {
                let answer = article.map(|article| wire::ReserveResponse {
                    article_id: article.article_id,
                    node: answerer.node.clone(),
                    lane: answerer.lane.clone(),
                });
                let last = answer.is_err();
                if sender.send(answer).await.is_err() || last {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl Heartbeat for Shop {
    async fn beat(
        &self,
        request: Request<wire::BeatRequest>,
    ) -> Result<Response<wire::BeatResponse>, Status> {
        let answerer = self.answerer(&request);
        Ok(Response::new(wire::BeatResponse {
            node: answerer.node.clone(),
            lane: answerer.lane.clone(),
        }))
    }
}

/// A stream of `count` answers, one each `every`; it ends early when nobody reads it any more.
fn paced<T: Send + 'static>(
    every: Duration,
    count: u32,
    answer: impl Fn(u32) -> T + Send + 'static,
) -> Answers<T> {
    let (sender, receiver) = mpsc::channel(ANSWERS_LIMIT);
    tokio::spawn(async move {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0..count {
            ticks.tick().await;
            if sender.send(Ok(answer(number))).await.is_err() {
                break;
            }
        }
    });
    Response::new(ReceiverStream::new(receiver))
}
