//! Puts a linked-in sidecar together and starts it. What is wrong is said before anything runs: by
//! the settings' one reader, and here for services and handlers that no call could reach.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use http::{Request, Response};
use hyper_util::rt::TokioIo;
use prost::Message;
use sidelane_process::settings::{self, Environment, Start};
use sidelane_proto::model::{Lane, ServiceName};
use tokio::sync::{oneshot, watch};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::Service;
use tower::util::BoxCloneSyncService;

use super::direct::Handlers;
use super::serve::{self, LocalService};
use super::{EmbedError, Inner, Mesh, Running};
use crate::app::{self, Built};
use crate::config::{Config, Loaded};
use crate::host::{Host, Stops, Wish};
use crate::lane::settings as lane_settings;
use crate::own;
use crate::pipe::{self, Opener};

/// How long work that blocks (the disk, a name's look-up) may take after the sidecar's end.
const LAST_WORK: Duration = Duration::from_secs(1);

/// A sidecar that is being put together, to run in this program. Made by
/// [`Mesh::embedded`](super::Mesh::embedded).
#[must_use = "nothing runs before `start`"]
pub struct Embedded {
    built: Built,
    arguments: Vec<OsString>,
    services: Vec<(String, LocalService)>,
    handlers: Handlers,
}

impl Embedded {
    pub(crate) fn new(built: Built) -> Self {
        Self {
            built,
            arguments: Vec::new(),
            services: Vec::new(),
            handlers: Handlers::default(),
        }
    }

    /// A setting, by the name of its flag without dashes: `control`, `node`, `grace`. It beats the
    /// flag's environment variable and the file that the setting `config` names. `serve` and
    /// `listen` may come more than once. Three differ from the process's: without `outbound` nobody
    /// but this program can call, `node` or `data` must then be given, and `log` is refused,
    /// because the program's own `tracing` subscriber logs.
    pub fn setting(mut self, name: &str, value: impl AsRef<str>) -> Self {
        let value = value.as_ref();
        self.arguments.push(format!("--{name}={value}").into());
        self
    }

    /// Serves a tonic service of this program to the whole mesh. Its calls run on the runtime that
    /// [`Embedded::start`] is called on.
    pub fn serve<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let service = BoxCloneSyncService::new(service);
        self.services.push((S::NAME.to_owned(), service));
        self
    }

    /// A handler for one unary method of a service that this program serves, which takes messages
    /// as they are: [`Mesh::call`] with the same two types calls it, and nothing is encoded. Peers
    /// come by the service given to [`Embedded::serve`], so both should do the same.
    pub fn local<Req, Resp, Answer>(
        mut self,
        path: &str,
        handler: impl Fn(tonic::Request<Req>) -> Answer + Send + Sync + 'static,
    ) -> Self
    where
        Req: Message + 'static,
        Resp: Message + 'static,
        Answer: Future<Output = Result<tonic::Response<Resp>, Status>> + Send + 'static,
    {
        self.handlers.add(path, handler);
        self
    }

    /// Starts the sidecar, and returns once it listens; whether traffic can flow says
    /// [`Mesh::ready`]. To be called on a tokio runtime with timers, which serves this program's
    /// services and must outlive the mesh. No signal handler is installed.
    ///
    /// # Errors
    /// The first thing that is wrong with a setting, a service, a handler or an address.
    pub async fn start(self) -> Result<Mesh, EmbedError> {
        // Before the settings: they may name a class.
        self.built.routes.remember();
        let environment = Environment::of_process();
        let loaded = Config::load_embedded(self.arguments, &environment, settings::read_file)?;
        let loaded = match loaded {
            Start::Run(loaded) => loaded,
            Start::Print(_) => return Err(EmbedError::Start("nothing was to be run".to_owned())),
        };
        let services = by_name(self.services)?;
        self.handlers.check(|path| {
            let served = services.contains_key(path.service);
            if !served || own::answered(path.service) {
                return Err("its service is not served by this program; add `.serve(…)`");
            }
            let rule = self.built.routes.rules();
            let rule = rule.into_iter().find(|rule| rule.service == path.service);
            match rule.and_then(|rule| rule.method(path.method)) {
                Some(method) if !method.is_unary() => Err("its rule says that it streams"),
                _ => Ok(()),
            }
        })?;
        launch(self.built, loaded, services, self.handlers).await
    }
}

fn by_name(
    given: Vec<(String, LocalService)>,
) -> Result<HashMap<String, LocalService>, EmbedError> {
    let mut services = HashMap::new();
    for (service, serves) in given {
        let wrong = |problem: String| EmbedError::Service {
            service: service.clone(),
            problem,
        };
        ServiceName::new(&service).map_err(|error| wrong(error.problem.to_string()))?;
        if services.insert(service.clone(), serves).is_some() {
            return Err(wrong("is given twice; keep one".to_owned()));
        }
    }
    Ok(services)
}

async fn launch(
    built: Built,
    loaded: Loaded,
    services: HashMap<String, LocalService>,
    handlers: Handlers,
) -> Result<Mesh, EmbedError> {
    let (wish, wished) = watch::channel(Wish::Run);
    let (calls, calling) = pipe::listen("the mesh in this process");
    let (started, starting) = oneshot::channel();
    let (serving, served) = pipe::listen("a service of this process");
    let host = Host {
        stops: Stops::Program(wished),
        services: offered(&services, &serving),
        calls: Some(calling),
        started: Some(started),
    };
    // The sidecar has the only way to it from here on: with its end, serving ends.
    drop(serving);
    let (end, mut ended) = watch::channel(None);
    // As far as the system shows a thread's name, it tells the meshes of one process apart.
    let name = loaded.config.node.as_ref();
    let name = name.map_or_else(|| "sidelane".to_owned(), |node| format!("sidelane-{node}"));
    let thread = thread::Builder::new()
        .name(name)
        .spawn(move || {
            let result = run(host, loaded, built);
            end.send_replace(Some(result));
        })
        .map_err(|error| EmbedError::Start(format!("the sidecar gets no thread: {error}")))?;
    let Ok(started) = starting.await else {
        let end = ended.wait_for(Option::is_some).await;
        let said = end.ok().and_then(|end| end.clone());
        let text = said.and_then(Result::err);
        return Err(EmbedError::Start(text.unwrap_or_else(|| {
            "the sidecar's thread ended before it had begun".to_owned()
        })));
    };
    let serving = tokio::spawn(serve::run(served, Arc::new(services)));
    let inner = Inner {
        node: started.stack.own.node.clone(),
        wish,
        ended,
        stack: Arc::downgrade(&started.stack),
        draining: started.draining,
        bound: started.bound,
        channel: channel(calls),
        handlers,
        running: Mutex::new(Some(Running { thread, serving })),
    };
    Ok(Mesh {
        inner: Arc::new(inner),
    })
}

/// What control hears of. Health and reflection are every node's: who names this node reaches them
/// by the way of any other service.
fn offered(
    services: &HashMap<String, LocalService>,
    opener: &Opener,
) -> Vec<(ServiceName, Opener)> {
    let offered = services.keys().filter(|name| !own::every_node_serves(name));
    let offered = offered.filter_map(|name| ServiceName::new(name).ok());
    let mut offered: Vec<_> = offered.map(|name| (name, opener.clone())).collect();
    offered.sort_by(|(one, _), (other, _)| one.cmp(other));
    offered
}

/// Runs the sidecar to its end, on this thread.
fn run(host: Host, loaded: Loaded, built: Built) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime does not start: {error}"))?;
    let result = runtime.block_on(app::run_in(host, loaded, built));
    let result = result.map_err(|error| error.to_string());
    runtime.shutdown_timeout(LAST_WORK);
    result
}

fn channel(calls: Opener) -> Channel {
    let lane = lane_settings(Lane::GENERAL);
    // The authority of calls over a pipe, as over a unix socket.
    Endpoint::from(Uri::from_static("http://localhost"))
        .initial_stream_window_size(lane.stream_window)
        .initial_connection_window_size(lane.connection_window)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let calls = calls.clone();
            async move { calls.open().await.map(TokioIo::new) }
        }))
}
