//! The processes of a mesh as tests meet them: what each says on its admin port, and how it is
//! stopped and started again.

use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::Channel;

use crate::admin::{self, Answer, Metrics};
use crate::client;
use crate::process::Process;

/// The longest time that a process may take until it is ready.
pub const READY_LIMIT: Duration = Duration::from_secs(20);
/// How often readiness is asked for.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// A process with an admin port.
#[derive(Debug)]
pub struct Member {
    pub(super) process: Process,
    pub(super) admin: SocketAddr,
}

/// The control process.
#[derive(Debug)]
pub struct Control {
    pub(super) member: Member,
    pub(super) listen: SocketAddr,
    pub(super) folder: PathBuf,
}

/// A sidecar process.
#[derive(Debug)]
pub struct Node {
    pub(super) member: Member,
    pub(super) outbound: SocketAddr,
    pub(super) internal: SocketAddr,
    pub(super) external: SocketAddr,
    pub(super) serves: Vec<String>,
}

impl Member {
    /// Its admin address.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Panics
    /// If it has not after 20 s, or the process has ended.
    pub async fn ready(&self) {
        self.answers("/readyz", |answer| answer.status == 200).await;
    }

    /// Waits until the admin port's answer is as wanted, and returns it.
    ///
    /// # Panics
    /// If it is not within 20 s, or the process has ended: with the last answer.
    pub async fn answers(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let name = self.name();
        let mut last = String::from("none yet");
        let asking = async {
            loop {
                match admin::get(self.admin, path).await {
                    Ok(answer) if wanted(&answer) => break answer,
                    Ok(answer) => last = format!("{} {}", answer.status, answer.body),
                    Err(error) => last = format!("{error:#}"),
                }
                if let Some(status) = self.ended().await {
                    panic!("{name} has ended ({status}) before {path} was as wanted");
                }
                tokio::time::sleep(READY_INTERVAL).await;
            }
        };
        let answer = tokio::time::timeout(READY_LIMIT, asking).await;
        answer.unwrap_or_else(|_| {
            panic!("{name}: {path} is not as wanted after {READY_LIMIT:?}; last answer: {last}")
        })
    }

    /// Asks the admin port.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn get(&self, path: &str) -> Answer {
        let answer = admin::get(self.admin, path).await;
        answer.unwrap_or_else(|error| panic!("{}: {error:#}", self.name()))
    }

    /// Tells the admin port.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn post(&self, path: &str) -> Answer {
        let answer = admin::post(self.admin, path).await;
        answer.unwrap_or_else(|error| panic!("{}: {error:#}", self.name()))
    }

    /// What `/metrics` says.
    ///
    /// # Panics
    /// If there is no answer, or not one of 200.
    pub async fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200, "{}: {}", self.name(), answer.body);
        Metrics::parse(&answer.body)
    }

    /// What `/config` says.
    ///
    /// # Panics
    /// If there is no answer, or not one in JSON.
    pub async fn config(&self) -> serde_json::Value {
        let answer = self.get("/config").await;
        let name = self.name();
        serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("{name}: /config is no JSON ({error}): {}", answer.body))
    }

    /// Asks it to end, and waits until it has: with status 0, after its drain.
    ///
    /// # Panics
    /// If it has not ended within the time given, or ends otherwise.
    pub async fn stop(&self, within: Duration) {
        self.terminate();
        let status = self.exited(within).await;
        assert!(status.success(), "{} has ended with {status}", self.name());
    }

    /// Stops it, starts it again, and waits until it is ready.
    ///
    /// # Panics
    /// As [`Self::stop`] and [`Self::ready`].
    pub async fn restart(&self, within: Duration) {
        self.stop(within).await;
        self.start_again().await;
        self.ready().await;
    }
}

impl Control {
    /// Its gRPC address.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The folder of its mesh, where it leaves its join file.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Node {
    /// Its links of this kind, as `/config` has them.
    ///
    /// # Panics
    /// As [`Member::config`].
    pub async fn links(&self, kind: &str) -> Vec<serde_json::Value> {
        let config = self.config().await;
        let links = config["links"].as_array().cloned().unwrap_or_default();
        links
            .into_iter()
            .filter(|link| link["kind"] == kind)
            .collect()
    }

    /// Where local services call.
    #[must_use]
    pub fn outbound(&self) -> SocketAddr {
        self.outbound
    }

    /// Where peers call, class Internal.
    #[must_use]
    pub fn internal(&self) -> SocketAddr {
        self.internal
    }

    /// Where peers call, class External.
    #[must_use]
    pub fn external(&self) -> SocketAddr {
        self.external
    }

    /// A channel to the sidecar, as a local service opens it.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn channel(&self) -> Channel {
        let channel = client::channel(self.outbound).await;
        channel.unwrap_or_else(|error| panic!("{}: {error:#}", self.name()))
    }

    /// What `/explain` says about a call's path.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn explain(&self, path: &str) -> Answer {
        let mut question = String::from("/explain?path=");
        for byte in path.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'/' => {
                    question.push(char::from(byte));
                }
                other => write!(question, "%{other:02X}").expect("text can be written"),
            }
        }
        self.get(&question).await
    }
}

impl Deref for Member {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Deref for Control {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl Deref for Node {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}
