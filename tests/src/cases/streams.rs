//! The three kinds of streams: short, long, ended by one side while the other goes on.

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{Ground, fresh_key, keyed, noise};
use crate::wire::v1::{
    Behaviour, ChatRequest, CollectRequest, ExpandRequest, Moment, UnaryRequest,
};

const MIB: usize = 1024 * 1024;
const LONG: usize = 64;

/// Many in, one out.
pub async fn client_stream(ground: Ground) -> Result<()> {
    collect(&ground, 100, 1_000).await
}

/// One in, many out.
pub async fn server_stream(ground: Ground) -> Result<()> {
    expand(&ground, 100, 1_000).await
}

/// Each message is answered before the next is sent: nothing is held back on the way.
pub async fn conversation(ground: Ground) -> Result<()> {
    let (sender, receiver) = mpsc::channel(1);
    let mut echo = ground.echo().await?;
    sender.send(ChatRequest::default()).await?;
    let mut answers = echo.chat(ReceiverStream::new(receiver)).await?.into_inner();
    for index in 0..50 {
        let answer = answers
            .message()
            .await?
            .context("the conversation ended early")?;
        ensure!(answer.index == index, "{answer:?}");
        ensure!(
            answer.payload == noise(index as usize),
            "another payload came back"
        );
        let payload = noise(index as usize + 1);
        sender
            .send(ChatRequest {
                payload,
                behaviour: None,
            })
            .await?;
    }
    drop(sender);
    ensure!(
        answers.message().await?.is_some(),
        "the last message was not answered"
    );
    ensure!(
        answers.message().await?.is_none(),
        "there is an answer to nothing"
    );
    Ok(())
}

/// 64 MiB in.
pub async fn client_stream_of_64_mib(ground: Ground) -> Result<()> {
    collect(&ground, LONG, MIB).await
}

/// 64 MiB out.
pub async fn server_stream_of_64_mib(ground: Ground) -> Result<()> {
    expand(&ground, LONG, MIB).await
}

/// 64 MiB in and out at the same time.
pub async fn conversation_of_64_mib(ground: Ground) -> Result<()> {
    let payload = noise(MIB);
    let message = ChatRequest {
        payload: payload.clone(),
        behaviour: None,
    };
    let messages = stream::repeat(message).take(LONG);
    let mut answers = ground.echo().await?.chat(messages).await?.into_inner();
    let mut received = 0;
    while let Some(answer) = answers.message().await? {
        ensure!(
            answer.index == received,
            "answer {} comes after {received}",
            answer.index
        );
        ensure!(answer.payload == payload, "another payload came back");
        received += 1;
    }
    ensure!(received as usize == LONG, "{received} answers");
    Ok(())
}

/// The client has ended its side, and the server goes on.
pub async fn half_close(ground: Ground) -> Result<()> {
    let first = ChatRequest {
        behaviour: Some(Behaviour {
            epilogue: 2,
            ..Behaviour::default()
        }),
        ..ChatRequest::default()
    };
    let messages = tokio_stream::iter([first, ChatRequest::default(), ChatRequest::default()]);
    let mut answers = ground.echo().await?.chat(messages).await?.into_inner();
    let mut received = 0;
    while let Some(answer) = answers.message().await? {
        ensure!(answer.index == received, "{answer:?}");
        received += 1;
    }
    ensure!(
        received == 5,
        "3 answers and 2 more were to come, {received} came"
    );
    Ok(())
}

/// The server answers while the client has not ended its side, and never will.
pub async fn early_answer(ground: Ground) -> Result<()> {
    let mut echo = ground.echo().await?;
    let key = fresh_key("early");
    let first = CollectRequest {
        payload: noise(10),
        behaviour: Some(Behaviour {
            early: true,
            after_messages: 1,
            ..keyed(&key)
        }),
    };
    let messages = stream::iter([first]).chain(stream::pending());
    let response = echo.collect(messages).await?.into_inner();
    ensure!(
        response.messages == 1 && response.bytes == 10,
        "{response:?}"
    );
    ground.witness().await?.sees(&key, Moment::Finished).await?;
    // The connection is as good as before.
    echo.unary(UnaryRequest::default()).await?;
    Ok(())
}

/// The server refuses while the client sends as fast as it can: the client sees the refusal, and
/// not that its stream was cut.
pub async fn early_refusal_of_a_busy_sender(ground: Ground) -> Result<()> {
    let mut echo = ground.echo().await?;
    let first = CollectRequest {
        payload: noise(100),
        behaviour: Some(Behaviour {
            early: true,
            after_messages: 3,
            status: Code::ResourceExhausted.into(),
            message: "enough".to_owned(),
            ..Behaviour::default()
        }),
    };
    let more = CollectRequest {
        payload: noise(MIB / 4),
        behaviour: None,
    };
    for _ in 0..5 {
        let messages = stream::iter([first.clone()]).chain(stream::repeat(more.clone()));
        let refused = echo
            .collect(messages)
            .await
            .err()
            .context("an endless stream ended")?;
        let told = (refused.code(), refused.message());
        ensure!(told == (Code::ResourceExhausted, "enough"), "{refused:?}");
    }
    echo.unary(UnaryRequest::default()).await?;
    Ok(())
}

async fn collect(ground: &Ground, messages: usize, bytes: usize) -> Result<()> {
    let key = fresh_key("collect");
    let first = CollectRequest {
        payload: noise(bytes),
        behaviour: Some(keyed(&key)),
    };
    let more = CollectRequest {
        payload: noise(bytes),
        behaviour: None,
    };
    let sent = stream::iter([first])
        .chain(stream::repeat(more))
        .take(messages);
    let response = ground.echo().await?.collect(sent).await?.into_inner();
    ensure!(response.messages == messages as u64, "{response:?}");
    ensure!(response.bytes == (messages * bytes) as u64, "{response:?}");
    ensure!(response.node == "echo", "{response:?}");
    let executed = ground.witness().await?.count(&key).await?;
    ensure!(
        executed.arrived == 1 && executed.finished == 1,
        "{executed:?}"
    );
    Ok(())
}

async fn expand(ground: &Ground, messages: usize, bytes: usize) -> Result<()> {
    let key = fresh_key("expand");
    let request = ExpandRequest {
        messages: u32::try_from(messages)?,
        bytes: u32::try_from(bytes)?,
        behaviour: Some(keyed(&key)),
    };
    let mut answers = ground.echo().await?.expand(request).await?.into_inner();
    let mut received = 0;
    while let Some(answer) = answers.message().await? {
        ensure!(
            answer.index == received,
            "answer {} comes after {received}",
            answer.index
        );
        let filling = u8::try_from(received % 256)?;
        let right = answer.payload.len() == bytes && answer.payload.iter().all(|it| *it == filling);
        ensure!(right, "answer {received} has another payload");
        received += 1;
    }
    ensure!(received as usize == messages, "{received} answers");
    let executed = ground.witness().await?.count(&key).await?;
    ensure!(
        executed.arrived == 1 && executed.finished == 1,
        "{executed:?}"
    );
    Ok(())
}
