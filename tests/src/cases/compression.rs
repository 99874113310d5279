//! Compressed messages, both ways. The mesh never looks inside them.

use anyhow::{Result, ensure};
use bytes::Bytes;
use tonic::Request;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::MetadataMap;

use super::Ground;
use crate::languages::Language;
use crate::upstream::COMPRESS_HEADER;
use crate::wire::v1::{ChatRequest, CollectRequest, ExpandRequest, UnaryRequest};

/// Large enough that it would be seen if somebody kept the compressed length for the real one.
const LENGTH: usize = 300_000;

/// One compressed message each way.
pub async fn gzip_unary(ground: Ground) -> Result<()> {
    let mut echo = ground
        .echo()
        .await?
        .send_compressed(Gzip)
        .accept_compressed(Gzip);
    let payload = Bytes::from(vec![b'z'; LENGTH]);
    let message = UnaryRequest {
        payload: payload.clone(),
        behaviour: None,
    };
    let response = echo.unary(asking(message)).await?;
    check_encoding(&ground, response.metadata())?;
    let response = response.into_inner();
    ensure!(response.payload == payload, "another payload came back");
    if ground.server_kind == Language::Rust {
        let seen = response
            .metadata
            .iter()
            .any(|line| line == "grpc-encoding: gzip");
        ensure!(
            seen,
            "the request did not arrive compressed: {:?}",
            response.metadata
        );
    }
    Ok(())
}

/// Streams of compressed messages.
pub async fn gzip_streams(ground: Ground) -> Result<()> {
    let mut echo = ground
        .echo()
        .await?
        .send_compressed(Gzip)
        .accept_compressed(Gzip);
    let payload = Bytes::from(vec![b'z'; LENGTH]);

    let message = CollectRequest {
        payload: payload.clone(),
        behaviour: None,
    };
    let response = echo
        .collect(asking(tokio_stream::iter(vec![message; 10])))
        .await?;
    check_encoding(&ground, response.metadata())?;
    ensure!(
        response.get_ref().bytes == 10 * LENGTH as u64,
        "{response:?}"
    );

    let message = ExpandRequest {
        messages: 10,
        bytes: u32::try_from(LENGTH)?,
        behaviour: None,
    };
    let response = echo.expand(asking(message)).await?;
    check_encoding(&ground, response.metadata())?;
    let mut answers = response.into_inner();
    let mut received = 0;
    while let Some(answer) = answers.message().await? {
        ensure!(
            answer.payload.len() == LENGTH && answer.index == received,
            "{}",
            answer.index
        );
        received += 1;
    }
    ensure!(received == 10, "{received} answers");

    let message = ChatRequest {
        payload: payload.clone(),
        behaviour: None,
    };
    let response = echo
        .chat(asking(tokio_stream::iter(vec![message; 10])))
        .await?;
    check_encoding(&ground, response.metadata())?;
    let mut answers = response.into_inner();
    let mut received = 0;
    while let Some(answer) = answers.message().await? {
        ensure!(answer.payload == payload, "another payload came back");
        received += 1;
    }
    ensure!(received == 10, "{received} answers");
    Ok(())
}

fn asking<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let asked = "yes".parse().expect("a header value");
    request.metadata_mut().insert(COMPRESS_HEADER, asked);
    request
}

fn check_encoding(ground: &Ground, metadata: &MetadataMap) -> Result<()> {
    if ground.server_kind == Language::Node {
        // grpc-js cannot compress answers; the requests are compressed all the same.
        return Ok(());
    }
    let encoding = metadata.get("grpc-encoding");
    let compressed = encoding.is_some_and(|encoding| encoding == "gzip");
    ensure!(compressed, "the answer is not compressed: {metadata:?}");
    Ok(())
}
