//! A call's span as a collector takes it. Names and attributes are those of OpenTelemetry's
//! conventions for RPC and gRPC, beside the mesh's own, which begin with `sidelane.`. Made of those
//! spans alone that are sent.

use std::net::SocketAddr;
use std::str::FromStr;

use http::HeaderValue;
use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId as OtelSpanId, SpanKind, Status, TraceFlags,
    TraceId as OtelTraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use sidelane_proto::model::NodeId;

use super::context::Context;
use super::span::{Ended, Kind, Recording, name_of};
use super::told::{Moment, Told, What};
use crate::reason::Reason;
use crate::telemetry::Traffic;

/// The method of a call whose own nobody has written down.
const OTHER: &str = "_OTHER";
/// As much is told of a method that the caller may have made up, in bytes.
pub const ORIGINAL: usize = 256;

impl Recording {
    pub(super) fn into_data(self, mut told: Told, ended: &Ended, traffic: Traffic) -> SpanData {
        let moments: Vec<Moment> = told.moments().collect();
        let (error, said) = self.error(&moments, &mut told, ended);
        let mut attributes = vec![KeyValue::new("rpc.system.name", "grpc")];
        let name = self.called(&mut attributes);
        self.place(&mut attributes);
        attributes.push(KeyValue::new(
            "rpc.response.status_code",
            name_of(ended.code),
        ));
        attributes.push(KeyValue::new("sidelane.attempts", i64::from(told.attempts)));
        attributes.extend(told.node().map(node));
        if self.kind == Kind::Client {
            attributes.extend(told.remote.into_iter().flat_map(peer));
        }
        if ended.failed {
            // Where an answer has a status, that is its error; what was not answered has a reason.
            let kind = ended.reason.map_or(name_of(ended.code), Reason::name);
            attributes.push(KeyValue::new("error.type", kind));
        }
        attributes.extend(error.map(|error| KeyValue::new("sidelane.error", error)));
        carried(traffic, &mut attributes);
        let status = match ended.failed {
            // What went well is left for the app to say.
            false => Status::Unset,
            true => Status::error(said),
        };
        let mut events = SpanEvents::default();
        let began = self.began;
        let each = moments.into_iter().map(|moment| {
            let at = began + moment.at;
            let (name, said) = event(moment.what);
            Event::new(name, at, said, 0)
        });
        events.events.extend(each);
        events.dropped_count = told.dropped;
        let mut links = SpanLinks::default();
        let linked = self.linked.as_ref();
        links
            .links
            .extend(linked.map(|it| Link::with_context(otel(it, true, None))));
        SpanData {
            span_context: otel(&self.context, false, self.state.as_ref()),
            parent_span_id: self
                .parent
                .map_or(OtelSpanId::INVALID, OtelSpanId::from_bytes),
            parent_span_is_remote: self.parent.is_some(),
            span_kind: match self.kind {
                Kind::Client => SpanKind::Client,
                Kind::Server => SpanKind::Server,
            },
            name: name.into(),
            start_time: self.began,
            end_time: self.now(),
            attributes,
            dropped_attributes_count: 0,
            events,
            links,
            status,
            instrumentation_scope: scope(),
        }
    }

    /// The mesh's reason why the call failed, whichever sidecar said it, and in words.
    fn error(
        &self,
        moments: &[Moment],
        told: &mut Told,
        ended: &Ended,
    ) -> (Option<String>, String) {
        let Some(reason) = ended.reason else {
            let (error, said) = told.heard.take().unzip();
            return (error, said.unwrap_or_default());
        };
        let said = moments.iter().rev().find_map(|moment| match &moment.what {
            What::Refused { text, .. } => Some(text.clone()),
            _ => None,
        });
        (Some(reason.name().to_owned()), said.unwrap_or_default())
    }

    /// What is called, and the span's name.
    fn called(&self, attributes: &mut Vec<KeyValue>) -> String {
        let path = self.path.as_ref().map_or("", |path| path.path());
        let asked = path.strip_prefix('/').unwrap_or(path);
        let service = asked.split_once('/').map(|(service, _)| service);
        // A rule's own, and never what a caller made up.
        let rule = self.rule.as_ref().map(|rule| rule.service.as_ref());
        let name = if self.named {
            attributes.push(KeyValue::new("rpc.method", asked.to_owned()));
            asked.to_owned()
        } else {
            attributes.push(KeyValue::new("rpc.method", OTHER));
            let original = short(asked).to_owned();
            attributes.push(KeyValue::new("rpc.method_original", original));
            match rule.filter(|rule| service == Some(rule)) {
                Some(service) => format!("{service}/{OTHER}"),
                None => OTHER.to_owned(),
            }
        };
        if let Some(destination) = &self.destination {
            let (host, port) = split(destination.as_str());
            attributes.push(KeyValue::new("server.address", host.to_owned()));
            attributes.extend(port.map(|port| KeyValue::new("server.port", port)));
        } else if let Some(service) = service {
            // Callers of the mesh name services; which of its servers it is, is the peer.
            let service = short(service).to_owned();
            attributes.push(KeyValue::new("server.address", service));
        }
        name
    }

    /// By which connection it goes, and by whose word.
    fn place(&self, attributes: &mut Vec<KeyValue>) {
        if let Some((class, lane)) = self.way {
            attributes.push(KeyValue::new("sidelane.connection", class.name()));
            attributes.push(KeyValue::new("sidelane.lane", lane.name()));
        }
        if let Some(rule) = &self.rule {
            let origin = rule.origin.clone().into_owned();
            attributes.push(KeyValue::new("sidelane.rule", origin));
        }
    }
}

fn event(what: What) -> (&'static str, Vec<KeyValue>) {
    let error = |name: &'static str| KeyValue::new("sidelane.error", name);
    match what {
        What::Sent {
            number,
            node: to,
            remote,
            hedge,
        } => {
            let mut said = vec![KeyValue::new("sidelane.attempt", i64::from(number))];
            said.extend(to.as_ref().map(node));
            said.extend(remote.into_iter().flat_map(peer));
            if hedge {
                said.push(KeyValue::new("sidelane.hedge", true));
            }
            ("sidelane.attempt", said)
        }
        What::Failed {
            node: at,
            status,
            reason,
            text,
        } => {
            let mut said = vec![KeyValue::new("rpc.response.status_code", status)];
            said.extend(at.as_ref().map(node));
            said.extend(reason.map(|reason| KeyValue::new("sidelane.error", reason)));
            if !text.is_empty() {
                said.push(KeyValue::new("sidelane.message", text));
            }
            ("sidelane.attempt.failed", said)
        }
        What::Cancelled { node: at } => {
            let said = at.as_ref().map(node).into_iter().collect();
            ("sidelane.attempt.cancelled", said)
        }
        What::Withheld { hedge, why } => {
            let name = match hedge {
                true => "sidelane.hedge.withheld",
                false => "sidelane.retry.withheld",
            };
            (name, vec![KeyValue::new("sidelane.why", why)])
        }
        What::Refused { reason, text } => {
            let name = match reason {
                Reason::BreakerOpen => "sidelane.breaker",
                Reason::RateLimited | Reason::Overloaded | Reason::LaneFull => "sidelane.limit",
                _ => "sidelane.refused",
            };
            let text = KeyValue::new("sidelane.message", text);
            (name, vec![error(reason.name()), text])
        }
    }
}

fn carried(traffic: Traffic, attributes: &mut Vec<KeyValue>) {
    let Traffic { request, response } = traffic;
    let carried = [
        ("sidelane.request.messages", request.messages),
        ("sidelane.request.bytes", request.bytes),
        ("sidelane.response.messages", response.messages),
        ("sidelane.response.bytes", response.bytes),
    ];
    for (name, count) in carried {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        attributes.push(KeyValue::new(name, count));
    }
}

/// Who makes these spans.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("sidelane-sidecar")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

fn otel(context: &Context, remote: bool, state: Option<&HeaderValue>) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(context.sampled);
    let state = state.and_then(|state| TraceState::from_str(state.to_str().ok()?).ok());
    SpanContext::new(
        OtelTraceId::from_bytes(context.trace),
        OtelSpanId::from_bytes(context.span),
        flags,
        remote,
        state.unwrap_or(TraceState::NONE),
    )
}

fn node(node: &NodeId) -> KeyValue {
    KeyValue::new("sidelane.node", node.as_str().to_owned())
}

fn peer(remote: SocketAddr) -> [KeyValue; 2] {
    let ip = remote.ip().to_canonical().to_string();
    [
        KeyValue::new("network.peer.address", ip),
        KeyValue::new("network.peer.port", i64::from(remote.port())),
    ]
}

/// The beginning of what may be as long as a header, by whole characters.
fn short(text: &str) -> &str {
    let mut end = text.len().min(ORIGINAL);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A host, IPv6 without brackets, and a port.
fn split(address: &str) -> (&str, Option<i64>) {
    let Some((host, port)) = address.rsplit_once(':') else {
        return (address, None);
    };
    let host = host.strip_prefix('[').unwrap_or(host);
    (
        host.strip_suffix(']').unwrap_or(host),
        port.parse::<u16>().ok().map(i64::from),
    )
}
