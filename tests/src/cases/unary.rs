//! One message each way.

use anyhow::{Result, ensure};

use super::{Ground, Way, fresh_key, keyed, noise};
use crate::wire::v1::{CollectRequest, ExpandRequest, UnaryRequest};

const FOUR_MIB: usize = 4 * 1024 * 1024;

/// What goes in comes out, executed once, and the server knows who called.
pub async fn unary_is_given_back(ground: Ground) -> Result<()> {
    let key = fresh_key("unary");
    let request = UnaryRequest {
        payload: noise(1_000),
        behaviour: Some(keyed(&key)),
    };
    let response = ground.echo().await?.unary(request).await?.into_inner();
    ensure!(
        response.payload == noise(1_000),
        "another payload came back"
    );
    ensure!(response.node == "echo", "answered by `{}`", response.node);
    let executed = ground.witness().await?.count(&key).await?;
    ensure!(
        executed.arrived == 1 && executed.finished == 1,
        "{executed:?}"
    );

    let told = |name: &str| -> Vec<&str> {
        let lines = response.metadata.iter();
        lines
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .collect()
    };
    match &ground.way {
        Way::Direct => {
            ensure!(told("sidelane-source-node").is_empty());
            ensure!(response.remaining_ms == -1, "{} ms", response.remaining_ms);
        }
        Way::Mesh { caller } => {
            let source = told("sidelane-source-node");
            ensure!(
                source == [caller.as_str()],
                "the server was told {source:?}, not {caller}"
            );
            ensure!(
                told("sidelane-lane") == ["general"],
                "{:?}",
                told("sidelane-lane")
            );
        }
    }
    Ok(())
}

/// Messages without a byte, and a stream without a message.
pub async fn empty_messages(ground: Ground) -> Result<()> {
    let mut echo = ground.echo().await?;
    let response = echo.unary(UnaryRequest::default()).await?.into_inner();
    ensure!(response.payload.is_empty() && response.node == "echo");

    let nothing = tokio_stream::iter(Vec::<CollectRequest>::new());
    let response = echo.collect(nothing).await?.into_inner();
    ensure!(
        response.messages == 0 && response.node == "echo",
        "{response:?}"
    );

    let empty = tokio_stream::iter(vec![CollectRequest::default(); 5]);
    let response = echo.collect(empty).await?.into_inner();
    ensure!(
        response.messages == 5 && response.bytes == 0,
        "{response:?}"
    );

    let mut answers = echo.expand(ExpandRequest::default()).await?.into_inner();
    let first = answers.message().await?;
    ensure!(first.is_none(), "no answer was asked for: {first:?}");
    Ok(())
}

/// A message of 4 MiB each way.
pub async fn unary_of_4_mib(ground: Ground) -> Result<()> {
    let request = UnaryRequest {
        payload: noise(FOUR_MIB),
        behaviour: None,
    };
    let response = ground.echo().await?.unary(request).await?.into_inner();
    ensure!(
        response.payload == noise(FOUR_MIB),
        "another payload came back"
    );
    Ok(())
}
