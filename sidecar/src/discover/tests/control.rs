//! A control plane without a mind: it takes streams, and a test says each word.

use std::pin::Pin;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidelane_proto::wire::control::v1::membership_server::{Membership, MembershipServer};
use sidelane_proto::wire::control::v1::{
    self as wire, sync_request::Message as Said, sync_response::Message as Heard,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Streaming};
use tower::Service;

use super::*;

/// Listens until it is dropped; then every connection is cut.
pub(super) struct FakeControl {
    pub(super) address: String,
    streams: mpsc::Receiver<FakeStream>,
    task: AbortHandle,
}

/// One sidecar's stream, seen from control.
pub(super) struct FakeStream {
    requests: Streaming<wire::SyncRequest>,
    responses: mpsc::Sender<Result<wire::SyncResponse, tonic::Status>>,
}

struct Door(mpsc::Sender<FakeStream>);

#[tonic::async_trait]
impl Membership for Door {
    type SyncStream =
        Pin<Box<dyn Stream<Item = Result<wire::SyncResponse, tonic::Status>> + Send + 'static>>;

    async fn sync(
        &self,
        request: Request<Streaming<wire::SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, tonic::Status> {
        let (responses, receiver) = mpsc::channel(16);
        let requests = request.into_inner();
        let stream = FakeStream {
            requests,
            responses,
        };
        self.0.send(stream).await.map_err(|_| gone())?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn gone() -> tonic::Status {
    tonic::Status::unavailable("the test is over")
}

impl FakeControl {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener)
    }

    pub(super) fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let (door, streams) = mpsc::channel(16);
        let server = MembershipServer::new(Door(door));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, server.clone()));
            }
        });
        Self {
            address,
            streams,
            task: task.abort_handle(),
        }
    }

    /// The next stream that a sidecar opens.
    pub(super) async fn stream(&mut self) -> FakeStream {
        timeout(PATIENCE, self.streams.recv())
            .await
            .expect("no stream was opened")
            .unwrap()
    }

    /// The next stream, welcomed; and its Hello.
    pub(super) async fn welcomed(&mut self) -> (FakeStream, wire::Hello) {
        let mut stream = self.stream().await;
        let hello = stream.hello().await;
        stream.welcome().await;
        (stream, hello)
    }

    /// True if nobody has come since the last stream was taken.
    pub(super) fn is_alone(&mut self) -> bool {
        self.streams.try_recv().is_err()
    }
}

impl Drop for FakeControl {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, server: MembershipServer<Door>) {
    let service = service_fn(move |request| server.clone().call(request));
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    // How a connection ends is the sidecar's affair, and what the tests look at there.
    let _ = connection.await;
}

impl FakeStream {
    /// What the sidecar says next, heartbeats apart; `None` when it has ended the stream.
    pub(super) async fn next(&mut self) -> Option<Said> {
        loop {
            let said = timeout(PATIENCE, self.requests.message())
                .await
                .expect("the sidecar said nothing");
            match said {
                Ok(Some(said)) => match said.message.unwrap() {
                    Said::Heartbeat(_) => {}
                    other => return Some(other),
                },
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// The next heartbeat.
    pub(super) async fn heartbeat(&mut self) -> wire::Heartbeat {
        loop {
            let said = timeout(PATIENCE, self.requests.message()).await.unwrap();
            if let Some(Said::Heartbeat(beat)) = said.unwrap().unwrap().message {
                return beat;
            }
        }
    }

    pub(super) async fn hello(&mut self) -> wire::Hello {
        match self.next().await {
            Some(Said::Hello(hello)) => hello,
            other => panic!("Hello was to come, not {other:?}"),
        }
    }

    pub(super) async fn say(&self, message: Heard) {
        let message = Some(message);
        let sent = self.responses.send(Ok(wire::SyncResponse { message }));
        timeout(PATIENCE, sent).await.unwrap().unwrap();
    }

    /// As `say`; false if the sidecar is gone.
    pub(super) async fn try_say(&self, message: Heard) -> bool {
        let message = Some(message);
        let sent = self.responses.send(Ok(wire::SyncResponse { message }));
        timeout(PATIENCE, sent).await.unwrap().is_ok()
    }

    pub(super) async fn fail(self, status: tonic::Status) {
        self.responses.send(Err(status)).await.unwrap();
    }

    pub(super) async fn welcome(&self) {
        self.say(Heard::Welcome(welcome())).await;
    }

    pub(super) async fn update(&self, update: &Update) {
        self.say(Heard::Update(update.into())).await;
    }

    /// Sends an update and takes the ACK.
    pub(super) async fn update_acked(&mut self, update: &Update) {
        self.update(update).await;
        assert_eq!(self.next().await, Some(ack(update.version.counter)));
    }

    /// Takes the next request, which must be a subscription to these.
    pub(super) async fn subscribed(&mut self, services: &[&ServiceName]) {
        let expected = wire::Subscribe {
            services: services.iter().map(ToString::to_string).collect(),
            ..wire::Subscribe::default()
        };
        assert_eq!(self.next().await, Some(Said::Subscribe(expected)));
    }
}

pub(super) fn welcome() -> wire::Welcome {
    wire::Welcome {
        protocol: 1,
        store_id: "store".into(),
        highest_generation: 1_000,
        build: "fake".into(),
        ..wire::Welcome::default()
    }
}

pub(super) fn ack(counter: u64) -> Said {
    Said::Ack(wire::Ack {
        version: Some((&version(counter)).into()),
        refused: Vec::new(),
    })
}
