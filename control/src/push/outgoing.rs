//! What a session says, between the snapshot and the wire. An update stays a list of pointers into
//! the snapshot until the connection takes it: a thousand sessions that are told at once hold a
//! thousand lists, not a thousand copies of what is in them.

use std::sync::Arc;

use sidelane_proto::model::{Endpoint, PushedRule, Removal, ServiceName};
use sidelane_proto::wire::control::v1 as wire;
use sidelane_proto::wire::control::v1::{SyncResponse, sync_response::Message as Told};
use tonic::Status;

use crate::registry::ServiceView;

/// News for one session.
#[derive(Debug, Clone, Default)]
pub struct News {
    /// The store that counts.
    pub store: Arc<str>,
    /// What is held once this is taken.
    pub counter: u64,
    /// This is all there is.
    pub full: bool,
    /// Whole states; `None` where a service was never seen.
    pub states: Vec<(ServiceName, Option<Arc<ServiceView>>)>,
    /// Endpoints that are new or changed.
    pub upserts: Vec<Arc<Endpoint>>,
    /// Endpoints that left.
    pub removals: Vec<Removal>,
    /// Applied rules that are new or changed; in a full update these are all.
    pub rules: Vec<Arc<PushedRule>>,
    /// Services that have no applied rule, and may have had one.
    pub rules_removed: Vec<ServiceName>,
}

/// Something that a session says. Small, because the channel has room for many of them.
#[derive(Debug)]
pub(super) enum Outgoing {
    Told(Box<Told>),
    News(Box<News>),
    /// The stream ends with this.
    Ended(Status),
}

impl Outgoing {
    pub(super) fn told(message: Told) -> Self {
        Self::Told(Box::new(message))
    }

    /// As the wire has it. Called by the connection, when it takes the message.
    pub(super) fn into_response(self) -> Result<SyncResponse, Status> {
        let message = match self {
            Self::Told(message) => *message,
            Self::News(news) => Told::Update((&*news).into()),
            Self::Ended(status) => return Err(status),
        };
        Ok(SyncResponse {
            message: Some(message),
        })
    }
}

impl From<&News> for wire::Update {
    fn from(news: &News) -> Self {
        Self {
            version: Some(wire::Version {
                store_id: news.store.to_string(),
                counter: news.counter,
            }),
            full: news.full,
            services: news.states.iter().map(state).collect(),
            upserts: news
                .upserts
                .iter()
                .map(|endpoint| (&**endpoint).into())
                .collect(),
            removals: news.removals.iter().map(Into::into).collect(),
            rules: news.rules.iter().map(|rule| (&**rule).into()).collect(),
            rules_removed: news
                .rules_removed
                .iter()
                .map(|service| service.as_str().to_owned())
                .collect(),
        }
    }
}

fn state((service, view): &(ServiceName, Option<Arc<ServiceView>>)) -> wire::ServiceState {
    let endpoints = view.iter().flat_map(|view| view.endpoints());
    wire::ServiceState {
        service: service.as_str().to_owned(),
        ever_seen: view.is_some(),
        endpoints: endpoints.map(|endpoint| (&**endpoint).into()).collect(),
    }
}
