//! What is looked at: control's lists, and the pages of the sidecars, each within its time.

use std::time::Duration;

use serde_json::Value;
use sidelane_process::clock::unix_ms;
use sidelane_proto::wire::admin::v1::{ListNodesResponse, ListServicesResponse};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::control::{self, Control, ControlError};
use super::super::sidecar;
use super::finding::Offset;

/// How long a sidecar may take for a page.
const PAGE_LIMIT: Duration = Duration::from_secs(3);
/// Nodes are behind for a moment whenever something changes: how often, and when, they are looked at
/// again before that counts.
const AGAIN: u32 = 5;
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// All that was heard.
pub(super) struct Looked {
    /// Of control.
    pub(super) control: Result<Listed, ControlError>,
    /// Of each sidecar.
    pub(super) sidecars: Vec<Sidecar>,
}

/// What control knows.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// The nodes.
    pub(super) nodes: ListNodesResponse,
    /// The services.
    pub(super) services: ListServicesResponse,
    /// Its clock; `None` where it does not tell the time.
    pub(super) clock: Option<Offset>,
}

/// A sidecar that was asked.
#[derive(Debug)]
pub(super) struct Sidecar {
    /// Where.
    pub(super) url: String,
    /// What it said, or why it said nothing.
    pub(super) answered: Result<Pages, String>,
}

/// A sidecar's pages.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// `/readyz`, with a line for each direction.
    pub(super) ready: String,
    /// `/config`.
    pub(super) config: Value,
    /// Its clock; `None` where it does not tell the time.
    pub(super) clock: Option<Offset>,
    /// When that was, in seconds since 1970: by its own clock, which its certificate is held against.
    pub(super) now: i64,
}

/// Asks them all, each beside the others.
pub(super) async fn look(addresses: &[String], network: &str, sidecars: &[String]) -> Looked {
    let mut asked = JoinSet::new();
    for (place, url) in sidecars.iter().cloned().enumerate() {
        asked.spawn(async move {
            let answered = pages(&url).await;
            (place, Sidecar { url, answered })
        });
    }
    let control = listed(addresses, network).await;
    let mut looked = asked.join_all().await;
    looked.sort_by_key(|(place, _)| *place);
    Looked {
        control,
        sidecars: looked.into_iter().map(|(_, sidecar)| sidecar).collect(),
    }
}

async fn listed(addresses: &[String], network: &str) -> Result<Listed, ControlError> {
    let mut control = control::connect(addresses).await?;
    let (mut nodes, mut clock) = list_nodes(&mut control, network).await?;
    for _ in 0..AGAIN {
        if !some_are_behind(&nodes) {
            break;
        }
        sleep(AGAIN_AFTER).await;
        (nodes, clock) = list_nodes(&mut control, network).await?;
    }
    let services = control.list_services(network).await?;
    Ok(Listed {
        nodes,
        services,
        clock,
    })
}

async fn list_nodes(
    control: &mut Control,
    network: &str,
) -> Result<(ListNodesResponse, Option<Offset>), ControlError> {
    let asked = now();
    let nodes = control.list_nodes(network).await?;
    let theirs = i64::try_from(nodes.unix_ms).unwrap_or(i64::MAX);
    let clock = (theirs > 0).then(|| Offset::between(asked, now(), theirs));
    Ok((nodes, clock))
}

fn some_are_behind(listed: &ListNodesResponse) -> bool {
    let newest = listed.version.as_ref().map_or(0, |it| it.counter);
    let mut nodes = listed.nodes.iter();
    nodes.any(|node| node.connected && node.refused.is_empty() && node.acknowledged < newest)
}

async fn pages(url: &str) -> Result<Pages, String> {
    let get = async |page: &str| {
        let got = sidecar::get(url, page, PAGE_LIMIT).await;
        got.map_err(|error| error.to_string())
    };
    let ready = get("/readyz").await?.text();
    let asked = now();
    let config = get("/config").await?;
    let answered = now();
    let config: Value = serde_json::from_slice(&config.body)
        .map_err(|_| format!("{url}/config is no JSON; is this a sidecar's admin port?"))?;
    let theirs = config["unix_ms"].as_i64();
    Ok(Pages {
        ready,
        clock: theirs.map(|theirs| Offset::between(asked, answered, theirs)),
        config,
        now: theirs.unwrap_or(answered) / 1_000,
    })
}

fn now() -> i64 {
    i64::try_from(unix_ms()).unwrap_or(i64::MAX)
}
