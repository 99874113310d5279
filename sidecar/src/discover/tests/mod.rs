//! Discovery against a control plane that the tests drive word by word. This file holds what the
//! tests are written with.

mod control;
mod ends;
mod files;
mod merging;
mod naming;
mod protocol;
mod refusals;
mod rules;
mod snapshot;
mod updates;
mod wishes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sidelane_proto::model::{
    Addresses, Endpoint, Generation, Health, InstanceId, Locality, Network, NodeHello, NodeId,
    Offer, PeerAddress, ProtocolRange, Removal, ServiceName, ServiceState, Subscription, Update,
    Version,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// Past this a test has failed. Nothing is expected to take so long.
const PATIENCE: Duration = Duration::from_secs(10);

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn orders() -> ServiceName {
    service("shop.v1.Orders")
}

fn network() -> Network {
    Network::new("test").unwrap()
}

fn version(counter: u64) -> Version {
    Version {
        store: "store".into(),
        counter,
    }
}

fn offer(service: &ServiceName) -> Offer {
    Offer {
        service: service.clone(),
        health: Health::Healthy,
        weight: 100,
        version: Arc::from(""),
        labels: BTreeMap::new(),
        rule: None,
    }
}

fn endpoint(service: &ServiceName, node: &str, generation: u64) -> Endpoint {
    Endpoint {
        node: NodeId::new(node).unwrap(),
        generation: Generation::new(generation).unwrap(),
        identity: None,
        addresses: Addresses {
            internal: Some(PeerAddress::new("127.0.0.1:15006").unwrap()),
            external: None,
            own: Vec::new(),
        },
        locality: Locality::default(),
        offer: offer(service),
    }
}

fn state(service: &ServiceName, endpoints: Vec<Endpoint>) -> ServiceState {
    ServiceState {
        service: service.clone(),
        ever_seen: true,
        endpoints,
    }
}

fn removal(service: &ServiceName, node: &str, generation: u64) -> Removal {
    Removal {
        service: service.clone(),
        node: NodeId::new(node).unwrap(),
        generation: Generation::new(generation).unwrap(),
    }
}

fn update(counter: u64) -> Update {
    Update {
        version: version(counter),
        full: false,
        services: Vec::new(),
        upserts: Vec::new(),
        removals: Vec::new(),
        rules: Vec::new(),
        refused: Vec::new(),
        rules_removed: Vec::new(),
    }
}

fn full(counter: u64, services: Vec<ServiceState>) -> Update {
    Update {
        full: true,
        services,
        ..update(counter)
    }
}

fn hello() -> NodeHello {
    NodeHello {
        node: NodeId::new("shop-1").unwrap(),
        generation: Generation::new(1_000).unwrap(),
        instance: InstanceId::new("0123456789abcdef").unwrap(),
        identity: None,
        protocol: ProtocolRange {
            oldest: 1,
            newest: 1,
        },
        build: "test".into(),
        rules_digest: vec![7; 32],
        locality: Locality::default(),
        network: network(),
        addresses: Addresses::default(),
        offers: vec![offer(&service("shop.v1.Front"))],
        held: None,
        subscription: Subscription::default(),
        draining: false,
    }
}

/// Times that keep a test short, without making it race: only what the test waits for is short.
fn quick() -> Timing {
    Timing {
        backoff_first: Duration::from_millis(1),
        backoff_ceiling: Duration::from_millis(5),
        // Most tests do not end the stream from control's side.
        goodbye: Duration::from_millis(20),
        ..Timing::default()
    }
}

fn parameters(control: &[&str]) -> Parameters {
    Parameters {
        control: control.iter().map(ToString::to_string).collect(),
        hello: hello(),
        advertise: Box::new(|local: IpAddr| Addresses {
            internal: PeerAddress::new(&format!("{local}:15006")).ok(),
            external: None,
            own: Vec::new(),
        }),
        judge: everything(),
        certificate: None,
        holder: None,
        data: None,
        timing: quick(),
    }
}

/// Lets every rule pass.
fn everything() -> Judge {
    Arc::new(|_| Ok(()))
}

/// A sink that remembers what it was given.
#[derive(Default)]
struct Recorder {
    picture: Mutex<BTreeMap<ServiceName, Arc<ServiceState>>>,
    changes: Mutex<Vec<Change>>,
}

impl Sink for Recorder {
    fn replace(&self, change: &Change) {
        let mut picture = self.picture.lock().unwrap();
        for service in &change.dropped {
            picture.remove(service);
        }
        for state in &change.services {
            picture.insert(state.service.clone(), Arc::clone(state));
        }
        self.changes.lock().unwrap().push(change.clone());
    }
}

impl Recorder {
    /// The nodes that offer a service, with their generations; `None` for a service not held.
    fn nodes(&self, service: &ServiceName) -> Option<Vec<(String, u64)>> {
        let picture = self.picture.lock().unwrap();
        let nodes = |state: &Arc<ServiceState>| {
            state
                .endpoints
                .iter()
                .map(|endpoint| (endpoint.node.to_string(), endpoint.generation.number()))
                .collect()
        };
        picture.get(service).map(nodes)
    }
}

/// A running discovery.
struct Running {
    discovery: Discovery,
    sink: Arc<Recorder>,
    status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(parameters: Parameters, initial: Option<Held>) -> Self {
        let sink = Arc::new(Recorder::default());
        let (discovery, run) = start(parameters, Arc::<Recorder>::clone(&sink), initial);
        Self {
            status: discovery.status(),
            task: tokio::spawn(run),
            discovery,
            sink,
        }
    }

    /// Waits for a status; gives it.
    async fn until(&mut self, holds: impl FnMut(&Status) -> bool) -> Status {
        let reached = timeout(PATIENCE, self.status.wait_for(holds)).await;
        let seen = self.discovery.status().borrow().clone();
        match reached {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("the status that was waited for did not come, but {seen:?}"),
        }
    }

    /// Waits until control is lost; gives the error.
    async fn until_lost(&mut self) -> String {
        let status = self
            .until(|status| {
                matches!(
                    status.state,
                    State::Connecting {
                        last_error: Some(_)
                    }
                )
            })
            .await;
        match status.state {
            State::Connecting {
                last_error: Some(error),
            } => error,
            state => panic!("{state:?}"),
        }
    }

    /// Says goodbye and joins the task.
    async fn finish(self) -> Arc<Recorder> {
        self.discovery.goodbye("test over").await;
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
        self.sink
    }
}
