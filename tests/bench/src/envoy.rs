//! Starts the Envoy pair: two Envoys, HTTP/2 on both sides, with the router as their only filter,
//! and between them TLS 1.3 where they are to prove who they are. What can be set as in the bare pair is: windows, streams, one worker. What only
//! costs is off: request ids, its own headers, access logs, time limits, hot restart. So this is
//! the least that two Envoys can do.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

use crate::http2::{CONCURRENT_STREAMS, CONNECTION_WINDOW, STREAM_WINDOW};
use crate::mesh::{add, flag, free_addresses, words};
use crate::pair::{Member, Part};
use crate::process::Process;
use crate::tls::{ALPN, Certificates, End};

/// Far above all calls in flight: its own bound must not be what is measured.
const NO_BREAKER: u32 = 1_000_000;

/// Starts both, each into `members`, with configuration and logs in `directory`; returns the
/// address that takes the calls, and that of the callee's.
pub(crate) async fn start(
    program: &Path,
    directory: &Path,
    echo: SocketAddr,
    certificates: Option<&Certificates>,
    members: &mut Vec<Member>,
) -> Result<[SocketAddr; 2]> {
    let mut upstream = echo;
    let mut addresses = [echo; 2];
    let ends = [
        (End::Callee, "callee", "callee's envoy"),
        (End::Caller, "caller", "caller's envoy"),
    ];
    for (end, file, name) in ends {
        let [listen, admin] = free_addresses()?;
        let path = directory.join(format!("{file}.json"));
        let text = configuration(listen, admin, upstream, certificates, end).to_string();
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let mut arguments = words(&["--disable-hot-restart"]);
        flag(&mut arguments, "--config-path", path.display());
        flag(&mut arguments, "--concurrency", 1);
        flag(&mut arguments, "--log-level", "error");
        let log = directory.join(format!("{file}.log"));
        let process = Process::other(name, program, &arguments, log)?;
        add(members, Part::Proxy, process, admin, "/ready").await?;
        upstream = listen;
        addresses = [listen, addresses[0]];
    }
    Ok(addresses)
}

/// What TLS is, on either side: as rustls does it by itself, as far as Envoy can be told (which
/// cipher of TLS 1.3 is taken it cannot be).
fn tls(certificates: &Certificates, end: End, peers: &[End]) -> Value {
    let file = |path: &Path| json!({ "filename": path.display().to_string() });
    let ids = peers
        .iter()
        .map(|peer| json!({ "san_type": "URI", "matcher": { "exact": peer.id() } }));
    let ids: Vec<Value> = ids.collect();
    json!({
        "alpn_protocols": [ALPN],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519"],
        },
        "tls_certificates": [{
            "certificate_chain": file(&certificates.chain(end)),
            "private_key": file(&certificates.key(end)),
        }],
        "validation_context": {
            "trusted_ca": file(&certificates.roots()),
            "match_typed_subject_alt_names": ids,
        },
    })
}

/// A transport socket of this side of a connection.
fn socket(side: &str, context: &Value, more: (&str, Value)) -> Value {
    let kind =
        format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext");
    let mut told = json!({ "@type": kind, "common_tls_context": context });
    told[more.0] = more.1;
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": told })
}

/// What one Envoy is told. With certificates the callee's takes TLS, and the caller's dials it.
fn configuration(
    listen: SocketAddr,
    admin: SocketAddr,
    upstream: SocketAddr,
    certificates: Option<&Certificates>,
    end: End,
) -> Value {
    let http2 = json!({
        "max_concurrent_streams": CONCURRENT_STREAMS,
        "initial_stream_window_size": STREAM_WINDOW,
        "initial_connection_window_size": CONNECTION_WINDOW,
    });
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": true,
        },
    });
    let every_path = json!({
        "match": { "prefix": "/" },
        "route": { "cluster": "next", "timeout": "0s" },
    });
    let connections = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.\
                      http_connection_manager.v3.HttpConnectionManager",
            "codec_type": "HTTP2",
            "stat_prefix": "in",
            "generate_request_id": false,
            "stream_idle_timeout": "0s",
            "http2_protocol_options": http2,
            "route_config": {
                "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [every_path] }],
            },
            "http_filters": [router],
        },
    });
    let mut next = json!({
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": NO_BREAKER,
            "max_pending_requests": NO_BREAKER,
            "max_requests": NO_BREAKER,
        }] },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.\
                          HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": http2 },
            },
        },
        "load_assignment": {
            "cluster_name": "next",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(upstream) } }] }],
        },
    });
    let mut chain = json!({ "filters": [connections] });
    match (certificates, end) {
        (Some(certificates), End::Callee) => {
            let context = tls(certificates, end, &[End::Caller, End::Dialler]);
            let mut socket = socket(
                "Downstream",
                &context,
                ("require_client_certificate", true.into()),
            );
            socket["typed_config"]["disable_stateless_session_resumption"] = true.into();
            chain["transport_socket"] = socket;
        }
        (Some(certificates), _) => {
            let context = tls(certificates, end, &[End::Callee]);
            next["transport_socket"] = socket("Upstream", &context, ("max_session_keys", 0.into()));
        }
        (None, _) => {}
    }
    json!({
        "admin": { "address": address(admin) },
        "static_resources": {
            "listeners": [{
                "name": "in",
                "address": address(listen),
                "filter_chains": [chain],
            }],
            "clusters": [next],
        },
    })
}

fn address(of: SocketAddr) -> Value {
    json!({ "socket_address": { "address": of.ip().to_string(), "port_value": of.port() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_the_windows_of_the_bare_pair() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let told = configuration(at(1), at(2), at(3), None, End::Callee);
        let down = told.pointer(
            "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/\
             http2_protocol_options",
        );
        let options = "/static_resources/clusters/0/typed_extension_protocol_options";
        let up = &told.pointer(options).unwrap()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
            ["explicit_http_config"]["http2_protocol_options"];
        assert_eq!(down, Some(up));
        assert_eq!(up["initial_stream_window_size"], STREAM_WINDOW);
        let upstream = "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0\
                        /endpoint/address/socket_address/port_value";
        assert_eq!(told.pointer(upstream), Some(&json!(3)));
        // A type that is broken over two lines above must be one word.
        assert!(!told.to_string().contains(' '), "{told}");
        assert!(!told.to_string().contains("tls"), "{told}");
    }

    #[test]
    fn each_end_of_a_pair_in_mtls_shows_its_certificate_and_means_the_other() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let certificates = Certificates::in_folder(Path::new("/c"));
        let told = |end| configuration(at(1), at(2), at(3), Some(&certificates), end);
        let listener = "/static_resources/listeners/0/filter_chains/0/transport_socket";
        let cluster = "/static_resources/clusters/0/transport_socket";
        let (callee, caller) = (told(End::Callee), told(End::Caller));
        assert_eq!(callee.pointer(cluster), None, "the echo server has no TLS");
        assert_eq!(caller.pointer(listener), None, "nor has the load");
        let (accepts, dials) = (callee.pointer(listener), caller.pointer(cluster));
        let (accepts, dials) = (accepts.unwrap(), dials.unwrap());
        assert_eq!(accepts["typed_config"]["require_client_certificate"], true);
        for (socket, own, peer) in [
            (accepts, "callee", End::Caller),
            (dials, "caller", End::Callee),
        ] {
            let context = &socket["typed_config"]["common_tls_context"];
            let chain = &context["tls_certificates"][0]["certificate_chain"]["filename"];
            assert_eq!(chain, &json!(format!("/c/{own}.pem")));
            let means = "/validation_context/match_typed_subject_alt_names/0/matcher/exact";
            assert_eq!(context.pointer(means), Some(&json!(peer.id())));
        }
    }
}
