//! Metadata: names that occur more than once, in their order, and binary values; in headers, in
//! trailers, and in answers that are nothing but trailers.

use anyhow::{Context, Result, ensure};
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use tonic::{Code, Request};

use super::Ground;
use crate::client::USER_AGENT;
use crate::languages::Language;
use crate::wire::v1::{Behaviour, ChatRequest, ExpandRequest, UnaryRequest, UnaryResponse};

const TEXTS: [&str; 4] = ["one", "two, and a comma", "one", "four"];
/// Lengths of every remainder by 3, and bytes that would be no text.
const BINARIES: [&[u8]; 4] = [b"\x00\xff\x80", b"", b"\r\n", b"\x01\x02\x03\x04"];

/// Sent, seen by the server, and come back in the headers and trailers of one answer.
pub async fn metadata_of_unary(ground: Ground) -> Result<()> {
    let message = UnaryRequest {
        behaviour: Some(echoing()),
        ..UnaryRequest::default()
    };
    // Frame by frame: tonic's client would put the trailers in place of the headers.
    let sent = with_metadata(()).into_parts().0.into_headers();
    let sent: Vec<(&str, &str)> = sent
        .iter()
        .map(|(name, value)| Ok((name.as_str(), value.to_str()?)))
        .collect::<Result<_>>()?;
    let answer = ground
        .raw()
        .await?
        .unary("/sidelane.test.v1.Echo/Unary", &sent, &message)
        .await?;
    ensure!(answer.grpc_status()?.code() == Code::Ok, "{answer:?}");
    check(&ground, &MetadataMap::from_headers(answer.headers.clone()))
        .context("in the answer's headers")?;
    let trailers = answer
        .trailers
        .clone()
        .context("the answer has no trailers")?;
    check(&ground, &MetadataMap::from_headers(trailers)).context("in the answer's trailers")?;
    let response: UnaryResponse = answer.message()?;
    let seen: Vec<&str> = response.metadata.iter().map(String::as_str).collect();
    let seen = |name: &str| -> Vec<&str> {
        seen.iter()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .collect()
    };
    let texts = seen("x-test-text");
    ensure!(texts == expected(&ground), "the server saw {texts:?}");
    let binaries = seen("x-test-data-bin");
    ensure!(
        binaries == ["AP+A", "", "DQo=", "AQIDBA=="],
        "the server saw {binaries:?}"
    );
    Ok(())
}

/// The same, in a conversation: headers before the first answer, trailers after the last.
pub async fn metadata_of_streams(ground: Ground) -> Result<()> {
    let message = ChatRequest {
        behaviour: Some(echoing()),
        ..ChatRequest::default()
    };
    let request = with_metadata(tokio_stream::iter([message]));
    let response = ground.echo().await?.chat(request).await?;
    check(&ground, response.metadata()).context("in the answer's headers")?;
    let mut answers = response.into_inner();
    ensure!(answers.message().await?.is_some());
    ensure!(answers.message().await?.is_none());
    let trailers = answers
        .trailers()
        .await?
        .context("the stream has no trailers")?;
    check(&ground, &trailers).context("in the answer's trailers")
}

/// The same, where the answer is an error: at once, and after a message.
pub async fn metadata_of_errors(ground: Ground) -> Result<()> {
    let failing = Behaviour {
        status: Code::NotFound.into(),
        ..echoing()
    };
    let mut echo = ground.echo().await?;
    let message = UnaryRequest {
        behaviour: Some(failing.clone()),
        ..UnaryRequest::default()
    };
    let refused = echo.unary(with_metadata(message)).await;
    let status = refused.err().context("the call did not fail")?;
    ensure!(status.code() == Code::NotFound, "{status}");
    check(&ground, status.metadata()).context("in the only headers")?;

    let message = ExpandRequest {
        messages: 3,
        bytes: 1,
        behaviour: Some(Behaviour {
            after_messages: 1,
            ..failing
        }),
    };
    let response = echo.expand(with_metadata(message)).await?;
    check(&ground, response.metadata()).context("in the headers before an error")?;
    let mut answers = response.into_inner();
    ensure!(answers.message().await?.is_some());
    let broken = answers.message().await;
    let status = broken.err().context("the stream did not fail")?;
    ensure!(status.code() == Code::NotFound, "{status}");
    check(&ground, status.metadata()).context("in the trailers of an error")
}

/// The server sees the client's own `user-agent`.
pub async fn user_agent_is_kept(ground: Ground) -> Result<()> {
    let mut echo = ground.echo().await?;
    let response = echo.unary(UnaryRequest::default()).await?.into_inner();
    let lines = response.metadata.iter();
    let agents: Vec<&str> = lines
        .filter_map(|line| line.strip_prefix("user-agent: "))
        .collect();
    ensure!(
        agents.len() == 1 && agents[0].starts_with(USER_AGENT),
        "{agents:?}"
    );
    ensure!(
        !agents[0].contains("hyper"),
        "somebody added its own name: {agents:?}"
    );
    Ok(())
}

fn echoing() -> Behaviour {
    Behaviour {
        echo_metadata: true,
        ..Behaviour::default()
    }
}

fn with_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    for (text, binary) in TEXTS.iter().zip(BINARIES) {
        metadata.append("x-test-text", text.parse().expect("a header value"));
        metadata.append_bin("x-test-data-bin", BinaryMetadataValue::from_bytes(binary));
    }
    request
}

/// The texts as they come from this server: Node joins values of one name, as gRPC allows for those
/// that are not binary.
fn expected(ground: &Ground) -> Vec<String> {
    if ground.server_kind == Language::Node {
        vec![TEXTS.join(", ")]
    } else {
        TEXTS.map(str::to_owned).to_vec()
    }
}

/// Everything that was sent is there, and nothing twice.
fn check(ground: &Ground, metadata: &MetadataMap) -> Result<()> {
    let texts = metadata.get_all("x-test-text").iter();
    let texts: Vec<&str> = texts
        .map(|value| value.to_str())
        .collect::<Result<_, _>>()?;
    ensure!(texts == expected(ground), "{texts:?}");
    let binaries = metadata.get_all_bin("x-test-data-bin").iter();
    let binaries: Vec<_> = binaries
        .map(tonic::metadata::MetadataValue::to_bytes)
        .collect::<Result<_, _>>()?;
    ensure!(binaries == BINARIES, "{binaries:?}");
    Ok(())
}
