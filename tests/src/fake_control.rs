//! A control plane that says what the test says: it takes the membership streams of real sidecars,
//! and nothing is decided or remembered here. For what a sidecar makes of news that the real
//! control plane would not send.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use sidelane_proto::model::ConnectionClass;
use sidelane_proto::wire::control::v1::membership_server::{Membership, MembershipServer};
use sidelane_proto::wire::control::v1::{
    Ack, Addresses, Endpoint, Health, Hello, Nack, ServiceState, SyncRequest, SyncResponse, Update,
    Version, Welcome, sync_request::Message as Said, sync_response::Message as Heard,
};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::{Cluster, ClusterBuilder};
use crate::routes::ROUTES;

/// The store that this control plane says it has.
pub const STORE: &str = "fake-store";
/// A sidecar comes, and answers what it is told, in milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The lease and the heartbeat of every Welcome: no test lasts so long, so none has to beat.
const LEASE_MS: u32 = 600_000;
const HEARTBEAT_MS: u32 = 3_000;
/// Streams, and words on one, that wait until the test looks at them or the sidecar takes them.
const WAITING: usize = 16;

/// A control plane for one test. It ends with this value.
#[derive(Debug)]
pub struct FakeControl {
    address: SocketAddr,
    sessions: Mutex<mpsc::Receiver<Session>>,
    server: JoinHandle<()>,
}

/// One sidecar's stream, whose Hello was read.
#[derive(Debug)]
pub struct Session {
    /// Who it says that it is.
    pub hello: Hello,
    requests: Streaming<SyncRequest>,
    responses: mpsc::Sender<Result<SyncResponse, Status>>,
}

struct Served(mpsc::Sender<Session>);

#[tonic::async_trait]
impl Membership for Served {
    type SyncStream = Pin<Box<ReceiverStream<Result<SyncResponse, Status>>>>;

    async fn sync(
        &self,
        request: Request<Streaming<SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let mut requests = request.into_inner();
        let (responses, said) = mpsc::channel(WAITING);
        let sessions = self.0.clone();
        tokio::spawn(async move {
            if let Ok(Some(SyncRequest {
                message: Some(Said::Hello(hello)),
            })) = requests.message().await
            {
                let session = Session {
                    hello,
                    requests,
                    responses,
                };
                // A test that is over looks at nobody any more.
                let _ = sessions.send(session).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(said))))
    }
}

impl FakeControl {
    /// Starts it; it listens when this returns.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port on 127.0.0.1");
        let address = listener.local_addr().expect("a bound listener");
        let (sender, sessions) = mpsc::channel(WAITING);
        let server = tokio::spawn(async move {
            let served = Server::builder()
                .add_service(MembershipServer::new(Served(sender)))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await;
            served.expect("the fake control plane serves");
        });
        Self {
            address,
            sessions: Mutex::new(sessions),
            server,
        }
    }

    /// The control of the node that this mesh named last, which it has welcomed.
    ///
    /// # Panics
    /// If that cannot start, or does not come within 10 s.
    pub async fn of(mesh: ClusterBuilder) -> (Self, Cluster, Session) {
        let control = Self::start().await;
        let mesh = mesh.with("--control", &control.address()).launch().await;
        let session = control.session().await;
        session.welcome().await;
        (control, mesh, session)
    }

    /// Where it listens, as `--control` takes it.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The next sidecar that comes and says Hello; nothing was said to it yet.
    ///
    /// # Panics
    /// If none comes within 10 s.
    pub async fn session(&self) -> Session {
        let mut sessions = self.sessions.lock().await;
        let next = tokio::time::timeout(ANSWER_LIMIT, sessions.recv()).await;
        let next = next.expect("no sidecar has come within 10 s");
        next.expect("the fake control plane serves")
    }
}

impl Drop for FakeControl {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Session {
    /// Says this.
    ///
    /// # Panics
    /// If the stream is over.
    pub async fn say(&self, message: Heard) {
        let message = Some(message);
        let sent = self.responses.send(Ok(SyncResponse { message })).await;
        sent.expect("the sidecar's stream is open");
    }

    /// Takes the sidecar in.
    pub async fn welcome(&self) {
        self.say(Heard::Welcome(Welcome {
            protocol: 1,
            store_id: STORE.to_owned(),
            highest_generation: self.hello.generation,
            lease_ms: LEASE_MS,
            heartbeat_ms: HEARTBEAT_MS,
            build: "fake".to_owned(),
        }))
        .await;
    }

    /// Tells news, and gives the sidecar's answer to them.
    ///
    /// # Panics
    /// If there is no answer within 10 s.
    pub async fn update(&mut self, update: Update) -> Result<Ack, Nack> {
        self.say(Heard::Update(update)).await;
        loop {
            match self.next().await {
                Said::Ack(ack) => return Ok(ack),
                Said::Nack(nack) => return Err(nack),
                _ => {}
            }
        }
    }

    /// The sidecar's next word.
    ///
    /// # Panics
    /// If there is none within 10 s.
    pub async fn next(&mut self) -> Said {
        let next = tokio::time::timeout(ANSWER_LIMIT, self.requests.message()).await;
        let next = next.expect("the sidecar has said nothing for 10 s");
        let next = next.expect("the sidecar's stream is open");
        let word = next.and_then(|request| request.message);
        word.expect("the sidecar has more to say")
    }
}

/// The version of this number.
#[must_use]
pub fn version(counter: u64) -> Version {
    Version {
        store_id: STORE.to_owned(),
        counter,
    }
}

/// All there is.
#[must_use]
pub fn full(counter: u64, services: Vec<ServiceState>) -> Update {
    Update {
        version: Some(version(counter)),
        full: true,
        services,
        ..Update::default()
    }
}

/// Endpoints that are new or changed.
#[must_use]
pub fn upserts(counter: u64, upserts: Vec<Endpoint>) -> Update {
    Update {
        version: Some(version(counter)),
        upserts,
        ..Update::default()
    }
}

/// A service, and who offers it.
///
/// # Panics
/// Without an endpoint there is no service to name.
#[must_use]
pub fn state(endpoints: Vec<Endpoint>) -> ServiceState {
    ServiceState {
        service: endpoints[0].service.clone(),
        ever_seen: true,
        endpoints,
    }
}

/// A healthy endpoint, with the rule that these tests are compiled with. Its address is one for
/// the rule's class; without a rule it is Internal.
#[must_use]
pub fn endpoint(service: &str, node: &str, generation: u64, address: SocketAddr) -> Endpoint {
    let rule = ROUTES.rules().find(|rule| rule.service == service);
    let address = address.to_string();
    let addresses = match rule.map(|rule| rule.class) {
        Some(ConnectionClass::External) => Addresses {
            external: address,
            ..Addresses::default()
        },
        _ => Addresses {
            internal: address,
            ..Addresses::default()
        },
    };
    Endpoint {
        service: service.to_owned(),
        node_id: node.to_owned(),
        generation,
        addresses: Some(addresses),
        health: Health::Healthy.into(),
        weight: 100,
        rule: rule.map(Into::into),
        ..Endpoint::default()
    }
}
