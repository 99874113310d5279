//! A control plane in this process, and a sidecar's side of a session: nothing is said or
//! answered that the test does not say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use sidelane_control::app::{App, IdentityParameters, Parameters};
use sidelane_control::registry::Terms;
use sidelane_control::rules::Validations;
use sidelane_proto::wire::control::v1::membership_client::MembershipClient;
use sidelane_proto::wire::control::v1::{
    Ack, Addresses, Draining, Endpoint, Goodbye, Health, Heartbeat, Hello, Nack, Offer,
    OffersChanged, Refusal, Subscribe, SyncRequest, SyncResponse, Update, Version, VersionRange,
    Welcome, sync_request::Message as Said, sync_response::Message as Told,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Control {
    pub(crate) app: App,
    pub(crate) folder: tempfile::TempDir,
    terms: Terms,
    fixed: Option<PathBuf>,
    validations: Validations,
}

impl Control {
    pub(crate) async fn start() -> Self {
        Self::with(Terms::default(), None).await
    }

    pub(crate) async fn with_lease(lease: Duration) -> Self {
        Self::with(Terms::new(lease), None).await
    }

    pub(crate) async fn with(terms: Terms, fixed: Option<PathBuf>) -> Self {
        Self::demanding(terms, fixed, Validations::default()).await
    }

    /// One that demands something of every rule.
    pub(crate) async fn demanding(
        terms: Terms,
        fixed: Option<PathBuf>,
        validations: Validations,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::over(folder, terms, fixed, validations).await
    }

    async fn over(
        folder: tempfile::TempDir,
        terms: Terms,
        fixed: Option<PathBuf>,
        validations: Validations,
    ) -> Self {
        let parameters = Parameters {
            listen: "127.0.0.1:0".parse().unwrap(),
            admin: "127.0.0.1:0".parse().unwrap(),
            data: folder.path().to_owned(),
            fixed: fixed.clone(),
            terms,
            validations: validations.clone(),
            identity: IdentityParameters::disabled(),
        };
        Self {
            app: App::start(parameters).await.unwrap(),
            folder,
            terms,
            fixed,
            validations,
        }
    }

    /// An orderly end, and a start over the same store.
    pub(crate) async fn restart(self) -> Self {
        self.restart_within(GRACE).await
    }

    pub(crate) async fn restart_within(self, grace: Duration) -> Self {
        let ended = self.app.stop(grace).await;
        assert!(ended.stored && ended.cut == 0, "{ended:?}");
        Self::over(self.folder, self.terms, self.fixed, self.validations).await
    }

    pub(crate) async fn channel(&self) -> Channel {
        channel(self.app.listen()).await
    }

    /// Opens a session that must be welcomed.
    pub(crate) async fn join(&self, hello: Hello) -> Sidecar {
        Sidecar::join(self.channel().await, hello).await
    }

    /// Opens a session that must be refused.
    pub(crate) async fn refusal(&self, hello: Hello) -> Refusal {
        let mut sidecar = Sidecar::open(self.channel().await).await;
        sidecar.say(Said::Hello(hello)).await;
        let Some(Told::Refusal(refusal)) = sidecar.hear().await.unwrap() else {
            panic!("it was not refused");
        };
        assert!(sidecar.hear().await.unwrap().is_none(), "the stream ends");
        refusal
    }
}

pub(crate) async fn channel(address: std::net::SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// A node with one address that offers these services.
pub(crate) fn hello(node: &str, generation: u64, services: &[&str]) -> Hello {
    Hello {
        node_id: node.to_owned(),
        generation,
        instance_id: format!("{node}-{generation}"),
        protocol: Some(VersionRange {
            oldest: 1,
            newest: 1,
        }),
        build: "0.1.0".to_owned(),
        network: "default".to_owned(),
        addresses: Some(Addresses {
            internal: "127.0.0.1:15006".to_owned(),
            ..Addresses::default()
        }),
        offers: services.iter().map(|service| offer(service)).collect(),
        ..Hello::default()
    }
}

pub(crate) fn offer(service: &str) -> Offer {
    Offer {
        service: service.to_owned(),
        health: Health::Healthy.into(),
        ..Offer::default()
    }
}

pub(crate) fn services(names: &[&str]) -> Subscribe {
    Subscribe {
        services: names.iter().map(|&name| name.to_owned()).collect(),
        ..Subscribe::default()
    }
}

/// A node that offers nothing and wants to know of these services.
pub(crate) fn watcher(node: &str, names: &[&str]) -> Hello {
    Hello {
        subscribe: Some(services(names)),
        ..hello(node, 1, &[])
    }
}

/// What a sidecar holds: generation and health by service and node.
pub(crate) type Held = BTreeMap<(String, String), (u64, Health)>;

pub(crate) struct Sidecar {
    said: mpsc::Sender<SyncRequest>,
    heard: Streaming<SyncResponse>,
    pub(crate) welcome: Welcome,
    pub(crate) held: Held,
    taken: Option<Version>,
    /// The last one that was heard.
    pub(crate) heartbeat: Option<Version>,
}

impl Sidecar {
    /// A stream on which nothing was said.
    pub(crate) async fn open(channel: Channel) -> Self {
        let (said, outgoing) = mpsc::channel(16);
        let mut client = MembershipClient::new(channel).max_decoding_message_size(64 << 20);
        let heard = client.sync(ReceiverStream::new(outgoing)).await.unwrap();
        Self {
            said,
            heard: heard.into_inner(),
            welcome: Welcome::default(),
            held: Held::new(),
            taken: None,
            heartbeat: None,
        }
    }

    pub(crate) async fn join(channel: Channel, hello: Hello) -> Self {
        let mut sidecar = Self::open(channel).await;
        sidecar.say(Said::Hello(hello)).await;
        match sidecar.hear().await.unwrap() {
            Some(Told::Welcome(welcome)) => sidecar.welcome = welcome,
            other => panic!("not a welcome: {other:?}"),
        }
        sidecar
    }

    pub(crate) async fn say(&self, message: Said) {
        let message = Some(message);
        // A stream that control has ended takes nothing more.
        let _ = self.said.send(SyncRequest { message }).await;
    }

    /// The next message that is not a heartbeat; `None` at the end.
    pub(crate) async fn hear(&mut self) -> Result<Option<Told>, Status> {
        loop {
            let heard = tokio::time::timeout(PATIENCE, self.heard.message());
            let heard = heard.await.expect("control says something in time");
            match heard?.map(|response| response.message.unwrap()) {
                Some(Told::Heartbeat(Heartbeat { version })) => self.heartbeat = version,
                other => return Ok(other),
            }
        }
    }

    /// The next update, which is held but not answered.
    pub(crate) async fn update(&mut self) -> Update {
        match self.hear().await.unwrap() {
            Some(Told::Update(update)) => {
                self.apply(&update);
                update
            }
            other => panic!("not an update: {other:?}"),
        }
    }

    pub(crate) async fn ack(&self, update: &Update) {
        let version = update.version.clone();
        self.say(Said::Ack(Ack {
            version,
            refused: Vec::new(),
        }))
        .await;
    }

    pub(crate) async fn nack(&self, update: &Update, field: &str, problem: &str) {
        self.say(Said::Nack(Nack {
            version: update.version.clone(),
            field: field.to_owned(),
            problem: problem.to_owned(),
        }))
        .await;
    }

    /// Takes the next update.
    pub(crate) async fn take(&mut self) -> Update {
        let update = self.update().await;
        self.ack(&update).await;
        self.taken = update.version.clone();
        update
    }

    /// Takes updates until what is held is as wanted.
    pub(crate) async fn take_until(&mut self, wanted: impl Fn(&Held) -> bool) {
        while !wanted(&self.held) {
            self.take().await;
        }
    }

    /// The version of the last update that was taken.
    pub(crate) fn taken(&self) -> Version {
        self.taken.clone().expect("an update was taken")
    }

    /// Waits for a heartbeat, in which nothing else may be said.
    pub(crate) async fn hear_heartbeat(&mut self) -> Version {
        let heard = tokio::time::timeout(PATIENCE, self.heard.message());
        let heard = heard.await.expect("a heartbeat in time").unwrap().unwrap();
        match heard.message {
            Some(Told::Heartbeat(Heartbeat { version })) => version.unwrap(),
            other => panic!("not a heartbeat: {other:?}"),
        }
    }

    pub(crate) async fn heartbeat(&self) {
        self.say(Said::Heartbeat(Heartbeat { version: None })).await;
    }

    pub(crate) async fn subscribe(&self, names: &[&str]) {
        self.say(Said::Subscribe(services(names))).await;
    }

    pub(crate) async fn offer(&self, offers: Vec<Offer>) {
        self.say(Said::OffersChanged(OffersChanged { offers }))
            .await;
    }

    pub(crate) async fn drain(&self) {
        self.say(Said::Draining(Draining {})).await;
    }

    pub(crate) async fn goodbye(&self) {
        let reason = "the test says so".to_owned();
        self.say(Said::Goodbye(Goodbye { reason })).await;
    }

    fn apply(&mut self, update: &Update) {
        if update.full {
            self.held.clear();
        }
        for state in &update.services {
            self.held
                .retain(|(service, _), _| *service != state.service);
            for endpoint in &state.endpoints {
                self.upsert(endpoint);
            }
        }
        for removal in &update.removals {
            let key = (removal.service.clone(), removal.node_id.clone());
            let held = self
                .held
                .remove(&key)
                .expect("only what is held is removed");
            assert_eq!(held.0, removal.generation);
        }
        for endpoint in &update.upserts {
            self.upsert(endpoint);
        }
    }

    fn upsert(&mut self, endpoint: &Endpoint) {
        let key = (endpoint.service.clone(), endpoint.node_id.clone());
        let value = (endpoint.generation, endpoint.health());
        self.held.insert(key, value);
    }
}

/// What is held of one service.
pub(crate) fn of<'a>(held: &'a Held, service: &str) -> Vec<(&'a str, u64, Health)> {
    let held = held.iter().filter(|((known, _), _)| known == service);
    held.map(|((_, node), (generation, health))| (node.as_str(), *generation, *health))
        .collect()
}
