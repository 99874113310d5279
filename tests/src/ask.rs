//! The shortest calls there are: one empty message through a node's sidecar, on a connection of
//! its own, for tests that are about something else than what is said.

use std::time::Duration;

use http::HeaderMap;
use tonic::Status;

use crate::client::{RawAnswer, RawClient};
use crate::cluster::Node;
use crate::wire::v1::UnaryRequest;
use crate::wire::v1::echo_client::EchoClient;

/// The unary method of the service that most tests call.
pub const ECHO_UNARY: &str = "/sidelane.test.v1.Echo/Unary";
/// What takes longer than this has gone wrong.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two attempts of [`until_answered`].
const AGAIN: Duration = Duration::from_millis(20);

/// Who answers `Echo.Unary`.
///
/// # Errors
/// Nobody does.
pub async fn who(node: &Node) -> Result<String, Status> {
    let mut echo = EchoClient::new(node.channel().await);
    let answer = echo.unary(UnaryRequest::default()).await?;
    Ok(answer.into_inner().node)
}

/// Waits until somebody answers `Echo.Unary`, and says who.
///
/// # Panics
/// If nobody does within 10 s: with the last refusal.
pub async fn until_answered(node: &Node) -> String {
    let mut last = None;
    let asking = async {
        loop {
            match who(node).await {
                Ok(name) => break name,
                Err(status) => last = Some(status),
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    let answered = tokio::time::timeout(LIMIT, asking).await;
    answered.unwrap_or_else(|_| panic!("nobody answers {}: {last:?}", node.name()))
}

/// Calls this path with these headers and an empty message.
///
/// # Panics
/// If nobody listens, or there is no whole answer within 10 s.
pub async fn ask(node: &Node, path: &str, headers: &[(&str, &str)]) -> RawAnswer {
    let client = RawClient::connect(node.outbound()).await;
    let client = client.unwrap_or_else(|error| panic!("{}: {error:#}", node.name()));
    ask_over(&client, path, headers).await
}

/// The same, over a connection that stands.
///
/// # Panics
/// If there is no whole answer within 10 s.
pub async fn ask_over(client: &RawClient, path: &str, headers: &[(&str, &str)]) -> RawAnswer {
    let empty = UnaryRequest::default();
    let answer = tokio::time::timeout(LIMIT, client.unary(path, headers, &empty)).await;
    let answer = answer.unwrap_or_else(|_| panic!("{path}: no answer within {LIMIT:?}"));
    answer.unwrap_or_else(|error| panic!("{path}: {error:#}"))
}

/// All values of a header, in their order.
///
/// # Panics
/// If one is no text.
#[must_use]
pub fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let text = |value: &'a http::HeaderValue| value.to_str().expect("a header of text");
    headers.get_all(name).iter().map(text).collect()
}
