//! Starts the Envoy pair: two Envoys, HTTP/2 in the clear on both sides, with the router as their
//! only filter. What can be set as in the bare pair is: windows, streams, one worker. What only
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

/// Far above all calls in flight: its own bound must not be what is measured.
const NO_BREAKER: u32 = 1_000_000;

/// Starts both, each into `members`, with configuration and logs in `directory`; returns the
/// address that takes the calls.
pub(crate) async fn start(
    program: &Path,
    directory: &Path,
    echo: SocketAddr,
    members: &mut Vec<Member>,
) -> Result<SocketAddr> {
    let mut upstream = echo;
    for (file, name) in [("callee", "callee's envoy"), ("caller", "caller's envoy")] {
        let [listen, admin] = free_addresses()?;
        let path = directory.join(format!("{file}.json"));
        let text = configuration(listen, admin, upstream).to_string();
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let mut arguments = words(&["--disable-hot-restart"]);
        flag(&mut arguments, "--config-path", path.display());
        flag(&mut arguments, "--concurrency", 1);
        flag(&mut arguments, "--log-level", "error");
        let log = directory.join(format!("{file}.log"));
        let process = Process::other(name, program, &arguments, log)?;
        add(members, Part::Proxy, process, admin, "/ready").await?;
        upstream = listen;
    }
    Ok(upstream)
}

/// What one Envoy is told.
fn configuration(listen: SocketAddr, admin: SocketAddr, upstream: SocketAddr) -> Value {
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
    let next = json!({
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
    json!({
        "admin": { "address": address(admin) },
        "static_resources": {
            "listeners": [{
                "name": "in",
                "address": address(listen),
                "filter_chains": [{ "filters": [connections] }],
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
        let told = configuration(at(1), at(2), at(3));
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
    }
}
