//! The admin pages: is it alive, is it ready and if not why, what does it count, how is it set up,
//! why would a call go there, and the drain.

mod balance;
mod certificate;
mod failure;
mod rules;
mod tap;

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};
use sidelane_process::admin::{AdminRequest, AdminResponse, Pages};
use sidelane_process::clock::unix_ms;
use sidelane_process::metrics;
use sidelane_proto::model::{Lane, ServiceName};
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;

use crate::accept;
use crate::discover::{Source, State, Status};
use crate::drain::{Draining, Phase};
use crate::explain::{self, Question};
use crate::health::LocalHealth;
use crate::kin::Kinship;
use crate::lane;
use crate::mesh::Target;
use crate::origin::Origin;
use crate::pool::To;
use crate::stack::Stack;
use crate::telemetry::{escaped, heading, line};

/// What the pages show.
pub struct Admin {
    /// The stages.
    pub stack: Arc<Stack>,
    /// The local services.
    pub health: Arc<LocalHealth>,
    /// Where the certificate comes from.
    pub origin: Origin,
    /// The settings and where they came from.
    pub settings: Value,
    /// The addresses that were bound.
    pub bound: Value,
    /// The sidecar's end.
    pub draining: Draining,
    /// Begins it.
    pub drain: Arc<Notify>,
}

impl Admin {
    /// All pages.
    #[must_use]
    pub fn pages(self: Arc<Self>) -> Pages {
        let page = |answer: fn(&Self, &AdminRequest) -> AdminResponse| {
            let admin = Arc::clone(&self);
            move |request: AdminRequest| std::future::ready(answer(&admin, &request))
        };
        Pages::new()
            .get("/livez", page(|_, _| AdminResponse::text("alive\n")))
            .get("/readyz", page(Self::readyz))
            .get("/metrics", {
                let (admin, turn) = (Arc::clone(&self), Arc::new(Semaphore::new(1)));
                move |request| {
                    let (admin, turn) = (Arc::clone(&admin), Arc::clone(&turn));
                    async move { admin.metrics_page(request, &turn).await }
                }
            })
            .get(
                "/config",
                page(|admin, _| AdminResponse::json(&admin.config())),
            )
            .get("/explain", {
                let admin = Arc::clone(&self);
                move |request| {
                    let admin = Arc::clone(&admin);
                    async move { admin.explain(&request).await }
                }
            })
            .stream("/tap", {
                let admin = Arc::clone(&self);
                move |request| {
                    let answer = tap::page(&admin.stack, &request);
                    std::future::ready(answer)
                }
            })
            .post("/drain", page(Self::start_drain))
    }

    fn start_drain(&self, _: &AdminRequest) -> AdminResponse {
        self.drain.notify_one();
        AdminResponse::text("draining\n").with_status(StatusCode::ACCEPTED)
    }

    async fn explain(&self, request: &AdminRequest) -> AdminResponse {
        let text = |name: &str| request.parameter(name).map(str::to_owned);
        let Some(path) = text("path") else {
            let usage = "ask with /explain?path=/package.Service/Method, and &node=, &lane=, \
                         &hash=, &rule=, &header= or &as=\n";
            return AdminResponse::text(usage).with_status(StatusCode::BAD_REQUEST);
        };
        let question = Question {
            path,
            node: text("node"),
            lane: text("lane"),
            hash: text("hash"),
            rule: text("rule"),
            header: text("header"),
            as_identity: text("as"),
        };
        AdminResponse::json(&explain::explain(&self.stack, &question).await)
    }

    fn readyz(&self, request: &AdminRequest) -> AdminResponse {
        let status = self.stack.discovery.status().borrow().clone();
        let believed = certificate::complaint(&self.stack.trust, &self.origin).map_or(Ok(()), Err);
        let outbound = believed.clone().and_then(|()| outbound_ready(&status));
        let inbound = believed.and_then(|()| self.inbound_ready(&status));
        let lines = match request.parameter("for") {
            None | Some("all") => vec![("outbound", outbound), ("inbound", inbound)],
            Some("outbound") => vec![("outbound", outbound)],
            Some("inbound") => vec![("inbound", inbound)],
            Some(other) => {
                let text = format!("`for={other}` is not outbound, inbound or all\n");
                return AdminResponse::text(text).with_status(StatusCode::BAD_REQUEST);
            }
        };
        let ready = lines.iter().all(|(_, state)| state.is_ok());
        let mut text = String::new();
        for (name, state) in lines {
            let said = match state {
                Ok(()) => "ready".to_owned(),
                Err(why) => format!("not ready: {why}"),
            };
            text.push_str(&format!("{name}: {said}\n"));
        }
        let connected = matches!(status.state, State::Connected { .. });
        if status.source == Source::Disk && !connected {
            text.push_str(&format!(
                "the picture of the mesh is the one kept on disk, version {}\n",
                version_text(&status)
            ));
        }
        if matches!(status.state, State::Connecting { .. }) && ready {
            text.push_str(&format!(
                "{}; the last picture holds\n",
                state_text(&status)
            ));
        }
        if let Some(refused) = &status.refused_update {
            let error = &refused.error;
            text.push_str(&format!(
                "control's last update was refused, the last good one stays: {error}\n"
            ));
        }
        text.push_str(&rules::refused_text(&status.refused_rules));
        if let Some(error) = &status.disk_error {
            text.push_str(&format!(
                "the picture of the mesh is not kept on disk: {error}\n"
            ));
        }
        let code = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        AdminResponse::text(text).with_status(code)
    }

    fn inbound_ready(&self, status: &Status) -> Result<(), String> {
        if self.draining.phase() > Phase::Running {
            return Err("draining".to_owned());
        }
        known_to_control(status)?;
        match self.health.complaints().as_slice() {
            [] => Ok(()),
            complaints => Err(complaints.join("; ")),
        }
    }

    fn config(&self) -> Value {
        let stack = &self.stack;
        let status = stack.discovery.status().borrow().clone();
        let mut targets: Vec<_> = stack.mesh.view().targets().cloned().collect();
        targets.sort_by(|one, other| one.name.cmp(&other.name));
        let services: Vec<Value> = targets
            .iter()
            .map(|target| {
                json!({
                    "service": target.name.as_str(),
                    "rule": target.source.name(),
                    "origin": target.rule.origin,
                    "pushed": rules::pushed(&target.said),
                    "class": target.rule.class.name(),
                    "lane": target.rule.lane.name(),
                    "secure": target.rule.secure,
                    "persistent": target.rule.persistent,
                    "strategy": target.hub().strategy().name(),
                    "endpoints": target.hub().len(),
                })
            })
            .collect();
        json!({
            "node": stack.own.node.as_str(),
            "build": env!("CARGO_PKG_VERSION"),
            "unix_ms": unix_ms(),
            "generation": status.generation.number(),
            "settings": self.settings,
            "bound": self.bound,
            "local": self.health.describe(),
            "control": state_text(&status),
            "certificate": certificate::describe(&stack.trust, &self.origin),
            "version": status.version.as_ref().map(ToString::to_string),
            "rules": rules::held(&status),
            "picture_from": status.source.name(),
            "lanes": lanes(),
            "peers": accept::bounds(),
            "users": stack.edge.describe(),
            "services": services,
            "links": self.links(),
        })
    }

    fn links(&self) -> Vec<Value> {
        let links = self.stack.pool.links();
        links
            .iter()
            .map(|link| {
                let (kind, to) = match &link.key.to {
                    To::Peer { node, generation } => ("peer", format!("{node}@{generation}")),
                    To::Local(address) => ("local", address.to_string()),
                    To::Destination(address) => ("destination", address.to_string()),
                };
                json!({
                    "kind": kind,
                    "to": to,
                    "class": link.key.class.name(),
                    "lane": link.key.lane.name(),
                    "local": link.local.map(|address| address.to_string()),
                    "remote": link.remote.map(|address| address.to_string()),
                    "in_flight": link.in_flight(),
                    "limit": link.limit,
                    "rules": link.kinship.map(Kinship::name),
                    "identity": link.proved.as_ref().map(|leaf| leaf.id.as_str()),
                    "calls": link.calls(),
                    "age_ms": u64::try_from(link.opened.elapsed().as_millis()).unwrap_or(u64::MAX),
                })
            })
            .collect()
    }

    /// Beside the thread of the calls, since it may take a while; and one page at a time, since each
    /// may be large.
    async fn metrics_page(
        self: Arc<Self>,
        request: AdminRequest,
        turn: &Semaphore,
    ) -> AdminResponse {
        // It is never closed.
        let _turn = turn.acquire().await;
        let own = metrics::own().await;
        let written =
            spawn_blocking(move || metrics::page(&request, &(self.metrics() + &own.text())));
        written.await.unwrap_or_else(|error| {
            let text = format!("the figures cannot be told: {error}\n");
            AdminResponse::text(text).with_status(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }

    fn metrics(&self) -> String {
        let stack = &self.stack;
        let view = stack.mesh.view();
        let known = |name: &ServiceName| view.target(name.as_str()).is_some_and(|it| it.is_known());
        let mut text = stack.metrics.render_known(known);
        self.health.render(&mut text);
        let name = "sidelane_user_memory_bytes";
        let help = "Bytes that are held for the calls of users, at most.";
        heading(&mut text, name, "gauge", help);
        line(&mut text, name, "", stack.edge.room.held() as u64);
        let mut targets: Vec<&Arc<Target>> = view.targets().filter(|it| it.is_known()).collect();
        targets.sort_by(|one, other| one.name.cmp(&other.name));
        certificate::render(&mut text, &stack.trust, &self.origin);
        failure::render(&mut text, &targets);
        render_splits(&mut text, &targets);
        let links = stack.pool.links();
        heading(
            &mut text,
            "sidelane_links",
            "gauge",
            "Connections that stand.",
        );
        for lane in Lane::known() {
            let of_lane = links.iter().filter(|link| link.key.lane == lane).count();
            line(
                &mut text,
                "sidelane_links",
                &format!("lane=\"{lane}\""),
                of_lane as u64,
            );
        }
        balance::render(&mut text, &targets);
        let status = stack.discovery.status().borrow().clone();
        let counters = stack.discovery.counters();
        let values = [
            (
                "sidelane_control_connected",
                "gauge",
                "1 while control is there.",
                { u64::from(matches!(status.state, State::Connected { .. })) },
            ),
            (
                "sidelane_control_streams_total",
                "counter",
                "Streams welcomed.",
                counters.connected,
            ),
            (
                "sidelane_control_failures_total",
                "counter",
                "Streams failed.",
                counters.failed,
            ),
            (
                "sidelane_updates_total",
                "counter",
                "Updates taken.",
                counters.updates,
            ),
            (
                "sidelane_updates_refused_total",
                "counter",
                "Updates refused.",
                counters.refused_updates,
            ),
            (
                "sidelane_rules_held",
                "gauge",
                "Pushed rules held.",
                status.rules as u64,
            ),
            (
                "sidelane_rules_refused_now",
                "gauge",
                "Pushed rules that are refused now.",
                status.refused_rules.len() as u64,
            ),
            (
                "sidelane_rules_refused_total",
                "counter",
                "Pushed rules refused.",
                counters.refused_rules,
            ),
            ("sidelane_snapshot_version", "gauge", "The version held.", {
                status.version.map_or(0, |version| version.counter)
            }),
            (
                "sidelane_snapshot_saves_total",
                "counter",
                "Snapshots written.",
                counters.saved,
            ),
            (
                "sidelane_snapshot_save_failures_total",
                "counter",
                "Snapshots not written.",
                { counters.save_failures },
            ),
        ];
        if let Some(age) = status.updated.and_then(|updated| updated.elapsed().ok()) {
            let help = "Seconds since control last gave news.";
            heading(&mut text, "sidelane_snapshot_age_seconds", "gauge", help);
            line(
                &mut text,
                "sidelane_snapshot_age_seconds",
                "",
                age.as_secs(),
            );
        }
        for (name, kind, help, value) in values {
            heading(&mut text, name, kind, help);
            line(&mut text, name, "", value);
        }
        text
    }
}

/// Where the calls of services went that are split between versions.
fn render_splits(text: &mut String, targets: &[&Arc<Target>]) {
    let split: Vec<_> = targets
        .iter()
        .filter_map(|target| {
            let hub = target.hub();
            let (split, picks) = hub.split()?;
            Some((target.name.clone(), split.clone(), picks))
        })
        .collect();
    let name = "sidelane_split_picks_total";
    heading(
        text,
        name,
        "counter",
        "Picks of each part of a traffic split.",
    );
    for (service, split, picks) in &split {
        for (part, count) in split.parts.iter().zip(picks.of) {
            let part = escaped(&part.value);
            let labels = format!("service=\"{service}\",part=\"{part}\"");
            line(text, name, &labels, count);
        }
    }
    let name = "sidelane_split_fell_over_total";
    let help = "Picks of other parts, because nobody of the one that was meant could be had.";
    heading(text, name, "counter", help);
    for (service, _, picks) in &split {
        let labels = format!("service=\"{service}\"");
        line(text, name, &labels, picks.fell_over);
    }
}

fn outbound_ready(status: &Status) -> Result<(), String> {
    if status.source != Source::None {
        return Ok(());
    }
    Err(format!(
        "no picture of the mesh yet: {}",
        state_text(status)
    ))
}

/// Peers can only find a node that control has taken in. While control is merely away they go on
/// with what they know, and so does this node: a control plane that is down must not make every
/// probe take its node out.
fn known_to_control(status: &Status) -> Result<(), String> {
    match &status.state {
        State::Connected { .. } => Ok(()),
        State::Connecting { .. } if status.version.is_some() => Ok(()),
        _ => Err(state_text(status)),
    }
}

fn version_text(status: &Status) -> String {
    let version = status.version.as_ref();
    version.map_or_else(|| "unknown".to_owned(), ToString::to_string)
}

fn state_text(status: &Status) -> String {
    match &status.state {
        State::Connecting { last_error: None } => "connecting to control".to_owned(),
        State::Connecting {
            last_error: Some(error),
        } => format!("control is away: {error}"),
        State::Connected { address, build, .. } => format!("connected to {address} ({build})"),
        State::Refused { reason, text } => format!("control refused this node: {reason}: {text}"),
        State::Superseded { text, .. } => format!("NODE_REPLACED: {text}"),
        State::Left => "goodbye was said".to_owned(),
    }
}

fn lanes() -> Vec<Value> {
    Lane::known()
        .into_iter()
        .map(|lane| {
            let settings = lane::settings(lane);
            json!({
                "lane": lane.name(),
                "id": lane.id(),
                "stream_window": settings.stream_window,
                "connection_window": settings.connection_window,
                "max_streams": settings.max_streams,
                "max_connections": settings.max_connections,
                "max_waiting": settings.max_waiting,
                "queue": settings.queue,
                "longest_wait_ms": settings.longest_wait.as_millis(),
                "frame_size": settings.frame_size,
                "send_buffer": settings.send_buffer,
                "ping_every_ms": u64::try_from(settings.ping_every.as_millis()).ok(),
                "ping_timeout_ms": u64::try_from(settings.ping_timeout.as_millis()).ok(),
                "idle_ms": u64::try_from(settings.idle.as_millis()).ok(),
                "dscp": settings.dscp,
                "priority": settings.priority,
                "unsent": settings.unsent,
                "turn": settings.turn,
            })
        })
        .collect()
}
