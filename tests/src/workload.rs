//! A SPIFFE agent for tests: a Workload API on a Unix socket, served from a thread of its own, so that
//! it can be killed with all its connections. What it says is told to it.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use sidelane_proto::wire::spiffe::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use sidelane_proto::wire::spiffe::{X509svid, X509svidRequest, X509svidResponse};
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use crate::certificates::Authority;

/// An agent.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    said: watch::Sender<Said>,
    running: Option<oneshot::Sender<()>>,
}

/// What an agent says to everybody who asks.
type Said = Result<X509svidResponse, Code>;

impl Agent {
    /// One whose socket is in this folder, and who knows nobody yet.
    ///
    /// # Panics
    /// If it cannot listen there.
    pub async fn start(folder: &Path, name: &str) -> Self {
        let mut agent = Self {
            socket: folder.join(format!("{name}.sock")),
            said: watch::Sender::new(Err(Code::PermissionDenied)),
            running: None,
        };
        agent.start_again().await;
        agent
    }

    /// Its address, as `--spiffe-socket` takes it.
    #[must_use]
    pub fn place(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// It says from now on that who asks is one of these service accounts, the first of them by
    /// default; each with its own name as the hint.
    pub fn names(&self, authority: &Authority, accounts: &[&str], life: Duration) {
        let svids = accounts
            .iter()
            .map(|account| svid(authority, account, life));
        let federated = (
            "spiffe://other.example".to_owned(),
            Authority::new().root_der(),
        );
        let response = X509svidResponse {
            svids: svids.collect(),
            crl: Vec::new(),
            federated_bundles: [federated].into(),
        };
        self.says(Ok(response));
    }

    /// It says this from now on.
    pub fn says(&self, said: Said) {
        // What it said before is of no interest.
        let _ = self.said.send_replace(said);
    }

    /// Kills it: its connections end, and its socket is gone.
    pub fn kill(&mut self) {
        self.running = None;
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Starts it again after it was killed.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start_again(&mut self) {
        let (running, ended) = oneshot::channel::<()>();
        let (listens, listening) = oneshot::channel::<()>();
        let (socket, said) = (self.socket.clone(), self.said.subscribe());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = UnixListener::bind(&socket).unwrap();
                listens.send(()).unwrap();
                let served = Server::builder()
                    .add_service(SpiffeWorkloadApiServer::new(Api(said)))
                    .serve_with_incoming(UnixListenerStream::new(listener));
                tokio::select! {
                    served = served => served.unwrap(),
                    _ = ended => {}
                }
            });
            // With every task that a connection has.
            runtime.shutdown_background();
        });
        listening.await.expect("the agent listens");
        self.running = Some(running);
    }
}

/// The identity of a service account.
///
/// # Panics
/// Never.
#[must_use]
pub fn svid(authority: &Authority, account: &str, life: Duration) -> X509svid {
    let id = Authority::id(account);
    let (chain, key) = authority.mint(&id, life);
    X509svid {
        spiffe_id: id,
        x509_svid: chain,
        x509_svid_key: key,
        bundle: authority.root_der(),
        hint: account.to_owned(),
    }
}

struct Api(watch::Receiver<Said>);

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream =
        Pin<Box<dyn Stream<Item = Result<X509svidResponse, Status>> + Send + 'static>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let header = request.metadata().get("workload.spiffe.io");
        if header.is_none_or(|header| header != "true") {
            return Err(Status::invalid_argument("security header missing"));
        }
        let answers = WatchStream::new(self.0.clone());
        let answers =
            answers.map(|said| said.map_err(|code| Status::new(code, "no identity issued")));
        Ok(Response::new(Box::pin(answers)))
    }
}
