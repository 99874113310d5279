//! The storefront as a program of its own: a visitor comes so many times a second, and each visit calls
//! three services at once, in two lanes, by the sidecar beside it. It makes no call twice, so that each
//! failure which the mesh lets through is seen, in its log and in its spans.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sidelane::TargetError;
use sidelane_process::signals::Signals;
use sidelane_trace::Joined;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;
use tower::Layer as _;
use tracing::{Instrument as _, Span, field, info, info_span, warn};

use crate::shop::v1 as wire;
use crate::shop::v1::inventory_client::InventoryClient;
use crate::shop::v1::order_log_client::OrderLogClient;
use crate::shop::v1::orders_client::OrdersClient;

/// The most visits a second: what three calls each leave of a small machine.
const RATE_LIMIT: u32 = 1_000;
/// Visits at once. One that finds no room does not take place, and is counted.
const OPEN_LIMIT: u32 = 256;
/// The longest visit.
const LIMIT: Duration = Duration::from_secs(5);
/// Time between two looks for the sidecar.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Time between two sums in the log.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Bytes of the log of orders that a visit reads.
const BLOCK_BYTES: u32 = 4 * 1024;

/// The storefront could not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckoutError {
    /// Where the sidecar is.
    #[error(transparent)]
    Sidecar(#[from] TargetError),
}

/// The shop's services, as this app calls them.
#[derive(Clone)]
struct Shop {
    orders: OrdersClient<Joined<Channel>>,
    inventory: InventoryClient<Joined<Channel>>,
    order_log: OrderLogClient<Joined<Channel>>,
}

/// What became of visits.
#[derive(Default)]
struct Visits {
    held: AtomicU64,
    failed: AtomicU64,
    held_back: AtomicU64,
}

/// Reads `--calls`.
pub(super) fn rate(text: &str) -> Result<u32, String> {
    let rate = text.parse::<u32>().ok();
    let rate = rate.filter(|rate| (1..=RATE_LIMIT).contains(rate));
    rate.ok_or_else(|| format!("write a number of calls a second from 1 to {RATE_LIMIT}"))
}

/// Lets visitors in until a signal comes, and then waits for those who are there.
pub(super) async fn run(rate: u32, mut signals: Signals) -> Result<(), CheckoutError> {
    let visits = Arc::new(Visits::default());
    let open = Arc::new(Semaphore::new(OPEN_LIMIT as usize));
    let opened = tokio::select! {
        opened = open_shop() => opened?,
        _ = signals.next() => return Ok(()),
    };
    info!(rate, "the storefront is open");
    let let_in = async {
        let mut ticks = interval(Duration::from_secs(1) / rate);
        // After a stall the rate goes on; what was missed is not made up for in a burst.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut number = 0_u64;
        loop {
            ticks.tick().await;
            number += 1;
            let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
                visits.held_back.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (shop, visits) = (opened.clone(), Arc::clone(&visits));
            tokio::spawn(async move {
                visit(shop, number, &visits).await;
                drop(permit);
            });
        }
    };
    let tell = async {
        loop {
            sleep(TELL_EVERY).await;
            visits.tell("visits so far");
        }
    };
    tokio::select! {
        never = let_in => never,
        never = tell => never,
        _ = signals.next() => {}
    }
    // Those who are there have left within their time; a second signal does not wait for that.
    tokio::select! {
        _ = open.acquire_many(OPEN_LIMIT) => {}
        _ = signals.next() => {}
    }
    visits.tell("the storefront is closed");
    Ok(())
}

/// The sidecar may be started after its app: it is waited for.
async fn open_shop() -> Result<Shop, TargetError> {
    loop {
        match sidelane::channel().await {
            Ok(channel) => {
                let channel = sidelane_trace::client().layer(channel);
                return Ok(Shop {
                    orders: OrdersClient::new(channel.clone()),
                    inventory: InventoryClient::new(channel.clone()),
                    order_log: OrderLogClient::new(channel),
                });
            }
            Err(TargetError::Unreachable { .. }) => sleep(LOOK_EVERY).await,
            Err(error) => return Err(error),
        }
    }
}

async fn visit(shop: Shop, number: u64, visits: &Visits) {
    let span = info_span!("checkout", order = number, otel.status_code = field::Empty);
    let calls = async {
        let calls = timeout(LIMIT, calls(shop, number)).await;
        let late = || Err(Status::deadline_exceeded("the visit took too long"));
        let ended = calls.unwrap_or_else(|_| late());
        match ended {
            Ok(()) => visits.held.fetch_add(1, Ordering::Relaxed),
            Err(status) => {
                Span::current().record("otel.status_code", "ERROR");
                let reason = status.metadata().get("sidelane-error");
                let reason = reason.and_then(|it| it.to_str().ok()).unwrap_or_default();
                let (code, message) = (status.code(), status.message());
                warn!(order = number, ?code, reason, message, "a visit failed");
                visits.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    };
    calls.instrument(span).await;
}

/// The three calls of a visit, at once.
async fn calls(mut shop: Shop, number: u64) -> Result<(), Status> {
    let order = async {
        let asked = wire::GetOrderRequest { order_id: number };
        let order = shop.orders.get_order(asked).await?.into_inner();
        expect(order.order_id == number, "another order")
    };
    let stock = async {
        let article_id = number;
        let asked = tokio_stream::once(wire::ReserveRequest { article_id });
        let mut reserved = shop.inventory.reserve(asked).await?.into_inner();
        let first = reserved.message().await?;
        expect(
            first.is_some_and(|it| it.article_id == article_id),
            "another article",
        )?;
        expect(reserved.message().await?.is_none(), "more than was asked")
    };
    let log = async {
        let (blocks, block_bytes) = (1, BLOCK_BYTES);
        let asked = wire::ReplicateRequest {
            blocks,
            block_bytes,
        };
        let mut sent = shop.order_log.replicate(asked).await?.into_inner();
        let mut bytes = 0;
        while let Some(block) = sent.message().await? {
            bytes += block.block.len();
        }
        expect(bytes == BLOCK_BYTES as usize, "another length of the log")
    };
    let (order, stock, log) = tokio::join!(order, stock, log);
    order.and(stock).and(log)
}

/// An answer that is not what was asked for.
fn expect(right: bool, wrong: &str) -> Result<(), Status> {
    match right {
        true => Ok(()),
        false => Err(Status::data_loss(format!("the answer is {wrong}"))),
    }
}

impl Visits {
    fn tell(&self, what: &str) {
        let [held, failed, held_back] =
            [&self.held, &self.failed, &self.held_back].map(|it| it.load(Ordering::Relaxed));
        info!(held, failed, held_back, "{what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_its_bounds() {
        assert_eq!(rate("1"), Ok(1));
        assert_eq!(rate("1000"), Ok(1_000));
        for wrong in ["0", "1001", "-1", "", "ten"] {
            let why = rate(wrong).unwrap_err();
            assert!(why.ends_with("from 1 to 1000"), "{why}");
        }
    }
}
