//! Servers behind sidecars: [`Upstream`] is a tonic server of all test services, in this process
//! but on a runtime of its own, so that it is as independent of the test as a real one;
//! [`raw::RawUpstream`] is for what tonic would never do. What a server saw stands in its
//! [`Ledger`]. A server that panics fails its test.

mod bulk;
pub mod capacity;
mod echo;
mod ledger;
pub mod raw;
mod watch;
mod witness;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

pub use echo::ECHOED_PREFIX;
pub use ledger::{Ledger, Visit};
pub use watch::COMPRESS_HEADER;

use crate::cluster::LocalService;
use crate::wire::v1::beat_server::BeatServer;
use crate::wire::v1::bulk_server::BulkServer;
use crate::wire::v1::echo_server::EchoServer;
use crate::wire::v1::front_server::FrontServer;
use crate::wire::v1::vault_server::VaultServer;
use crate::wire::v1::witness_server::WitnessServer;
use crate::wire::v1::{UnaryRequest, UnaryResponse};

/// gRPC libraries refuse messages above 4 MiB unless told otherwise; the tests send larger ones.
pub const MESSAGE_LIMIT: usize = 80 * 1024 * 1024;
/// tonic sets no such limits, h2 ends a connection at 20 and 1,024; the tests cancel more calls
/// than that on one connection, and it is the mesh that is to be tested.
const RESET_LIMIT: usize = 100_000;
/// In which its connections are closed when it ends; they take microseconds.
const ENDING: Duration = Duration::from_secs(10);

type UnaryAnswer = Pin<Box<dyn Future<Output = Result<Response<UnaryResponse>, Status>> + Send>>;
type AnswerUnary = Arc<dyn Fn(Request<UnaryRequest>) -> UnaryAnswer + Send + Sync>;

/// A tonic server of all test services. It ends with this value.
#[derive(Debug)]
pub struct Upstream {
    shared: Shared,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

/// An upstream that is being written down.
pub struct UpstreamBuilder {
    node: String,
    address: SocketAddr,
    unary: Option<AnswerUnary>,
    health: bool,
    window: Option<u32>,
}

/// What all services of one server share.
#[derive(Clone)]
struct Shared {
    node: Arc<str>,
    ledger: Ledger,
    unary: Option<AnswerUnary>,
    connections: Arc<AtomicUsize>,
    panics: Arc<Mutex<Vec<String>>>,
    health: Option<HealthReporter>,
}

impl Upstream {
    /// A server that calls itself so in its answers.
    #[must_use]
    pub fn named(node: &str) -> UpstreamBuilder {
        UpstreamBuilder {
            node: node.to_owned(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            unary: None,
            health: false,
            window: None,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it saw.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// How many connections it has accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// From now on its health service says this of a service; of the whole server by the name "".
    ///
    /// # Panics
    /// If it has none.
    pub async fn says(&self, service: &str, serving: bool) {
        let health = self.shared.health.as_ref();
        let reporter = health.expect("an upstream `.with_health()`");
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        reporter.set_service_status(service, status).await;
    }

    /// Ends at once: when this returns, its connections are broken and nobody listens any more. The
    /// ledger stays.
    ///
    /// # Panics
    /// If its thread cannot be ended.
    pub fn abort(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // No runtime may be waited for on a thread of another.
            let ended = std::thread::spawn(move || runtime.shutdown_timeout(ENDING));
            ended.join().expect("a thread that ends a runtime");
        }
    }
}

impl UpstreamBuilder {
    /// Listens there and not on any free port.
    #[must_use]
    pub fn listening_on(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Answers `Echo.Unary` so, whatever the request's behaviour says; nothing is written into the
    /// ledger.
    #[must_use]
    pub fn answering_unary<F, A>(mut self, answer: F) -> Self
    where
        F: Fn(Request<UnaryRequest>) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response<UnaryResponse>, Status>> + Send + 'static,
    {
        self.unary = Some(Arc::new(move |request| Box::pin(answer(request))));
        self
    }

    /// Has a health service, which says that the whole server is well and knows no other name.
    #[must_use]
    pub fn with_health(mut self) -> Self {
        self.health = true;
        self
    }

    /// Takes so many bytes of a connection before it has read any of them.
    #[must_use]
    pub const fn with_connection_window(mut self, bytes: u32) -> Self {
        self.window = Some(bytes);
        self
    }

    /// Starts it; it listens when this returns.
    ///
    /// # Panics
    /// If it cannot listen there.
    pub async fn start(self) -> Upstream {
        let shared = Shared {
            node: self.node.into(),
            ledger: Ledger::default(),
            unary: self.unary,
            connections: Arc::default(),
            panics: Arc::default(),
            health: self.health.then(HealthReporter::new),
        };
        let runtime = own_runtime(&shared.node);
        let serving = shared.clone();
        let listening = runtime.spawn(async move { TcpListener::bind(self.address).await });
        let listener = listening.await.expect("binding does not panic");
        let listener = listener.unwrap_or_else(|error| {
            panic!(
                "upstream `{}` cannot listen on {}: {error}",
                shared.node, self.address
            )
        });
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        runtime.spawn(serve(listener, serving, self.window));
        Upstream {
            shared,
            address,
            runtime: Some(runtime),
        }
    }
}

impl LocalService for Upstream {
    fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.abort();
        let panics = self
            .shared
            .panics
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = panics.first()
            && !std::thread::panicking()
        {
            panic!(
                "upstream `{}` panicked in {} calls, first: {first}",
                self.shared.node,
                panics.len()
            );
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for UpstreamBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut builder = formatter.debug_struct("UpstreamBuilder");
        builder
            .field("node", &self.node)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A runtime that ends, with all its connections, when it is dropped.
fn own_runtime(name: &str) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(format!("upstream-{name}"))
        .enable_all()
        .build()
        .expect("a runtime can be made")
}

async fn serve(listener: TcpListener, shared: Shared, window: Option<u32>) {
    macro_rules! service {
        ($server:ident) => {
            $server::new(shared.clone())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
        };
    }
    let connections = shared.connections.clone();
    let incoming = TcpListenerStream::new(listener).map(move |accepted| {
        let stream = accepted?;
        stream.set_nodelay(true)?;
        connections.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::io::Error>(stream)
    });
    let served = Server::builder()
        .initial_connection_window_size(window)
        .http2_max_pending_accept_reset_streams(Some(RESET_LIMIT))
        .http2_max_local_error_reset_streams(Some(RESET_LIMIT))
        .layer(watch::WatchLayer::new(shared.panics.clone()))
        .add_service(service!(EchoServer))
        .add_service(service!(BulkServer))
        .add_service(service!(BeatServer))
        .add_service(service!(VaultServer))
        .add_service(service!(FrontServer))
        .add_service(service!(WitnessServer))
        .add_optional_service(
            shared
                .health
                .clone()
                .map(|reporter| HealthServer::new(HealthService::from_health_reporter(reporter))),
        )
        .serve_with_incoming(incoming)
        .await;
    if let Err(error) = served {
        let mut panics = shared.panics.lock().unwrap_or_else(PoisonError::into_inner);
        panics.push(format!("the server ended: {error}"));
    }
}
