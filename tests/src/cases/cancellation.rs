//! Calls that one side gives up: the other sees it, and soon. Both sides write down the time by
//! the clock of the machine that they share.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prost::Message;
use tonic::{Code, Status};

use super::{Ground, fresh_key, keyed, median};
use crate::client::RawClient;
use crate::wire::v1::{
    Behaviour, ChatRequest, CollectRequest, ExpandRequest, Moment, UnaryRequest,
};

const TIMES: usize = 20;
const LIMIT: Duration = Duration::from_millis(50);
/// What is left of a call that has begun. Dropped, it gives the call up.
type Call<'a> = BoxFuture<'a, Result<(), Status>>;

/// Longer than the case may take.
const FOR_EVER_MS: u32 = 600_000;

/// While the server thinks about its answer.
pub async fn server_sees_cancelled_unary(ground: Ground) -> Result<()> {
    let mut echo = ground.echo().await?;
    server_sees(&ground, async |behaviour| {
        let request = UnaryRequest {
            behaviour: Some(thinking(behaviour)),
            ..UnaryRequest::default()
        };
        let mut echo = echo.clone();
        Ok(async move { echo.unary(request).await.map(drop) }.boxed())
    })
    .await?;
    // The connection is as good as before.
    echo.unary(UnaryRequest::default()).await?;
    Ok(())
}

/// While the client still sends.
pub async fn server_sees_cancelled_client_stream(ground: Ground) -> Result<()> {
    let client = ground.raw().await?;
    server_sees(&ground, async |behaviour| {
        let first = CollectRequest {
            behaviour: Some(behaviour),
            ..CollectRequest::default()
        };
        raw_call(&client, "/sidelane.test.v1.Echo/Collect", &first).await
    })
    .await
}

/// After a part of the answer.
pub async fn server_sees_cancelled_server_stream(ground: Ground) -> Result<()> {
    let mut echo = ground.echo().await?;
    server_sees(&ground, async |behaviour| {
        let request = ExpandRequest {
            messages: 2,
            bytes: 10,
            behaviour: Some(Behaviour {
                after_messages: 1,
                ..thinking(behaviour)
            }),
        };
        let mut answers = echo.expand(request).await?.into_inner();
        answers.message().await?.context("the first answer")?;
        Ok(async move { answers.message().await.map(drop) }.boxed())
    })
    .await
}

/// While nobody says anything.
pub async fn server_sees_cancelled_conversation(ground: Ground) -> Result<()> {
    let client = ground.raw().await?;
    server_sees(&ground, async |behaviour| {
        let first = ChatRequest {
            behaviour: Some(behaviour),
            ..ChatRequest::default()
        };
        raw_call(&client, "/sidelane.test.v1.Echo/Chat", &first).await
    })
    .await
}

/// The server breaks off in the middle of its answer, by `RST_STREAM` where it can.
pub async fn client_sees_cancelling_server(ground: Ground) -> Result<()> {
    let mut echo = ground.echo().await?;
    let mut witness = ground.witness().await?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let key = fresh_key("cancelling-server");
        let request = ExpandRequest {
            messages: 2,
            bytes: 10,
            behaviour: Some(Behaviour {
                after_messages: 1,
                delay_ms: 20,
                cancel: true,
                ..keyed(&key)
            }),
        };
        let mut answers = echo.expand(request).await?.into_inner();
        answers.message().await?.context("the first answer")?;
        let status = answers
            .message()
            .await
            .err()
            .context("the stream went on")?;
        let seen = SystemTime::now();
        ensure!(status.code() == Code::Cancelled, "{status:?}");
        let given_up = witness.sees(&key, Moment::Finished).await?.when;
        times.push(seen.duration_since(given_up).unwrap_or_default());
    }
    check(times)
}

/// A call whose request goes on for ever. tonic's client cannot give one up: as long as it waits
/// for the next message to send, hyper holds the stream open, whatever else is dropped.
async fn raw_call<'a>(client: &RawClient, path: &str, first: &impl Message) -> Result<Call<'a>> {
    let mut call = client.begin(path, &[]).await?;
    call.send(first)?;
    let answer = async move { call.answer().await?.grpc_status() };
    Ok(answer
        .map(|ended| ended.map_or_else(|error| Err(Status::unknown(format!("{error:#}"))), Err))
        .boxed())
}

/// Begins a call, gives it up once the server has it, and asks the server when it saw that.
async fn server_sees<'a>(
    ground: &Ground,
    mut begin: impl AsyncFnMut(Behaviour) -> Result<Call<'a>>,
) -> Result<()> {
    let mut witness = ground.witness().await?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let key = fresh_key("cancelled");
        let mut call = begin(keyed(&key)).await?;
        let arrived = tokio::select! {
            arrived = witness.sees(&key, Moment::Arrived) => arrived,
            ended = &mut call => anyhow::bail!("the call ended by itself: {ended:?}"),
        };
        arrived?;
        let given_up = SystemTime::now();
        drop(call);
        let seen = witness.sees(&key, Moment::Cancelled).await?.when;
        times.push(seen.duration_since(given_up).unwrap_or_default());
    }
    check(times)
}

fn thinking(behaviour: Behaviour) -> Behaviour {
    Behaviour {
        delay_ms: FOR_EVER_MS,
        ..behaviour
    }
}

fn check(times: Vec<Duration>) -> Result<()> {
    let all = format!("{times:?}");
    let median = median(times);
    println!("       median of {TIMES}: {median:?}");
    ensure!(
        median < LIMIT,
        "seen after {median:?} (median of {TIMES}): {all}"
    );
    Ok(())
}
