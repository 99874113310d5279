//! Errors made by the server: every status, with a text that is not ASCII and details that are
//! not text, before anything was answered and after.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tonic::{Code, Status};

use super::Ground;
use crate::client::RawClient;
use crate::languages::Language;
use crate::wire::v1::{Behaviour, ExpandRequest, UnaryRequest};

/// Needs percent-encoding in every way (gRPC over HTTP2, `grpc-message`).
pub const MESSAGE: &str = "größer als 100 %: \"日本語\" 🚦\tTab\nzweite Zeile %41";
/// All bytes once, so that no base64 can hide a slip.
pub fn details() -> Bytes {
    (0..=255).collect::<Vec<u8>>().into()
}

/// As the whole answer.
pub async fn every_status(ground: Ground) -> Result<()> {
    let mut echo = ground.echo().await?;
    for code in 1..=16 {
        let request = UnaryRequest {
            behaviour: Some(failing(code)),
            ..UnaryRequest::default()
        };
        let status = echo.unary(request).await.err();
        let status = status.with_context(|| format!("status {code} came as success"))?;
        check(&status, code)?;
    }
    Ok(())
}

/// After two messages.
pub async fn every_status_after_messages(ground: Ground) -> Result<()> {
    let mut echo = ground.echo().await?;
    for code in 1..=16 {
        let request = ExpandRequest {
            messages: 5,
            bytes: 100,
            behaviour: Some(Behaviour {
                after_messages: 2,
                ..failing(code)
            }),
        };
        let mut answers = echo.expand(request).await?.into_inner();
        ensure!(
            answers.message().await?.is_some(),
            "no first message before {code}"
        );
        ensure!(
            answers.message().await?.is_some(),
            "no second message before {code}"
        );
        let status = answers.message().await.err();
        let status = status.with_context(|| format!("status {code} did not end the stream"))?;
        check(&status, code)?;
    }
    Ok(())
}

/// An answer that is one frame of headers stays one: with `END_STREAM` on it, and nothing behind it.
pub async fn errors_are_trailers_only(ground: Ground) -> Result<()> {
    let request = UnaryRequest {
        behaviour: Some(failing(5)),
        ..UnaryRequest::default()
    };
    let path = "/sidelane.test.v1.Echo/Unary";
    let sent = RawClient::connect(ground.server)
        .await?
        .unary(path, &[], &request)
        .await?;
    if ground.server_kind == Language::Rust {
        ensure!(
            sent.only_headers,
            "the server does not send what is to be tested: {sent:?}"
        );
    }
    let received = ground.raw().await?.unary(path, &[], &request).await?;
    ensure!(received.status == 200, "{received:?}");
    ensure!(
        received.only_headers == sent.only_headers,
        "the server sent\n{sent:?}\nand what came is\n{received:?}"
    );
    ensure!(received.data.is_empty(), "{received:?}");
    check(&received.grpc_status()?, 5)
}

fn failing(status: i32) -> Behaviour {
    Behaviour {
        status,
        message: MESSAGE.to_owned(),
        details: details(),
        ..Behaviour::default()
    }
}

fn check(status: &Status, code: i32) -> Result<()> {
    ensure!(
        status.code() == Code::from_i32(code),
        "not {code}: {status:?}"
    );
    ensure!(
        status.message() == MESSAGE,
        "with {code} came {:?}",
        status.message()
    );
    ensure!(
        status.details() == details(),
        "with {code} came {:?}",
        status.details()
    );
    // What the mesh itself says about a failure must not stand on one of the server's.
    ensure!(
        !status.metadata().contains_key("sidelane-error"),
        "{status:?}"
    );
    Ok(())
}
