//! Names, addresses, identities and tokens, one after the other: what is taken is written as it was
//! read, and two readers of one thing agree.

use sidelane_identity::token::{JoinFile, JoinToken};
use sidelane_identity::{Serial, SpiffeId, TrustDomain};
use sidelane_proto::model::{
    Identity, InstanceId, Network, NodeId, PeerAddress, ServiceName, SpokenRule,
};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "names",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let kept = [
        NodeId::new(text).map(|it| it.to_string()),
        ServiceName::new(text).map(|it| it.to_string()),
        Network::new(text).map(|it| it.to_string()),
        Identity::new(text).map(|it| it.to_string()),
        PeerAddress::new(text).map(|it| it.to_string()),
        InstanceId::new(text).map(|it| it.as_str().to_owned()),
    ];
    for kept in kept.into_iter().flatten() {
        assert_eq!(kept, text);
    }
    spoken(text);
    identity(text);
    if let Some(serial) = Serial::from_hex(text) {
        assert_eq!(
            Serial::from_hex(&serial.to_string()).as_ref(),
            Some(&serial)
        );
        assert_eq!(Serial::new(serial.as_bytes()), serial);
    }
    if let Ok(token) = JoinToken::parse(text) {
        let again = JoinToken::parse(&token.to_text()).expect("written");
        assert!(again.to_text() == token.to_text(), "a token is another one");
        assert_eq!(
            (&again.node, &again.identity),
            (&token.node, &token.identity)
        );
    }
    if let Ok(file) = JoinFile::parse(text) {
        let again = JoinFile::parse(&file.to_text()).expect("written");
        assert!(
            again.to_text() == file.to_text(),
            "a join file is another one"
        );
    }
}

fn spoken(text: &str) {
    let Ok(rule) = text.parse::<SpokenRule>() else {
        return;
    };
    assert!(rule.class.allows(rule.lane), "{rule}");
    let again: SpokenRule = rule.to_string().parse().expect("what was written");
    assert_eq!(again, rule);
}

fn identity(text: &str) {
    if let Ok(domain) = TrustDomain::new(text) {
        assert_eq!(domain.as_str(), text);
        let workload = SpiffeId::workload(&domain, "shop", "orders").expect("a workload's id");
        assert!(workload.is_of(&domain));
        assert_eq!(workload.service_account(), Some(("shop", "orders")));
    }
    let id = SpiffeId::new(text);
    // What control may name must be what a certificate may show.
    assert_eq!(Identity::new(text).is_ok(), id.is_ok(), "{text:?}: {id:?}");
    if let Ok(id) = id {
        assert_eq!(id.as_str(), text);
        let domain = id.trust_domain();
        assert!(id.is_of(&domain));
        assert_eq!(format!("spiffe://{domain}{}", id.path()), text);
        if let Some((namespace, account)) = id.service_account() {
            let same = SpiffeId::workload(&domain, namespace, account);
            assert_eq!(same.as_ref().ok(), Some(&id));
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "orders-1",
        "shop.v1.Orders",
        "default",
        "spiffe://mesh.example/ns/shop/sa/orders",
        "spiffe://sidelane/ns/default/sa/orders-1",
        "spiffe://a",
        "spiffe://a/b//c",
        "spiffe://a/../c",
        "mesh.example",
        "orders:50051",
        "[::1]:443",
        "10.0.0.7:15006",
        "00ff10",
        "0123456789abcdef0123456789abcdef",
        "Internal/gossip/secure=false/balancing=RANDOM/persistent=false/timeout=5000ms",
        "External/general/secure=true/balancing=own:nearest/persistent=true/unary=true",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
