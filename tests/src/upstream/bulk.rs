//! `Bulk` as [`Upstream`](super::Upstream) serves it: as much data as asked for, made only as
//! fast as it is taken, and taken only as fast as the caller says.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use crate::wire::v1::bulk_server::Bulk;
use crate::wire::v1::{PullRequest, PullResponse, PushRequest, PushResponse};

#[tonic::async_trait]
impl Bulk for Shared {
    type PullStream = Pin<Box<dyn Stream<Item = Result<PullResponse, Status>> + Send>>;

    async fn pull(
        &self,
        request: Request<PullRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let PullRequest { messages, bytes } = request.into_inner();
        let payload = Bytes::from(vec![0; bytes as usize]);
        let answers = (0..messages).map(move |_| {
            Ok(PullResponse {
                payload: payload.clone(),
            })
        });
        Ok(Response::new(Box::pin(stream::iter(answers))))
    }

    async fn push(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<PushResponse>, Status> {
        let mut messages = request.into_inner();
        let mut bytes = 0;
        while let Some(message) = messages.message().await? {
            bytes += message.payload.len() as u64;
            if message.pause_ms > 0 {
                tokio::time::sleep(Duration::from_millis(message.pause_ms.into())).await;
            }
        }
        Ok(Response::new(PushResponse { bytes }))
    }
}
