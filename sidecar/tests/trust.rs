//! What a link proves, on real sockets: both ends know each other, a revocation ends what was
//! believed at once, and each trust mode takes what it says.
#![allow(clippy::unwrap_used)] // What fails in a function here fails its test.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use sidelane_identity::{Bundle, Identity, Refusal, Revoked, Source, Svid, TrustDomain};
use sidelane_proto::model;
use sidelane_sidecar::trust::{Opened, Trust};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

const ORDERS: &str = "spiffe://mesh.example/ns/shop/sa/orders";
const BILLING: &str = "spiffe://mesh.example/ns/shop/sa/billing";
const SOON: Duration = Duration::from_secs(5);

type Present = watch::Sender<Option<Arc<Identity>>>;

struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self { params, key }
    }

    fn identity(&self, id: &str, life: Duration, revoked: Revoked) -> Arc<Identity> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.to_owned().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_after = (SystemTime::now() + life).into();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let chain = params.signed_by(&key, &issuer).unwrap().pem();
        let svid = Svid::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let root = self.params.self_signed(&self.key).unwrap();
        let domain = TrustDomain::new("mesh.example").unwrap();
        let bundle = Bundle::new(domain, vec![root.der().clone()]).unwrap();
        Arc::new(Identity::new(svid, bundle, revoked).unwrap())
    }

    fn source(&self, id: &str) -> (Present, Source) {
        watch::channel(Some(self.identity(id, SOON * 100, Revoked::default())))
    }
}

/// A link: what the dialler says of it, and what the other end does.
async fn link(
    dialler: &Trust,
    meant: Option<&str>,
    acceptor: &Trust,
) -> (Result<Opened, Refusal>, Result<Opened, Refusal>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap());
    let (stream, accepted) = tokio::join!(stream, listener.accept());
    let meant = meant.map(|id| model::Identity::new(id).unwrap());
    let dialled = async {
        let opened = dialler.connect(stream.unwrap(), meant.as_ref()).await;
        if let Ok((stream, None)) = &opened {
            // A preamble.
            stream.socket().writable().await.unwrap();
            stream.socket().try_write(b"SLN1\0\0\0\0").unwrap();
        }
        opened
    };
    tokio::join!(dialled, acceptor.accept(accepted.unwrap().0))
}

#[tokio::test]
async fn a_revocation_ends_what_was_believed() {
    let authority = Authority::new();
    let (_billing, billing) = authority.source(BILLING);
    let (present, orders) = authority.source(ORDERS);
    let dialler = Trust::certified(billing, true).unwrap();
    let acceptor = Trust::certified(orders, true).unwrap();
    let (dialled, accepted) = link(&dialler, Some(ORDERS), &acceptor).await;
    assert_eq!(dialled.unwrap().1.unwrap().id.as_str(), ORDERS);
    let leaf = accepted.unwrap().1.unwrap();
    assert_eq!(leaf.id.as_str(), BILLING);

    // Another certificate of its own changes nothing for a link that stands.
    let distrusted = acceptor.distrusted(&leaf);
    tokio::pin!(distrusted);
    let nothing = Revoked::default();
    present.send_replace(Some(authority.identity(ORDERS, SOON * 100, nothing)));
    let early = timeout(Duration::from_millis(200), &mut distrusted).await;
    assert!(early.is_err(), "{early:?}");

    let mut revoked = Revoked::default();
    revoked.serial(leaf.serial.clone()).unwrap();
    present.send_replace(Some(authority.identity(ORDERS, SOON * 100, revoked)));
    let refusal = timeout(SOON, &mut distrusted).await.unwrap();
    assert_eq!(refusal.label(), "revoked");
}

#[tokio::test]
async fn what_was_believed_ends_with_its_certificate_and_is_replaced_before() {
    let authority = Authority::new();
    let (present, billing) = authority.source(BILLING);
    let (_orders, orders) = authority.source(ORDERS);
    let life = Duration::from_secs(3);
    present.send_replace(Some(authority.identity(BILLING, life, Revoked::default())));
    let dialler = Trust::certified(billing, true).unwrap();
    let acceptor = Trust::certified(orders, true).unwrap();
    let begun = Instant::now();
    let (dialled, accepted) = link(&dialler, Some(ORDERS), &acceptor).await;
    let (theirs, ours) = (dialled.unwrap().1.unwrap(), accepted.unwrap().1.unwrap());
    // The dialler's own certificate ends first, and its link is replaced before that.
    let until = dialler.until(Some(&theirs), begun).unwrap();
    assert!(until < begun + life, "{:?}", until - begun);
    assert_eq!(dialler.until(None, begun), None);
    let refusal = timeout(life + SOON, acceptor.distrusted(&ours))
        .await
        .unwrap();
    assert_eq!(refusal.label(), "expired");
    assert!(
        begun.elapsed() < life + Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn each_mode_takes_what_it_says() {
    let authority = Authority::new();
    let (_billing, billing) = authority.source(BILLING);
    let (_orders, orders) = authority.source(ORDERS);
    let of = |source: &Source, strict| Trust::certified(source.clone(), strict).unwrap();
    let proved = |opened: &Result<Opened, Refusal>| match opened {
        Ok((_, Some(leaf))) => leaf.id.to_string(),
        Ok((_, None)) => "in the clear".to_owned(),
        Err(refusal) => refusal.label().to_owned(),
    };
    for (dialler, meant, acceptor, ends) in [
        (
            of(&billing, true),
            Some(ORDERS),
            of(&orders, false),
            [ORDERS, BILLING],
        ),
        (
            of(&billing, false),
            Some(ORDERS),
            of(&orders, true),
            [ORDERS, BILLING],
        ),
        (
            of(&billing, false),
            None,
            of(&orders, false),
            ["in the clear"; 2],
        ),
        (
            of(&billing, false),
            None,
            Trust::Disabled,
            ["in the clear"; 2],
        ),
        (
            Trust::Disabled,
            Some(ORDERS),
            of(&orders, false),
            ["in the clear"; 2],
        ),
        (
            Trust::Disabled,
            Some(ORDERS),
            of(&orders, true),
            ["in the clear", "not_tls"],
        ),
        (
            of(&billing, true),
            None,
            of(&orders, true),
            ["no_identity", "ended"],
        ),
        (
            of(&billing, true),
            Some(BILLING),
            of(&orders, true),
            ["not_the_expected_identity", "by_peer"],
        ),
    ] {
        // Who refuses goes away, so that the other end hears of it.
        let listener = link(&dialler, meant, &acceptor);
        let (dialled, accepted) = timeout(SOON, listener).await.unwrap();
        assert_eq!([proved(&dialled), proved(&accepted)], ends);
    }
    let named = model::Identity::new(ORDERS).unwrap();
    assert!(of(&billing, true).secures(None));
    assert!(of(&billing, false).secures(Some(&named)));
    assert!(!of(&billing, false).secures(None));
    assert!(!Trust::Disabled.secures(Some(&named)));
}
