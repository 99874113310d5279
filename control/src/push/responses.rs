//! The answering half of a stream: takes messages of a session one by one and puts each into bytes
//! of its own. tonic's encoder would keep the room of the largest message that it ever encoded for
//! as long as the stream lives, and the first one of each stream holds all that its sidecar wants
//! to know: a quarter of what an idle session cost.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::HeaderMap;
use hyper::body::{Body, Bytes, Frame};
use sidelane_proto::model::snapshot::UPDATE_BYTES_LIMIT;
use tokio::sync::mpsc;
use tonic::Status;

use super::outgoing::Outgoing;

/// What gRPC puts before each message, in bytes: not compressed, and the length.
const PREFIX: usize = 5;

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Responses {
    outgoing: mpsc::Receiver<Outgoing>,
    ended: bool,
}

impl Responses {
    pub(super) fn new(outgoing: mpsc::Receiver<Outgoing>) -> Self {
        Self {
            outgoing,
            ended: false,
        }
    }

    fn end(&mut self, status: &Status) -> Result<Frame<Bytes>, Status> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }
}

impl Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(self.outgoing.poll_recv(context));
        let bytes = next.map(|outgoing| outgoing.into_response().and_then(|said| encode(&said)));
        Poll::Ready(Some(match bytes {
            Some(Ok(bytes)) => Ok(Frame::data(bytes)),
            Some(Err(status)) => self.end(&status),
            None => self.end(&Status::ok("")),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

fn encode(message: &impl prost::Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).ok();
    let Some(prefix) = prefix.filter(|_| length <= UPDATE_BYTES_LIMIT) else {
        return Err(Status::out_of_range(format!(
            "an update of {length} bytes is due, and no more than {UPDATE_BYTES_LIMIT} are sent: \
             subscribe to fewer services"
        )));
    };
    let mut bytes = Vec::with_capacity(PREFIX + length);
    bytes.push(0);
    bytes.extend_from_slice(&prefix.to_be_bytes());
    message
        .encode(&mut bytes)
        .map_err(|error| Status::internal(format!("a message cannot be encoded: {error}")))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use sidelane_proto::wire::control::v1::{
        DrainConfirmed, SyncResponse, sync_response::Message as Told,
    };
    use std::future::poll_fn;

    async fn next(responses: &mut Responses) -> Option<Frame<Bytes>> {
        let frame = poll_fn(|context| Pin::new(&mut *responses).poll_frame(context)).await;
        frame.map(Result::unwrap)
    }

    #[tokio::test]
    async fn each_message_has_its_prefix_and_the_end_its_status() {
        let (outgoing, receiver) = mpsc::channel(2);
        let mut responses = Responses::new(receiver);
        let confirmed = DrainConfirmed {
            version: None,
            unacknowledged: 7,
        };
        let told = Told::DrainConfirmed(confirmed);
        outgoing.send(Outgoing::told(told.clone())).await.unwrap();
        drop(outgoing);
        let data = next(&mut responses).await.unwrap().into_data().unwrap();
        let (prefix, message) = data.split_at(PREFIX);
        assert_eq!(prefix, [0, 0, 0, 0, u8::try_from(message.len()).unwrap()]);
        let read = SyncResponse::decode(message).unwrap();
        assert_eq!(read.message, Some(told));
        let trailers = next(&mut responses).await.unwrap();
        assert_eq!(trailers.into_trailers().unwrap()["grpc-status"], "0");
        assert!(responses.is_end_stream() && next(&mut responses).await.is_none());
    }

    #[tokio::test]
    async fn a_failure_ends_the_stream_with_its_status() {
        let (outgoing, receiver) = mpsc::channel(2);
        let mut responses = Responses::new(receiver);
        let status = Status::invalid_argument("what");
        outgoing.send(Outgoing::Ended(status)).await.unwrap();
        let trailers = next(&mut responses).await.unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "3");
        assert_eq!(trailers["grpc-message"], "what");
        assert!(next(&mut responses).await.is_none());
    }

    #[test]
    fn what_is_larger_than_a_sidecar_takes_is_not_sent() {
        let text = |length| {
            Told::Superseded(sidelane_proto::wire::control::v1::Superseded {
                generation: 0,
                text: "x".repeat(length),
            })
        };
        let said = |length| SyncResponse {
            message: Some(text(length)),
        };
        assert!(encode(&said(UPDATE_BYTES_LIMIT - 100)).is_ok());
        let error = encode(&said(UPDATE_BYTES_LIMIT)).unwrap_err();
        assert_eq!(error.code(), tonic::Code::OutOfRange);
        assert!(error.message().contains("subscribe to fewer"), "{error}");
    }
}
