//! Many calls on one connection: each alone is nothing, and together they meet the limits that
//! HTTP/2 libraries set against abuse.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{Ground, SOON, fresh_key, keyed, noise};
use crate::wire::v1::echo_client::EchoClient;
use crate::wire::v1::{Behaviour, ChatRequest, ExpandRequest, UnaryRequest};

const REPLIES: u32 = 1_000;
const CANCELLED: u32 = 10_000;
/// Calls at a time that will be cancelled.
const AT_A_TIME: u32 = 64;
/// Longer than the case may take.
const FOR_EVER_MS: u32 = 600_000;

/// 1,000 calls wait for each other at the server, and are then answered at once.
pub async fn thousand_tiny_replies(ground: Ground) -> Result<()> {
    let echo = ground.echo().await?;
    let key = fresh_key("tiny");
    let calls = (0..REPLIES).map(|_| {
        let mut echo = echo.clone();
        let request = UnaryRequest {
            payload: Bytes::from_static(b"t"),
            behaviour: Some(Behaviour {
                gather: REPLIES,
                delay_ms: 20_000,
                ..keyed(&key)
            }),
        };
        async move { echo.unary(request).await }
    });
    for response in try_join_all(calls).await? {
        ensure!(
            response.get_ref().payload == "t",
            "another payload came back"
        );
    }
    let executed = ground.witness().await?.count(&key).await?;
    ensure!(executed.arrived == u64::from(REPLIES), "{executed:?}");
    ensure!(executed.cancelled == 0, "{executed:?}");
    Ok(())
}

/// 10,000 calls are given up, before and after the first answer, on a connection on which others
/// go on: not one of those may fail.
pub async fn ten_thousand_cancelled(ground: Ground) -> Result<()> {
    let echo = ground.echo().await?;
    let key = fresh_key("churn");
    let over = Arc::new(AtomicBool::new(false));
    let talker = tokio::spawn(talk(echo.clone(), over.clone()));
    let caller = tokio::spawn(call(echo.clone(), over.clone()));

    let next = AtomicU32::new(0);
    let churn = (0..AT_A_TIME).map(|_| cancel_calls(echo.clone(), &key, &next));
    let churned = try_join_all(churn).await;
    over.store(true, Ordering::Relaxed);
    let said = talker
        .await?
        .context("a conversation beside 10,000 cancelled calls")?;
    let called = caller
        .await?
        .context("calls beside 10,000 cancelled calls")?;
    churned?;
    println!("       beside them: {called} calls, {said} messages");
    ensure!(
        called > 10 && said > 10,
        "only {called} calls and {said} messages beside them"
    );

    // Everything that the server got it was also told to give up.
    let mut witness = ground.witness().await?;
    let settled = async {
        loop {
            let seen = witness.count(&key).await?;
            if seen.cancelled + seen.finished == seen.arrived {
                return anyhow::Ok(seen);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(SOON, settled).await;
    let seen = seen.context("calls that were cancelled go on at the server")??;
    ensure!(
        seen.arrived >= u64::from(CANCELLED / 2),
        "not enough was cancelled: {seen:?}"
    );
    ensure!(seen.finished == 0, "{seen:?}");
    Ok(())
}

async fn cancel_calls(mut echo: EchoClient<Channel>, key: &str, next: &AtomicU32) -> Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= CANCELLED {
            return Ok(());
        }
        let behaviour = Behaviour {
            delay_ms: FOR_EVER_MS,
            ..keyed(key)
        };
        if number.is_multiple_of(2) {
            let request = ExpandRequest {
                messages: 2,
                bytes: 10,
                behaviour: Some(Behaviour {
                    after_messages: 1,
                    ..behaviour
                }),
            };
            let mut answers = echo.expand(request).await?.into_inner();
            answers.message().await?.context("the first answer")?;
        } else {
            let request = UnaryRequest {
                behaviour: Some(behaviour),
                ..UnaryRequest::default()
            };
            // At once, on the way, or at the server: wherever that finds it.
            let patience = Duration::from_micros(u64::from(number % 5) * 500);
            let ended = tokio::time::timeout(patience, echo.unary(request)).await;
            ensure!(
                ended.is_err(),
                "a call that takes for ever has ended: {ended:?}"
            );
        }
    }
}

/// A conversation that goes on until it is over.
async fn talk(mut echo: EchoClient<Channel>, over: Arc<AtomicBool>) -> Result<u32> {
    let (sender, receiver) = mpsc::channel(1);
    sender.send(ChatRequest::default()).await?;
    let mut answers = echo.chat(ReceiverStream::new(receiver)).await?.into_inner();
    let mut said = 0;
    while !over.load(Ordering::Relaxed) {
        let answer = answers
            .message()
            .await?
            .context("the conversation ended early")?;
        ensure!(answer.index == said, "{answer:?}");
        said += 1;
        sender.send(ChatRequest::default()).await?;
    }
    drop(sender);
    while answers.message().await?.is_some() {}
    Ok(said)
}

/// Calls, one after the other, until it is over.
async fn call(mut echo: EchoClient<Channel>, over: Arc<AtomicBool>) -> Result<u32> {
    let mut called = 0;
    while !over.load(Ordering::Relaxed) {
        let request = UnaryRequest {
            payload: noise(100),
            behaviour: None,
        };
        let response = echo.unary(request).await?;
        ensure!(
            response.get_ref().payload == noise(100),
            "another payload came back"
        );
        called += 1;
    }
    Ok(called)
}
