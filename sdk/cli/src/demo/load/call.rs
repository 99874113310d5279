//! One call of each kind, from its first byte to the check of its last answer.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::check::{Answered, Answers, Fault};
use super::clients::Clients;
use crate::demo::app::ORDER_BYTES;
use crate::demo::message::Kind;
use crate::shop::v1 as wire;
use crate::shop::v1::orders_client::OrdersClient;

/// No call of the demo takes longer; one that does counts as failed, so that a call that hangs is
/// seen. Far above the longest stream, because a busy machine is no failure.
pub(super) const LIMIT: Duration = Duration::from_secs(8);
/// Orders in a client-streaming call.
const IMPORTED: u64 = 20;
/// Answers of a server-streaming call, 5 ms apart.
const STEPS: u32 = 10;
/// Reservations of a bidirectional call, each sent when the one before is answered.
const RESERVATIONS: u64 = 10;
/// Blocks of a bulk stream, 10 ms apart.
const BLOCKS: u32 = 100;
/// Bytes of each.
const BLOCK_BYTES: u32 = 128 * 1024;

/// Makes one call; `number` makes it differ from the others.
pub(super) async fn make(kind: Kind, clients: Clients, number: u64) -> Result<Answered, Fault> {
    let answers = Answers::to(kind);
    let late = answers.fault(
        "no answer",
        format!("the call was still open after {} s", LIMIT.as_secs()),
    );
    let call = async {
        match kind {
            Kind::Direct => unary(clients.direct, number, answers).await,
            Kind::Unary => unary(clients.orders, number, answers).await,
            Kind::ClientStream => client_stream(clients, number, answers).await,
            Kind::ServerStream => server_stream(clients, number, answers).await,
            Kind::Bidirectional => bidirectional(clients, number, answers).await,
            Kind::Heartbeat => heartbeat(clients, answers).await,
            Kind::Bulk => bulk(clients, answers).await,
        }
    };
    timeout(LIMIT, call).await.unwrap_or(Err(late))
}

async fn unary(
    mut orders: OrdersClient<tonic::transport::Channel>,
    order_id: u64,
    mut answers: Answers,
) -> Result<Answered, Fault> {
    let answer = orders.get_order(wire::GetOrderRequest { order_id }).await;
    let order = answer
        .map_err(|status| answers.failed(&status))?
        .into_inner();
    answers.take(&order.node, &order.lane, order.content.len())?;
    answers.expect("the order's number", &order.order_id, &order_id)?;
    answers.expect("the order's size", &order.content.len(), &ORDER_BYTES)?;
    answers.end()
}

async fn client_stream(
    mut clients: Clients,
    number: u64,
    mut answers: Answers,
) -> Result<Answered, Fault> {
    let orders = (0..IMPORTED).map(move |index| wire::ImportOrdersRequest {
        order_id: number.wrapping_add(index),
    });
    let answer = clients
        .orders
        .import_orders(tokio_stream::iter(orders))
        .await;
    let imported = answer
        .map_err(|status| answers.failed(&status))?
        .into_inner();
    answers.take(&imported.node, &imported.lane, 0)?;
    answers.expect("the number of orders taken", &imported.taken, &IMPORTED)?;
    answers.end()
}

async fn server_stream(
    mut clients: Clients,
    order_id: u64,
    mut answers: Answers,
) -> Result<Answered, Fault> {
    let request = wire::WatchOrderRequest {
        order_id,
        steps: STEPS,
    };
    let answer = clients.orders.watch_order(request).await;
    let mut steps = answer
        .map_err(|status| answers.failed(&status))?
        .into_inner();
    let mut seen = 0;
    while let Some(step) = steps
        .message()
        .await
        .map_err(|status| answers.failed(&status))?
    {
        answers.take(&step.node, &step.lane, 0)?;
        answers.expect("the step's number", &step.step, &seen)?;
        seen += 1;
    }
    answers.expect("the number of steps", &seen, &STEPS)?;
    answers.end()
}

async fn bidirectional(
    mut clients: Clients,
    number: u64,
    mut answers: Answers,
) -> Result<Answered, Fault> {
    let (sender, receiver) = mpsc::channel(1);
    let article = |index| wire::ReserveRequest {
        article_id: number.wrapping_add(index),
    };
    // Where the stream has ended early the answers say why, so a failed send is no news.
    let _ = sender.send(article(0)).await;
    let answer = clients
        .inventory
        .reserve(ReceiverStream::new(receiver))
        .await;
    let mut reserved = answer
        .map_err(|status| answers.failed(&status))?
        .into_inner();
    let mut sender = Some(sender);
    let mut seen = 0;
    while let Some(one) = reserved
        .message()
        .await
        .map_err(|status| answers.failed(&status))?
    {
        answers.take(&one.node, &one.lane, 0)?;
        answers.expect(
            "the article reserved",
            &one.article_id,
            &number.wrapping_add(seen),
        )?;
        seen += 1;
        if seen == RESERVATIONS {
            sender = None;
        } else if let Some(sender) = &sender {
            let _ = sender.send(article(seen)).await;
        }
    }
    drop(sender);
    answers.expect("the number of reservations", &seen, &RESERVATIONS)?;
    answers.end()
}

async fn heartbeat(mut clients: Clients, mut answers: Answers) -> Result<Answered, Fault> {
    let request = wire::BeatRequest { node: clients.node };
    let answer = clients.heartbeat.beat(request).await;
    let beat = answer
        .map_err(|status| answers.failed(&status))?
        .into_inner();
    answers.take(&beat.node, &beat.lane, 0)?;
    answers.end()
}

async fn bulk(mut clients: Clients, mut answers: Answers) -> Result<Answered, Fault> {
    let request = wire::ReplicateRequest {
        blocks: BLOCKS,
        block_bytes: BLOCK_BYTES,
    };
    let answer = clients.order_log.replicate(request).await;
    let mut blocks = answer
        .map_err(|status| answers.failed(&status))?
        .into_inner();
    let mut seen = 0;
    while let Some(block) = blocks
        .message()
        .await
        .map_err(|status| answers.failed(&status))?
    {
        let size = u32::try_from(block.block.len()).unwrap_or(u32::MAX);
        answers.take(&block.node, &block.lane, block.block.len())?;
        answers.expect("the block's size", &size, &BLOCK_BYTES)?;
        seen += 1;
    }
    answers.expect("the number of blocks", &seen, &BLOCKS)?;
    answers.end()
}
