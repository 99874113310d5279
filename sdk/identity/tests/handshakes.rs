//! Whole handshakes: who gets through, who does not and what each side says of it, and that a
//! change of the present identity holds from the next handshake on.

#![allow(clippy::unwrap_used)] // What fails in a function here fails its test.

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::version::TLS12;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use sidelane_identity::tls::{self, Clients};
use sidelane_identity::verify::Expected;
use sidelane_identity::{
    Bundle, CertificateDer, Identity, Refusal, Revoked, Source, SpiffeId, Svid, TrustDomain,
};
use support::{Authority, BILLING, DOMAIN, ORDERS, handshake, pem, talks, uri, workload};
use tokio::sync::watch;

fn one(id: &str) -> Expected {
    Expected::One(SpiffeId::new(id).unwrap())
}

fn server(source: &Source) -> Arc<ServerConfig> {
    tls::server(source.clone(), Clients::Certified).unwrap()
}

fn client(source: &Source) -> Arc<ClientConfig> {
    tls::client(source.clone(), one(ORDERS)).unwrap()
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> rustls::sign::CertifiedKey {
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key.into()).unwrap();
    rustls::sign::CertifiedKey::new(chain, key)
}

/// Shows what it is told to, whatever that is.
#[derive(Debug)]
struct Shows(Option<Arc<rustls::sign::CertifiedKey>>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl rustls::server::ResolvesServerCert for Shows {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.clone()
    }
}

/// The right client, but for one change.
fn client_but(source: &Source, change: impl FnOnce(&mut ClientConfig)) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&client(source));
    change(&mut config);
    Arc::new(config)
}

/// The right server, but for one change.
fn server_but(source: &Source, change: impl FnOnce(&mut ServerConfig)) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(&server(source));
    change(&mut config);
    Arc::new(config)
}

fn shows(root: &Authority, change: fn(&mut CertificateParams)) -> Arc<Shows> {
    let key = KeyPair::generate().unwrap();
    let mut params = workload(ORDERS);
    change(&mut params);
    Arc::new(Shows(Some(Arc::new(certified(
        root.sign(&params, &key),
        &key,
    )))))
}

#[test]
fn two_of_a_mesh_meet_and_know_each_other() {
    let root = Authority::root("root");
    let ((_orders, orders), (_billing, billing)) = (root.source(ORDERS), root.source(BILLING));
    let (client, server) = handshake(client(&billing), server(&orders));
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert!(talks(&mut client, &mut server).unwrap());
    assert_eq!(tls::peer(&client).unwrap().unwrap().id.as_str(), ORDERS);
    assert_eq!(tls::peer(&server).unwrap().unwrap().id.as_str(), BILLING);
    assert_eq!(
        server.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    assert_eq!(
        server.server_name(),
        None,
        "names of machines say nothing here"
    );
}

#[test]
fn sessions_are_never_resumed() {
    let root = Authority::root("root");
    let ((_orders, orders), (_billing, billing)) = (root.source(ORDERS), root.source(BILLING));
    // A client that would resume, if it were given anything to resume with.
    let keeps = client_but(&billing, |config| {
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        config.enable_early_data = true;
    });
    let server = server(&orders);
    for _ in 0..3 {
        let (client, server) = handshake(Arc::clone(&keeps), Arc::clone(&server));
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        assert!(talks(&mut client, &mut server).unwrap());
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        assert!(client.early_data().is_none());
    }
}

#[test]
fn clients_are_refused_by_their_reason() {
    let root = Authority::root("root");
    let other = Authority::root("other");
    let (_orders, orders) = root.source(ORDERS);
    let (_billing, billing) = root.source(BILLING);
    let shown =
        |resolver: Arc<Shows>| client_but(&billing, |it| it.client_auth_cert_resolver = resolver);
    let not_its_key = {
        let (key, another) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let chain = root.sign(&workload(ORDERS), &key);
        Arc::new(Shows(Some(Arc::new(certified(chain, &another)))))
    };
    let old = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let cases: [(&str, &str, Arc<ClientConfig>); 12] = [
        (
            "no certificate",
            "no_certificate",
            shown(Arc::new(Shows(None))),
        ),
        ("another root", "unknown_root", shown(shows(&other, |_| {}))),
        ("another's key", "signature", shown(not_its_key)),
        (
            "expired",
            "expired",
            shown(shows(&root, |leaf| {
                leaf.not_after = (SystemTime::now() - Duration::from_secs(2)).into();
            })),
        ),
        (
            "not yet valid",
            "not_yet_valid",
            shown(shows(&root, |leaf| {
                leaf.not_before = (SystemTime::now() + Duration::from_secs(600)).into();
            })),
        ),
        (
            "two URIs",
            "two_uri_sans",
            shown(shows(&root, |leaf| {
                leaf.subject_alt_names.push(uri(BILLING));
            })),
        ),
        (
            "no URI",
            "no_uri_san",
            shown(shows(&root, |leaf| leaf.subject_alt_names.clear())),
        ),
        (
            "another domain",
            "wrong_trust_domain",
            shown(shows(&root, |leaf| {
                leaf.subject_alt_names = vec![uri("spiffe://other.example/ns/shop/sa/orders")];
            })),
        ),
        (
            "for clients only",
            "extended_key_usage",
            shown(shows(&root, |leaf| {
                leaf.extended_key_usages.remove(0);
            })),
        ),
        ("TLS 1.2", "tls_version", Arc::new(old)),
        (
            "HTTP/1.1",
            "alpn",
            client_but(&billing, |it| {
                it.alpn_protocols = vec![b"http/1.1".to_vec()];
            }),
        ),
        (
            "gRPC over HTTP/3",
            "alpn",
            client_but(&billing, |it| {
                it.alpn_protocols = vec![b"h3".to_vec()];
            }),
        ),
    ];
    for (what, label, config) in cases {
        let (_, server) = handshake(config, server(&orders));
        refused(what, label, server);
    }
    // TLS itself lets a client through that names no protocol at all; what follows does not.
    let silent = client_but(&billing, |it| it.alpn_protocols.clear());
    let (_, server) = handshake(silent, server(&orders));
    refused("no protocol", "alpn", tls::peer(&server.unwrap()));
}

#[test]
fn servers_are_refused_by_their_reason() {
    let root = Authority::root("root");
    let other = Authority::root("other");
    let (_orders, orders) = root.source(ORDERS);
    let (_billing, billing) = root.source(BILLING);
    let shown = |resolver: Arc<Shows>| server_but(&orders, |it| it.cert_resolver = resolver);
    let (chain, key) = {
        let key = KeyPair::generate().unwrap();
        (root.sign(&workload(ORDERS), &key), key)
    };
    let old = ServerConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shows(Some(Arc::new(certified(chain, &key))))));
    let cases: [(&str, &str, Arc<ServerConfig>); 7] = [
        ("another root", "unknown_root", shown(shows(&other, |_| {}))),
        (
            "somebody else",
            "not_the_expected_identity",
            shown(shows(&root, |leaf| {
                leaf.subject_alt_names = vec![uri(BILLING)];
            })),
        ),
        (
            "expired",
            "expired",
            shown(shows(&root, |leaf| {
                leaf.not_after = (SystemTime::now() - Duration::from_secs(2)).into();
            })),
        ),
        (
            "an authority",
            "ca_leaf",
            shown(shows(&root, |leaf| {
                leaf.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            })),
        ),
        (
            "a name of a machine",
            "no_uri_san",
            shown(shows(&root, |leaf| {
                let name = rcgen::SanType::DnsName("orders.example".try_into().unwrap());
                leaf.subject_alt_names = vec![name];
            })),
        ),
        ("TLS 1.2", "tls_version", Arc::new(old)),
        (
            "HTTP/1.1",
            "alpn",
            server_but(&orders, |it| {
                it.alpn_protocols = vec![b"http/1.1".to_vec()];
            }),
        ),
    ];
    for (what, label, config) in cases {
        let (client, _) = handshake(client(&billing), config);
        refused(what, label, client);
    }
    let silent = server_but(&orders, |it| it.alpn_protocols.clear());
    let (client, _) = handshake(client(&billing), silent);
    refused("no protocol", "alpn", tls::peer(&client.unwrap()));
}

#[test]
fn who_has_no_identity_meets_nobody() {
    let root = Authority::root("root");
    let (_orders, orders) = root.source(ORDERS);
    let (_none, none) = watch::channel(None);
    let (client_says, _) = handshake(client(&none), server(&orders));
    refused("a client without", "no_identity", client_says);
    let (_, server_says) = handshake(client(&orders), server(&none));
    refused("a server without", "handshake", server_says);
}

#[test]
fn a_first_certificate_is_asked_for_without_one() {
    let root = Authority::root("root");
    let (_orders, orders) = root.source(ORDERS);
    let (_billing, billing) = root.source(BILLING);
    let anybody = || tls::server(orders.clone(), Clients::Anybody).unwrap();
    let none = client_but(&billing, |it| {
        it.client_auth_cert_resolver = Arc::new(Shows(None));
    });
    let (client_says, server_says) = handshake(none, anybody());
    client_says.unwrap();
    assert_eq!(tls::peer(&server_says.unwrap()), Ok(None));
    let (_, server_says) = handshake(client(&billing), anybody());
    let shown = tls::peer(&server_says.unwrap()).unwrap();
    assert_eq!(shown.unwrap().id.as_str(), BILLING);
    // What is shown must be sound all the same.
    let wrong = shows(&Authority::root("other"), |_| {});
    let wrong = client_but(&billing, |it| it.client_auth_cert_resolver = wrong);
    let (_, server_says) = handshake(wrong, anybody());
    refused("another root", "unknown_root", server_says);
}

#[test]
fn who_ended_lately_is_let_in_where_certificates_are_renewed() {
    let root = Authority::root("root");
    let (_orders, orders) = root.source(ORDERS);
    let (_billing, billing) = root.source(BILLING);
    let ended = shows(&root, |leaf| {
        leaf.not_before = (SystemTime::now() - Duration::from_secs(120)).into();
        leaf.not_after = (SystemTime::now() - Duration::from_secs(60)).into();
    });
    let client = client_but(&billing, |it| it.client_auth_cert_resolver = ended);
    let to = |clients| {
        let server = tls::server(orders.clone(), clients).unwrap();
        handshake(Arc::clone(&client), server).1
    };
    let shown = tls::peer(&to(Clients::Late(Duration::from_secs(90))).unwrap()).unwrap();
    assert!(shown.unwrap().not_after < SystemTime::now());
    for clients in [
        Clients::Late(Duration::from_secs(30)),
        Clients::Anybody,
        Clients::Certified,
    ] {
        refused("ended", "expired", to(clients));
    }
}

#[test]
fn a_change_of_identity_holds_from_the_next_handshake_on() {
    let old = Authority::root("old");
    let new = Authority::root("new");
    let (orders_now, orders) = old.source(ORDERS);
    let (billing_now, billing) = old.source(BILLING);
    let (client, server) = (client(&billing), server(&orders));
    let meet = || {
        let (client, server) = handshake(Arc::clone(&client), Arc::clone(&server));
        server.and_then(|server| client.map(|_| tls::peer(&server).unwrap().unwrap()))
    };
    let before = meet().unwrap();

    // Another certificate of the same identity.
    billing_now.send_replace(Some(Arc::new(old.identity(BILLING))));
    let rotated = meet().unwrap();
    assert_eq!(rotated.id, before.id);
    assert_ne!(rotated.fingerprint, before.fingerprint);

    // Revoked, and taken back.
    let mut revoked = Revoked::default();
    revoked.identity(before.id.clone()).unwrap();
    let judge = Identity::new(old.svid(ORDERS), old.bundle(), revoked).unwrap();
    orders_now.send_replace(Some(Arc::new(judge)));
    assert_eq!(meet().unwrap_err().label(), "revoked");
    orders_now.send_replace(Some(Arc::new(old.identity(ORDERS))));
    meet().unwrap();

    // From one root to the next, by way of both.
    let domain = old.bundle().trust_domain().clone();
    let both = || {
        let roots = vec![old.der.clone(), new.der.clone()];
        Bundle::new(domain.clone(), roots).unwrap()
    };
    let identity = |signed_by: &Authority, id, bundle| {
        Some(Arc::new(
            Identity::new(signed_by.svid(id), bundle, Revoked::default()).unwrap(),
        ))
    };
    billing_now.send_replace(identity(&old, BILLING, both()));
    meet().unwrap();
    orders_now.send_replace(identity(&old, ORDERS, both()));
    meet().unwrap();
    billing_now.send_replace(identity(&new, BILLING, both()));
    meet().unwrap();
    orders_now.send_replace(identity(&new, ORDERS, new.bundle()));
    meet().unwrap();
    billing_now.send_replace(identity(&new, BILLING, new.bundle()));
    meet().unwrap();
    billing_now.send_replace(identity(&old, BILLING, old.bundle()));
    assert!(
        meet().is_err(),
        "the old root was believed after it had left"
    );
}

#[test]
fn nobody_panics_at_what_is_no_tls() {
    let root = Authority::root("root");
    let (_orders, orders) = root.source(ORDERS);
    for text in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 64],
    ] {
        let mut server = rustls::ServerConnection::new(server(&orders)).unwrap();
        server.read_tls(&mut &text[..]).unwrap();
        let error = server.process_new_packets().unwrap_err();
        assert_eq!(Refusal::of_tls(&error).label(), "not_tls");
    }
}

#[track_caller]
fn refused<Taken>(what: &str, label: &str, verdict: Result<Taken, Refusal>) {
    match verdict {
        Ok(_) => panic!("{what}: it was taken"),
        Err(refusal) => assert_eq!(refusal.label(), label, "{what}: {refusal}"),
    }
}

#[test]
fn who_names_no_root_is_shown_the_oldest_that_peers_believe() {
    let [latest, older, gone] = ["latest", "older", "gone"].map(Authority::root);
    let rooted = |root: &Authority| {
        let (chain, key) = root.pem(&workload(BILLING));
        let chain = chain + &pem(std::slice::from_ref(&root.der));
        Svid::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    };
    let domain = TrustDomain::new(DOMAIN).unwrap();
    let all = [&latest, &older, &gone].map(|root| root.der.clone());
    let bundle =
        |roots: &[CertificateDer<'static>]| Bundle::new(domain.clone(), roots.to_vec()).unwrap();
    let shows = Identity::new(rooted(&latest), bundle(&all), Revoked::default())
        .unwrap()
        .with_elders(vec![rooted(&older)], vec![rooted(&gone)]);
    let (_shows, source) = watch::channel(Some(Arc::new(shows)));
    let server = tls::server(source, Clients::Anybody).unwrap();
    let shown = |client: Arc<ClientConfig>| {
        let (client, _) = handshake(client, Arc::clone(&server));
        client.map(|client| client.peer_certificates().unwrap()[1].clone())
    };
    let believing = |roots: &[CertificateDer<'static>]| {
        let own = gone.svid(ORDERS);
        let own = Identity::new(own, bundle(roots), Revoked::default()).unwrap();
        watch::channel(Some(Arc::new(own)))
    };
    let (_held, peers) = believing(&all[..2]);
    let named = tls::client(peers.clone(), Expected::Any).unwrap();
    assert_eq!(shown(named).unwrap(), latest.der);
    // Names none, as anybody who is no client of ours does.
    let unnamed = tls::peer_client(peers, Expected::Any).unwrap();
    assert_eq!(shown(unnamed).unwrap(), older.der);
    let (_held, away) = believing(&all[2..]);
    let named = tls::client(away.clone(), Expected::Any).unwrap();
    assert_eq!(shown(named).unwrap(), gone.der);
    let unnamed = tls::peer_client(away, Expected::Any).unwrap();
    assert_eq!(shown(unnamed).unwrap_err().label(), "unknown_root");
}
