use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PKCS_RSA_SHA256, SanType,
};
use sidelane_proto::model::{Identity, NodeId};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::*;
use crate::store::{Embedded, WriteBehind};

const DOMAIN: &str = "mesh.example";
const NOW: UnixSeconds = 1_800_000_000;
const LIFE: Duration = Duration::from_secs(3_600);

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn identity(account: &str) -> Identity {
    Identity::new(&format!("spiffe://{DOMAIN}/ns/shop/sa/{account}")).unwrap()
}

fn root(byte: u8, life: Duration) -> Root {
    Root::make(DOMAIN, NOW, life, [byte; 16]).unwrap()
}

fn terms<'a>(identity: &'a Identity, node: &'a NodeId) -> LeafTerms<'a> {
    LeafTerms {
        identity,
        node,
        serial: Serial::from_random([7; 16]),
        now: NOW,
        life: LIFE,
    }
}

/// A request whose maker would like to be much more than a leaf.
fn greedy(key: &KeyPair) -> Vec<u8> {
    let mut parameters = CertificateParams::new(vec!["control.example".to_owned()]).unwrap();
    let other = format!("spiffe://{DOMAIN}/ns/shop/sa/billing");
    let other = SanType::URI(Ia5String::try_from(other).unwrap());
    parameters.subject_alt_names.push(other);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let request = parameters.serialize_request(key).unwrap();
    request.der().to_vec()
}

fn plain(key: &KeyPair) -> Vec<u8> {
    let request = CertificateParams::default().serialize_request(key).unwrap();
    request.der().to_vec()
}

fn parsed(der: &[u8]) -> X509Certificate<'_> {
    x509_parser::parse_x509_certificate(der).unwrap().1
}

#[test]
fn a_leaf_is_what_the_right_says_and_nothing_of_what_was_asked_for() {
    let root = root(1, ROOT_LIFE);
    let (orders, node) = (identity("orders"), node("orders-1"));
    let key = KeyPair::generate().unwrap();
    let public = PublicKey::of_request(&greedy(&key)).unwrap();
    let leaf = root.sign(&public, &terms(&orders, &node)).unwrap();
    let certificate = parsed(&leaf.certificate);
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let names = &names.value.general_names;
    assert!(matches!(names.as_slice(), [GeneralName::URI(uri)] if *uri == orders.as_str()));
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(!certificate.is_ca());
    let name = certificate.subject().iter_common_name().next().unwrap();
    assert_eq!(name.as_str().unwrap(), "orders-1");
    assert_eq!(certificate.raw_serial(), leaf.serial.0);
    let validity = certificate.validity();
    let end = i64::try_from(NOW + 3_600).unwrap();
    assert_eq!(validity.not_after.timestamp(), end);
    assert_eq!(validity.not_before.timestamp(), end - 3_660);
}

#[test]
fn a_leaf_is_trusted_by_its_root_and_by_no_other() {
    let (one, other) = (root(1, ROOT_LIFE), root(2, ROOT_LIFE));
    let key = KeyPair::generate().unwrap();
    let public = PublicKey::of_request(&plain(&key)).unwrap();
    let (orders, node) = (identity("orders"), node("orders-1"));
    let leaf = one.sign(&public, &terms(&orders, &node)).unwrap();
    let trusted = |root: &Root| {
        let der = rustls_pki_types::CertificateDer::from(root.certificate());
        let anchor = webpki::anchor_from_trusted_cert(&der).unwrap();
        let leaf = rustls_pki_types::CertificateDer::from(leaf.certificate.as_slice());
        let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
        let now = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(NOW + 1));
        let algorithms = [webpki::aws_lc_rs::ECDSA_P256_SHA256];
        let usage = webpki::KeyUsage::server_auth();
        let anchors = [anchor];
        let verified = leaf.verify_for_usage(&algorithms, &anchors, &[], now, usage, None, None);
        verified.is_ok()
    };
    assert!(trusted(&one));
    assert!(!trusted(&other));
    let root = parsed(one.certificate());
    let constraints = root.basic_constraints().unwrap().unwrap().value;
    assert!(root.is_ca() && constraints.ca && constraints.path_len_constraint == Some(0));
}

#[test]
fn no_leaf_outlives_its_root() {
    let root = root(1, Duration::from_secs(100));
    let key = KeyPair::generate().unwrap();
    let public = PublicKey::of_request(&plain(&key)).unwrap();
    let (orders, node) = (identity("orders"), node("orders-1"));
    let leaf = root.sign(&public, &terms(&orders, &node)).unwrap();
    assert_eq!(leaf.not_after, NOW + 100);
    let late = LeafTerms {
        now: NOW + 100,
        ..terms(&orders, &node)
    };
    let error = root.sign(&public, &late).unwrap_err();
    assert!(matches!(error, SignError::RootEnded { ago: 0 }), "{error}");
}

#[test]
fn keys_of_three_kinds_are_signed_and_others_are_not() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        PublicKey::of_request(&plain(&key)).unwrap();
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let error = PublicKey::of_request(&plain(&key)).unwrap_err();
    assert!(matches!(error, RequestError::Kind(_)), "{error}");
}

#[test]
fn nobody_gets_a_certificate_for_a_key_that_is_not_theirs() {
    let key = KeyPair::generate().unwrap();
    let request = plain(&key);
    // The signature is at the end, the key in the middle.
    let mut forged = request.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(
        PublicKey::of_request(&forged).unwrap_err(),
        RequestError::NoPossession
    );
    let raw = key.public_key_raw();
    let at = request
        .windows(raw.len())
        .position(|part| part == raw)
        .unwrap();
    let mut stolen = request.clone();
    let other = KeyPair::generate().unwrap();
    stolen[at..at + raw.len()].copy_from_slice(other.public_key_raw());
    assert_eq!(
        PublicKey::of_request(&stolen).unwrap_err(),
        RequestError::NoPossession
    );
}

#[test]
fn what_is_no_request_is_refused_without_a_panic() {
    let key = KeyPair::generate().unwrap();
    let request = plain(&key);
    for length in 0..request.len() {
        PublicKey::of_request(&request[..length]).unwrap_err();
    }
    let mut longer = request.clone();
    longer.push(0);
    PublicKey::of_request(&longer).unwrap_err();
    let huge = vec![0; REQUEST_LIMIT + 1];
    assert_eq!(
        PublicKey::of_request(&huge).unwrap_err(),
        RequestError::TooLong(huge.len())
    );
}

const GRACE: Duration = Duration::from_secs(86_400);

#[test]
fn a_new_root_signs_when_all_know_it_and_the_old_one_stays_for_its_leaves() {
    let mut roots = Roots::new(root(1, ROOT_LIFE));
    let first = roots.signing().fingerprint();
    assert!(roots.gives(LIFE));
    assert!(!roots.gives(LIFE), "no news");
    roots.rotate(root(2, ROOT_LIFE), NOW).unwrap();
    assert_eq!(
        roots.rotate(root(3, ROOT_LIFE), NOW),
        Err(RotateError::UnderWay)
    );
    assert_eq!(roots.all().count(), 2);
    assert_eq!(
        roots.known().count(),
        1,
        "nobody knows control by the new one"
    );
    assert!(!roots.advance(NOW + 1, false, GRACE));
    assert_eq!(
        roots.signing().fingerprint(),
        first,
        "some do not know the new one"
    );
    assert!(roots.advance(NOW + 2, true, GRACE));
    assert_ne!(roots.signing().fingerprint(), first);
    let known = || roots.known().map(|it| it.fingerprint()).collect::<Vec<_>>();
    assert_eq!(known(), [roots.signing().fingerprint(), first]);
    let end = NOW + 2 + (LIFE + SKEW).as_secs();
    assert!(!roots.advance(end - 1, true, GRACE));
    let phase = |roots: &Roots| roots.all().last().unwrap().phase;
    assert!(
        matches!(phase(&roots), Phase::Leaving { .. }),
        "its leaves live"
    );
    assert!(roots.advance(end, true, GRACE));
    // What has ended can be renewed, and who was away knows control by it.
    let until = end + GRACE.as_secs();
    assert_eq!(phase(&roots), Phase::Late { until });
    assert_eq!(roots.known().count(), 2);
    assert!(!roots.advance(until - 1, true, GRACE));
    assert!(roots.advance(until, true, GRACE));
    assert_eq!(roots.all().count(), 1);
}

#[test]
fn without_a_grace_a_root_goes_with_its_last_leaf() {
    let mut roots = Roots::new(root(1, ROOT_LIFE));
    roots.gives(LIFE);
    roots.rotate(root(2, ROOT_LIFE), NOW).unwrap();
    assert!(roots.advance(NOW, true, Duration::ZERO));
    assert!(roots.advance(NOW + (LIFE + SKEW).as_secs(), true, Duration::ZERO));
    assert_eq!(roots.all().count(), 1);
}

#[test]
fn a_root_of_short_lives_leaves_soon() {
    let mut roots = Roots::new(root(1, ROOT_LIFE));
    let life = Duration::from_secs(4);
    assert!(life < SKEW);
    roots.gives(life);
    roots.rotate(root(2, ROOT_LIFE), NOW).unwrap();
    assert!(roots.advance(NOW, true, Duration::ZERO));
    assert!(!roots.advance(NOW + 7, true, Duration::ZERO));
    assert!(roots.advance(NOW + 8, true, Duration::ZERO));
    assert_eq!(roots.all().count(), 1);
}

#[test]
fn a_sidecar_that_hangs_holds_a_rotation_up_for_an_hour() {
    let mut roots = Roots::new(root(1, ROOT_LIFE));
    let first = roots.signing().fingerprint();
    roots.rotate(root(2, ROOT_LIFE), NOW).unwrap();
    let limit = OVERLAP_LIMIT.as_secs();
    assert!(!roots.advance(NOW + limit - 1, false, GRACE));
    assert!(roots.advance(NOW + limit, false, GRACE));
    assert_ne!(roots.signing().fingerprint(), first);
}

#[test]
fn roots_that_are_trusted_are_bounded() {
    let mut roots = Roots::new(root(1, ROOT_LIFE));
    roots.gives(LIFE);
    for byte in 2..=u8::try_from(ROOTS_LIMIT).unwrap() {
        roots.rotate(root(byte, ROOT_LIFE), NOW).unwrap();
        roots.advance(NOW, true, GRACE);
    }
    assert_eq!(roots.all().count(), ROOTS_LIMIT);
    let error = roots.rotate(root(9, ROOT_LIFE), NOW).unwrap_err();
    assert_eq!(error, RotateError::TooMany(ROOTS_LIMIT - 1));
}

fn grant(expires: UnixSeconds) -> Grant {
    Grant {
        node: node("orders-1"),
        identity: identity("orders"),
        expires,
    }
}

#[test]
fn each_misuse_of_a_token_has_its_own_reason() {
    let mut tokens = Tokens::default();
    let (orders, other) = (node("orders-1"), node("orders-2"));
    let hash = Tokens::hash(b"secret");
    let asked = |tokens: &Tokens, node: &NodeId, key: &[u8], now| {
        let checked = tokens.check(&hash, node, None, key, now);
        checked.map(|issued| issued.grant.identity.clone())
    };
    let label = |checked: Result<Identity, Denied>| checked.unwrap_err().label();
    assert_eq!(label(asked(&tokens, &orders, b"key", NOW)), "TOKEN_UNKNOWN");
    assert!(tokens.issue(hash, grant(NOW + 60), NOW));
    let stranger = asked(&tokens, &other, b"key", NOW);
    assert_eq!(label(stranger), "TOKEN_OF_ANOTHER_NODE");
    let billing = identity("billing");
    let refused = tokens.check(&hash, &orders, Some(&billing), b"key", NOW);
    assert_eq!(refused.unwrap_err().label(), "TOKEN_OF_ANOTHER_IDENTITY");
    let late = asked(&tokens, &orders, b"key", NOW + 60);
    assert_eq!(label(late), "TOKEN_EXPIRED");
    assert_eq!(
        asked(&tokens, &orders, b"key", NOW).unwrap(),
        identity("orders")
    );
    asked(&tokens, &orders, b"another", NOW).expect("to look is not to use");
    let used = NOW + 59;
    tokens.mark_used(&hash, b"key", used);
    let last = used + REPEAT_LIMIT.as_secs() - 1;
    asked(&tokens, &orders, b"key", last).expect("its answer was lost");
    tokens.mark_used(&hash, b"key", last);
    assert_eq!(
        label(asked(&tokens, &orders, b"key", last + 1)),
        "TOKEN_USED"
    );
    assert_eq!(
        label(asked(&tokens, &orders, b"another", used)),
        "TOKEN_USED"
    );
    assert!(tokens.forget(NOW + 60 + 86_399).is_empty());
    assert_eq!(tokens.forget(NOW + 60 + 86_400), [hash]);
}

fn revocation(subject: Subject, since: UnixSeconds, until: UnixSeconds) -> Revocation {
    Revocation {
        subject,
        since,
        until,
        lifted: false,
    }
}

#[test]
fn tokens_and_revocations_are_bounded() {
    let mut tokens = Tokens::default();
    let mut revoked = Revoked::default();
    let hash = |n: usize| Tokens::hash(&n.to_be_bytes());
    assert!((0..TOKENS_LIMIT).all(|n| tokens.issue(hash(n), grant(NOW), NOW)));
    assert!(!tokens.issue(hash(TOKENS_LIMIT), grant(NOW), NOW));
    let of = |n: usize, until| revocation(Subject::Node(node(&format!("n-{n}"))), NOW, until);
    assert!((0..REVOKED_LIMIT).all(|n| revoked.add(of(n, NOW))));
    assert!(!revoked.add(of(REVOKED_LIMIT, NOW)));
    assert!(revoked.add(of(0, NOW + 1)), "it is known");
    assert_eq!(revoked.forget(NOW).len(), REVOKED_LIMIT - 1);
    assert_eq!(revoked.len(), 1, "the prolonged one");
}

#[test]
fn a_certificate_is_found_by_each_of_its_names() {
    let serial = Serial::from_random([9; 16]);
    assert_eq!(Serial::parse(&serial.to_string()), Some(serial));
    assert_eq!(Serial::parse("49"), None);
    let (node, identity) = (node("orders-1"), identity("orders"));
    let subjects = [
        Subject::Serial(serial),
        Subject::Node(node.clone()),
        Subject::Identity(identity.clone()),
    ];
    let held = Some(Held {
        serial: Some(serial),
        made: NOW + 1,
    });
    for subject in subjects {
        let mut revoked = Revoked::default();
        assert_eq!(revoked.finds(held, Some(&node), &identity), None);
        revoked.add(revocation(subject.clone(), NOW, NOW));
        let found = revoked.finds(held, Some(&node), &identity);
        let lifted = false;
        assert_eq!(found, Some(Found { subject, lifted }));
    }
}

#[test]
fn what_was_made_before_a_revocation_is_of_no_use_after_it_was_taken_back() {
    let (node, identity) = (node("orders-1"), identity("orders"));
    let made = |made| Some(Held { serial: None, made });
    for subject in [
        Subject::Node(node.clone()),
        Subject::Identity(identity.clone()),
    ] {
        let mut revoked = Revoked::default();
        assert_eq!(revoked.newer(&node, &identity), 0);
        revoked.add(revocation(subject.clone(), NOW, NOW + 10));
        let found = |revoked: &Revoked, held| revoked.finds(held, Some(&node), &identity).is_some();
        assert!(found(&revoked, None), "nothing new meanwhile");
        assert!(revoked.lift(&subject).unwrap().is_some());
        assert_eq!(revoked.lift(&subject), None, "once");
        assert_eq!(revoked.iter().count(), 0, "nobody is told of it any more");
        let after = [made(NOW - 1), made(NOW), made(NOW + 1), None];
        assert_eq!(
            after.map(|held| found(&revoked, held)),
            [true, true, false, false]
        );
        assert_eq!(revoked.newer(&node, &identity), NOW + 1);
        // Revoked again, it holds for all that was made up to then.
        revoked.add(revocation(subject.clone(), NOW + 5, NOW + 15));
        assert!(found(&revoked, None));
        revoked.lift(&subject).unwrap();
        assert!(found(&revoked, made(NOW + 5)) && !found(&revoked, made(NOW + 6)));
        assert_eq!(revoked.forget(NOW + 15), [subject]);
    }
}

proptest::proptest! {
    #[test]
    fn a_leaf_says_when_it_was_signed(life in 2_u64..604_800) {
        let not_before = NOW - BACKDATED.as_secs().min(life);
        proptest::prop_assert_eq!(signed_at(not_before, NOW + life), NOW);
    }
}

struct Opened {
    authority: Authority,
    store: WriteBehind,
}

async fn open(folder: &Path, domain: &str) -> Result<Opened, OpenError> {
    let (store, loaded) = Embedded::open(folder).unwrap();
    let (store, _journal) = WriteBehind::start(Box::new(store), loaded.version).unwrap();
    let terms = Terms {
        trust_domain: domain.to_owned(),
        leaf_life: LIFE,
        renewal_grace: GRACE,
    };
    let authority = Authority::open(terms, loaded.authority, store.ahead(), NOW).await?;
    Ok(Opened { authority, store })
}

fn denied(error: &AuthorityError) -> &'static str {
    match error {
        AuthorityError::Denied(denied) => denied.label(),
        _ => "something else",
    }
}

#[tokio::test]
async fn what_was_promised_holds_after_a_restart_and_secrets_stay_away() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), DOMAIN).await.unwrap();
    let fingerprint = first.authority.fingerprint().await;
    let used = first.authority.issue(grant(NOW + 60), NOW).await.unwrap();
    let fresh = first.authority.issue(grant(NOW + 60), NOW).await.unwrap();
    let (orders, key) = (node("orders-1"), KeyPair::generate().unwrap());
    let right = || Right::Token(Tokens::hash(&*used));
    let request = plain(&key);
    let signed = first.authority.sign(right(), &orders, None, &request, NOW);
    let signed = signed.await.unwrap();
    assert_eq!(signed.identity, identity("orders"));
    assert_eq!(signed.trust.roots.len(), 1);
    let billing = Subject::Identity(identity("billing"));
    first.authority.revoke(billing.clone(), NOW).await.unwrap();
    first.authority.rotate(NOW).await.unwrap();
    drop(first.authority);
    assert!(first.store.stop());
    let bytes = std::fs::read(folder.path().join(Embedded::FILE)).unwrap();
    assert!(
        !bytes.windows(32).any(|part| part == &fresh[..]),
        "only a hash is kept"
    );

    let second = open(folder.path(), DOMAIN).await.unwrap();
    let authority = &second.authority;
    assert_eq!(authority.fingerprint().await, fingerprint);
    assert!(authority.is_rotating().await);
    assert_eq!(authority.trust().borrow().roots.len(), 2);
    let other = KeyPair::generate().unwrap();
    let again = authority
        .sign(right(), &orders, None, &plain(&other), NOW)
        .await;
    assert_eq!(denied(&again.unwrap_err()), "TOKEN_USED");
    let right = Right::Token(Tokens::hash(&*fresh));
    let joined = authority
        .sign(right, &orders, None, &plain(&other), NOW)
        .await;
    joined.expect("a token that was not used is good still");
    let proven = |account: &str| Right::Proven {
        identity: identity(account),
        held: None,
    };
    let refused = authority
        .sign(proven("billing"), &orders, None, &plain(&key), NOW)
        .await;
    assert_eq!(denied(&refused.unwrap_err()), "REVOKED");
    authority.restore(billing, NOW).await.unwrap();
    authority
        .sign(proven("billing"), &orders, None, &plain(&key), NOW)
        .await
        .unwrap();

    authority.advance(NOW, &heard(&[])).await.unwrap();
    assert_eq!(
        authority.fingerprint().await,
        fingerprint,
        "orders-1 holds a certificate, and was not heard"
    );
    authority.advance(NOW, &heard(&["orders-1"])).await.unwrap();
    assert_ne!(authority.fingerprint().await, fingerprint);
    let own = |now| {
        let (key, control) = (KeyPair::generate().unwrap(), control());
        let request = plain(&key);
        async move { authority.sign_own(&control, &request, now).await.unwrap() }
    };
    assert_eq!(own(NOW).await.len(), 2, "control is known by both");
    let later = NOW + 1 + (LIFE + SKEW).as_secs();
    authority.advance(later, &heard(&[])).await.unwrap();
    let trust = Arc::clone(&authority.trust().borrow());
    assert_eq!((trust.roots.len(), trust.late.len()), (1, 1));
    assert_eq!(own(later).await.len(), 2, "by who was away");
    let later = later + GRACE.as_secs();
    authority.advance(later, &heard(&[])).await.unwrap();
    let trust = Arc::clone(&authority.trust().borrow());
    assert_eq!((trust.roots.len(), trust.late.len()), (1, 0));
    drop(second.authority);
    assert!(second.store.stop());
    let third = open(folder.path(), DOMAIN).await.unwrap();
    assert_eq!(
        third.authority.trust().borrow().roots.len(),
        1,
        "the old one is gone"
    );
    drop(third.authority);
    assert!(third.store.stop());
    let error = open(folder.path(), "other.example").await.err().unwrap();
    assert!(matches!(error, OpenError::Domain { .. }), "{error}");
}

#[tokio::test]
async fn identities_of_other_meshes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path(), DOMAIN).await.unwrap();
    let foreign = Grant {
        identity: Identity::new("spiffe://mesh.example.org/ns/shop/sa/orders").unwrap(),
        ..grant(NOW + 60)
    };
    let error = opened.authority.issue(foreign, NOW).await.unwrap_err();
    assert!(matches!(error, AuthorityError::Foreign { .. }), "{error}");
    let revision = opened.authority.trust().borrow().revision;
    let subject = Subject::Node(node("orders-1"));
    opened.authority.revoke(subject, NOW).await.unwrap();
    let trust = Arc::clone(&opened.authority.trust().borrow());
    assert_eq!((trust.revision, trust.revoked.len()), (revision + 1, 1));
    let error = opened
        .authority
        .issue(grant(NOW + 60), NOW)
        .await
        .unwrap_err();
    assert_eq!(denied(&error), "REVOKED");
}

fn heard(nodes: &[&str]) -> Heard {
    Heard {
        all: true,
        nodes: nodes.iter().map(|name| node(name)).collect(),
    }
}

fn control() -> Identity {
    let domain = sidelane_identity::TrustDomain::new(DOMAIN).unwrap();
    Identity::new(sidelane_identity::pinned::control(&domain).as_str()).unwrap()
}

/// Signs by a token that is made for it.
async fn joined(authority: &Authority, key: &KeyPair, now: UnixSeconds) -> Signed {
    let token = authority.issue(grant(now + 60), now).await.unwrap();
    let right = Right::Token(Tokens::hash(&*token));
    let (orders, request) = (node("orders-1"), plain(key));
    let signed = authority.sign(right, &orders, None, &request, now);
    signed.await.unwrap()
}

/// The right of whoever shows this certificate.
fn shown(signed: &Signed) -> Right {
    let validity = parsed(&signed.certificate).validity().clone();
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap();
    let made = signed_at(seconds(validity.not_before), seconds(validity.not_after));
    let serial = Some(signed.serial);
    Right::Proven {
        identity: signed.identity.clone(),
        held: Some(Held { serial, made }),
    }
}

#[tokio::test]
async fn after_undo_only_a_new_token_leads_back() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), DOMAIN).await.unwrap();
    let (orders, key) = (node("orders-1"), KeyPair::generate().unwrap());
    let old = joined(&first.authority, &key, NOW).await;
    let unused = first
        .authority
        .issue(grant(NOW + 86_400), NOW)
        .await
        .unwrap();
    // It ends while it is revoked, and is long forgotten by its number.
    for subject in [
        Subject::Node(orders.clone()),
        Subject::Identity(identity("orders")),
    ] {
        let at = NOW + 10;
        first.authority.revoke(subject.clone(), at).await.unwrap();
        let later = NOW + 2 * LIFE.as_secs();
        first.authority.advance(later, &heard(&[])).await.unwrap();
        first.authority.restore(subject, later).await.unwrap();
    }
    drop(first.authority);
    assert!(first.store.stop());
    let opened = open(folder.path(), DOMAIN).await.unwrap();
    let authority = &opened.authority;
    let later = NOW + 2 * LIFE.as_secs();
    let request = plain(&key);
    let renewed = authority
        .sign(shown(&old), &orders, None, &request, later)
        .await;
    assert_eq!(denied(&renewed.unwrap_err()), "REVOKED_BEFORE");
    let right = Right::Token(Tokens::hash(&*unused));
    let stolen = authority.sign(right, &orders, None, &request, later).await;
    assert_eq!(denied(&stolen.unwrap_err()), "REVOKED_BEFORE");
    let new = joined(authority, &key, later).await;
    let renewed = authority
        .sign(shown(&new), &orders, None, &request, later)
        .await;
    renewed.expect("what is new is renewed");
    // In the very second of a revocation, too.
    let subject = Subject::Node(orders.clone());
    authority.revoke(subject.clone(), later).await.unwrap();
    authority.restore(subject, later).await.unwrap();
    let renewed = authority
        .sign(shown(&new), &orders, None, &request, later)
        .await;
    assert_eq!(denied(&renewed.unwrap_err()), "REVOKED");
    let new = joined(authority, &key, later).await;
    let renewed = authority
        .sign(shown(&new), &orders, None, &request, later)
        .await;
    renewed.expect("what is new is renewed");
}

#[tokio::test]
async fn peers_know_by_number_what_was_signed_before_an_identity_was_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path(), DOMAIN).await.unwrap();
    let authority = &opened.authority;
    let old = joined(authority, &KeyPair::generate().unwrap(), NOW).await;
    let subject = Subject::Identity(identity("orders"));
    authority.revoke(subject.clone(), NOW).await.unwrap();
    let told = || -> Vec<Subject> {
        let trust = Arc::clone(&authority.trust().borrow());
        trust.revoked.iter().map(|it| it.subject).collect()
    };
    assert_eq!((told().first(), told().len()), (Some(&subject), 1));
    authority.restore(subject.clone(), NOW).await.unwrap();
    let number = Subject::Serial(old.serial);
    assert_eq!((told().first(), told().len()), (Some(&number), 1));
    let error = authority.restore(number, NOW).await.unwrap_err();
    assert!(matches!(error, AuthorityError::ForGood { .. }), "{error}");
    let error = authority.restore(subject, NOW).await.unwrap_err();
    assert!(matches!(error, AuthorityError::NotRevoked(_)), "{error}");
    // Clocks of others may be behind, so it is told beyond its end.
    authority.advance(old.not_after, &heard(&[])).await.unwrap();
    assert_eq!(told().len(), 1);
    let over = old.not_after + SKEW.as_secs();
    authority.advance(over, &heard(&[])).await.unwrap();
    assert_eq!(told().len(), 0);
}

#[tokio::test]
async fn a_refusal_does_not_use_a_token_up() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path(), DOMAIN).await.unwrap();
    let authority = &opened.authority;
    let (orders, key) = (node("orders-1"), KeyPair::generate().unwrap());
    let token = authority.issue(grant(NOW + 86_400), NOW + 1).await.unwrap();
    let right = || Right::Token(Tokens::hash(&*token));
    // What is asked for is wrong.
    let error = authority
        .sign(right(), &orders, None, b"nothing", NOW + 2)
        .await;
    assert!(matches!(error.unwrap_err(), AuthorityError::Request(_)));
    // Its node is full.
    let proven = || Right::Proven {
        identity: identity("orders"),
        held: None,
    };
    for _ in 0..ISSUED_PER_NODE {
        let signed = authority
            .sign(proven(), &orders, None, &plain(&key), NOW)
            .await;
        signed.unwrap();
    }
    let error = authority
        .sign(right(), &orders, None, &plain(&key), NOW + 2)
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, AuthorityError::Full(_)), "{error}");
    // Its node is revoked.
    let subject = Subject::Identity(identity("orders"));
    authority.revoke(subject.clone(), NOW).await.unwrap();
    let error = authority
        .sign(right(), &orders, None, &plain(&key), NOW + 2)
        .await;
    assert_eq!(denied(&error.unwrap_err()), "REVOKED");
    authority.restore(subject, NOW).await.unwrap();
    let over = NOW + (LIFE + SKEW).as_secs();
    authority.advance(over, &heard(&[])).await.unwrap();
    let signed = authority
        .sign(right(), &orders, None, &plain(&key), over)
        .await;
    signed.expect("none of them has used it");
}

#[tokio::test]
async fn a_node_that_asks_without_end_shuts_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path(), DOMAIN).await.unwrap();
    let authority = &opened.authority;
    let request = plain(&KeyPair::generate().unwrap());
    let ask = async |name: &str, now| {
        let right = Right::Proven {
            identity: identity("orders"),
            held: None,
        };
        let node = node(name);
        let signed = authority.sign(right, &node, None, &request, now);
        signed.await.map(|signed| signed.not_after)
    };
    let mut got = 0;
    for _ in 0..2 * ISSUED_PER_NODE {
        got += usize::from(ask("greedy", NOW).await.is_ok());
    }
    assert_eq!(got, ISSUED_PER_NODE);
    let error = ask("greedy", NOW).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("64 certificates of node `greedy`"), "{text}");
    ask("modest", NOW).await.unwrap();
    let over = NOW + (LIFE + SKEW).as_secs();
    authority.advance(over, &heard(&[])).await.unwrap();
    ask("greedy", over).await.expect("the old ones have ended");
}

#[tokio::test]
async fn nobody_can_be_control_and_nobody_can_revoke_it() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path(), DOMAIN).await.unwrap();
    let authority = &opened.authority;
    let reserved = |error: AuthorityError| {
        let text = error.to_string();
        assert!(matches!(error, AuthorityError::Reserved(_)), "{text}");
        assert!(text.contains("is control itself"), "{text}");
    };
    for (name, identity) in [(NODE, identity("orders")), ("orders-1", control())] {
        let grant = Grant {
            node: node(name),
            identity: identity.clone(),
            expires: NOW + 60,
        };
        reserved(authority.issue(grant, NOW).await.unwrap_err());
        let request = plain(&KeyPair::generate().unwrap());
        let held = None;
        let right = Right::Proven { identity, held };
        let node = node(name);
        let signed = authority.sign(right, &node, None, &request, NOW);
        reserved(signed.await.unwrap_err());
    }
    for subject in [Subject::Node(node(NODE)), Subject::Identity(control())] {
        reserved(authority.revoke(subject, NOW).await.unwrap_err());
    }
    assert!(authority.trust().borrow().revoked.is_empty());
}
