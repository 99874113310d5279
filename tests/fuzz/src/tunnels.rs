//! The head of a CONNECT: a target that is taken is an address, and stands in the first line as it is.

use sidelane_proto::model::PeerAddress;
use sidelane_sidecar::accept::tunnel_target;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "tunnels",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let Some(target) = tunnel_target(data) else {
        return;
    };
    assert_eq!(PeerAddress::new(target.as_str()).as_ref(), Ok(&target));
    let line = format!("CONNECT {target} HTTP/1.");
    assert!(data.starts_with(line.as_bytes()), "{line}");
    let text = target.as_str();
    assert!(!text.contains(|it: char| it.is_whitespace() || it.is_control()));
    let (host, port) = text.rsplit_once(':').expect("HOST:PORT");
    assert!(!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "CONNECT orders:50051 HTTP/1.1\r\nhost: orders:50051\r\n\r\n",
        "CONNECT [::1]:443 HTTP/1.0\r\n\r\n",
        "CONNECT 10.0.0.7:1 HTTP/1.1\r\nuser-agent: x\r\nproxy-authorization: y\r\n\r\n",
        "CONNECT a:65536 HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
