//! A mesh of the project's own programs, on free ports of loopback. What was started ends with the
//! value that stands for it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidelane::Target;
use sidelane_identity::verify::Expected;
use sidelane_identity::{Identity, kept, tls};
use telemetry::metrics::v1::samples_server::{Samples, SamplesServer};
use telemetry::metrics::v1::{PushRequest, PushResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// The project's own program.
pub const OWN: &str = env!("CARGO_BIN_EXE_telemetry");
/// Sidelane's.
pub const STOCK: &str = env!("CARGO_BIN_EXE_stock");
/// How long a process may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(20);

/// One process.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node whose sidecar runs.
struct Node {
    name: String,
    internal: SocketAddr,
    process: Process,
}

/// A sidecar to call by.
pub struct Caller {
    pub target: Target,
    admin: SocketAddr,
}

/// Control, and the nodes that joined it.
pub struct Mesh {
    control: SocketAddr,
    nodes: Vec<Node>,
    folder: tempfile::TempDir,
    _control: Process,
}

impl Mesh {
    /// Control of this program, and nobody else yet.
    pub async fn start(program: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (control, admin) = (free(), free());
        let mut command = Command::new(program);
        command.args(["control", "--log", "warn"]);
        // Where control leaves its join file, and sidecars and commands look for it.
        command.env("XDG_RUNTIME_DIR", folder.path());
        command.args([
            "--listen",
            &control.to_string(),
            "--admin",
            &admin.to_string(),
        ]);
        command.arg("--data").arg(folder.path().join("control"));
        let process = Process(command.spawn().unwrap());
        until_up(control).await;
        // It listens before it has left the file.
        let join = format!("sidelane/control-{control}.join");
        let begun = Instant::now();
        while !folder.path().join(&join).exists() {
            assert!(begun.elapsed() < START_LIMIT, "control leaves no {join}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self {
            control,
            nodes: Vec::new(),
            folder,
            _control: process,
        }
    }

    /// A node with a collector behind it.
    pub async fn collector(&mut self, name: &str) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector = SamplesServer::new(Collector(name.to_owned()));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(collector)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let serve = format!("metrics.v1.Samples={address}");
        self.node(OWN, name, &["--serve", &serve]).await;
    }

    /// A node that says it serves this; nobody is behind it.
    pub async fn serving(&mut self, name: &str, service: &str) {
        let serve = format!("{service}={}", free());
        self.node(OWN, name, &["--serve", &serve]).await;
    }

    /// A node to call by.
    pub async fn caller(&mut self, program: &str, name: &str) -> Caller {
        self.node(program, name, &[]).await
    }

    async fn node(&mut self, program: &str, name: &str, flags: &[&str]) -> Caller {
        let [outbound, internal, admin] = [(); 3].map(|()| free());
        let mut command = Command::new(program);
        command.args(["sidecar", "--log", "warn", "--node", name]);
        command.arg("--keep-identity");
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command.args(["--control", &self.control.to_string()]);
        command.args(["--outbound", &outbound.to_string()]);
        command.args(["--internal", &internal.to_string()]);
        command.args(["--admin", &admin.to_string()]);
        command.arg("--data").arg(self.folder.path().join(name));
        command.args(flags);
        let process = Process(command.spawn().unwrap());
        self.nodes.push(Node {
            name: name.to_owned(),
            internal,
            process,
        });
        until_up(outbound).await;
        Caller {
            target: format!("http://{outbound}").parse().unwrap(),
            admin,
        }
    }

    /// Where a node's peers call.
    pub fn internal(&self, name: &str) -> SocketAddr {
        let node = self.nodes.iter().find(|node| node.name == name);
        node.unwrap().internal
    }

    /// What a node shows of itself to its peers, with its key.
    pub fn shown(&self, name: &str) -> Arc<Identity> {
        let file = self.folder.path().join(name).join("identity.pem");
        let kept = std::fs::read(file).unwrap();
        Arc::new(kept::from_text(name, &kept).unwrap())
    }

    /// Ends a node without a word.
    pub fn kill(&mut self, name: &str) {
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        node.unwrap().process.0.kill().unwrap();
    }

    /// `apply -f` of this file.
    pub fn apply(&self, rules: &str) -> Output {
        let file = self.folder.path().join("rules.yaml");
        std::fs::write(&file, rules).unwrap();
        let mut command = Command::new(STOCK);
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command.args(["apply", "--control", &self.control.to_string(), "-f"]);
        command.arg(file).output().unwrap()
    }
}

impl Caller {
    /// The page `/config` of its sidecar.
    pub fn config(&self) -> serde_json::Value {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        let request = format!(
            "GET /config HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.admin
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }
}

/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 §6.5.2) in the first frame that a sidecar sends on a link
/// of this lane and class.
pub async fn opening_window(
    (address, shown): (SocketAddr, Arc<Identity>),
    lane: u16,
    class: u8,
) -> u32 {
    let (_held, source) = watch::channel(Some(shown));
    let config = tls::peer_client(source, Expected::Any).unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = TlsConnector::from(config).connect(tls::name(), stream);
    let mut stream = stream.await.unwrap();
    let [high, low] = lane.to_be_bytes();
    stream
        .write_all(&[b'S', b'L', b'N', b'1', high, low, class, 0])
        .await
        .unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let settings = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    settings.await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut settings = vec![0; length as usize];
    stream.read_exact(&mut settings).await.unwrap();
    let window = settings
        .chunks_exact(6)
        .find(|setting| setting[..2] == [0, 4]);
    let value: [u8; 4] = window.unwrap()[2..].try_into().unwrap();
    u32::from_be_bytes(value)
}

/// Keeps nothing, and says who it is and in which lane the sample came.
struct Collector(String);

#[tonic::async_trait]
impl Samples for Collector {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        let lane = request.metadata().get("sidelane-lane");
        let lane = lane.and_then(|lane| lane.to_str().ok()).unwrap_or_default();
        Ok(Response::new(PushResponse {
            collector: self.0.clone(),
            lane: lane.to_owned(),
        }))
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

async fn until_up(address: SocketAddr) {
    let deadline = Instant::now() + START_LIMIT;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < deadline, "nobody listens on {address}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
