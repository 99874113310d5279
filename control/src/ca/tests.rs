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
    assert!(!roots.advance(NOW + 1, false));
    assert_eq!(
        roots.signing().fingerprint(),
        first,
        "some do not know the new one"
    );
    assert!(roots.advance(NOW + 2, true));
    assert_ne!(roots.signing().fingerprint(), first);
    let end = NOW + 2 + (LIFE + SKEW).as_secs();
    assert!(!roots.advance(end - 1, true));
    assert_eq!(roots.all().count(), 2, "its leaves live");
    assert!(roots.advance(end, true));
    assert_eq!(roots.all().count(), 1);
}

#[test]
fn a_sidecar_that_hangs_holds_a_rotation_up_for_an_hour() {
    let mut roots = Roots::new(root(1, ROOT_LIFE));
    let first = roots.signing().fingerprint();
    roots.rotate(root(2, ROOT_LIFE), NOW).unwrap();
    let limit = OVERLAP_LIMIT.as_secs();
    assert!(!roots.advance(NOW + limit - 1, false));
    assert!(roots.advance(NOW + limit, false));
    assert_ne!(roots.signing().fingerprint(), first);
}

#[test]
fn roots_that_are_trusted_are_bounded() {
    let mut roots = Roots::new(root(1, ROOT_LIFE));
    roots.gives(LIFE);
    for byte in 2..=u8::try_from(ROOTS_LIMIT).unwrap() {
        roots.rotate(root(byte, ROOT_LIFE), NOW).unwrap();
        roots.advance(NOW, true);
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
    let unknown = tokens
        .redeem(&hash, &orders, None, b"key", NOW)
        .unwrap_err();
    assert_eq!(unknown.label(), "TOKEN_UNKNOWN");
    assert!(tokens.issue(hash, grant(NOW + 60)));
    let refused = tokens.redeem(&hash, &other, None, b"key", NOW).unwrap_err();
    assert_eq!(refused.label(), "TOKEN_OF_ANOTHER_NODE");
    let billing = identity("billing");
    let refused = tokens.redeem(&hash, &orders, Some(&billing), b"key", NOW);
    assert_eq!(refused.unwrap_err().label(), "TOKEN_OF_ANOTHER_IDENTITY");
    let expired = tokens
        .redeem(&hash, &orders, None, b"key", NOW + 60)
        .unwrap_err();
    assert_eq!(expired.label(), "TOKEN_EXPIRED");
    let granted = tokens.redeem(&hash, &orders, Some(&identity("orders")), b"key", NOW);
    assert_eq!(granted.unwrap().identity, identity("orders"));
    tokens
        .redeem(&hash, &orders, None, b"key", NOW + 1)
        .expect("its answer was lost");
    let used = tokens
        .redeem(&hash, &orders, None, b"another", NOW + 1)
        .unwrap_err();
    assert_eq!(used.label(), "TOKEN_USED");
    assert!(tokens.forget(NOW + 60 + 86_399).is_empty());
    assert_eq!(tokens.forget(NOW + 60 + 86_400), [hash]);
}

#[test]
fn tokens_and_revocations_are_bounded() {
    let mut tokens = Tokens::default();
    let mut revoked = Revoked::default();
    let hash = |n: usize| Tokens::hash(&n.to_be_bytes());
    assert!((0..TOKENS_LIMIT).all(|n| tokens.issue(hash(n), grant(NOW))));
    assert!(!tokens.issue(hash(TOKENS_LIMIT), grant(NOW)));
    let revocation = |n: usize, until| Revocation {
        subject: Subject::Node(node(&format!("n-{n}"))),
        until,
    };
    assert!((0..REVOKED_LIMIT).all(|n| revoked.add(revocation(n, NOW))));
    assert!(!revoked.add(revocation(REVOKED_LIMIT, NOW)));
    assert!(revoked.add(revocation(0, NOW + 1)), "it is known");
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
    for subject in subjects {
        let mut revoked = Revoked::default();
        assert_eq!(revoked.finds(Some(serial), &node, &identity), None);
        let until = NOW;
        revoked.add(Revocation {
            subject: subject.clone(),
            until,
        });
        let found = revoked.finds(Some(serial), &node, &identity);
        assert_eq!(found, Some(subject));
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
    let used = first.authority.issue(grant(NOW + 60)).await.unwrap();
    let fresh = first.authority.issue(grant(NOW + 60)).await.unwrap();
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
        serial: None,
    };
    let refused = authority
        .sign(proven("billing"), &orders, None, &plain(&key), NOW)
        .await;
    assert_eq!(denied(&refused.unwrap_err()), "REVOKED");
    authority.restore(billing).await.unwrap();
    authority
        .sign(proven("billing"), &orders, None, &plain(&key), NOW)
        .await
        .unwrap();

    authority.advance(NOW, true).await.unwrap();
    assert_ne!(authority.fingerprint().await, fingerprint);
    let later = NOW + (LIFE + SKEW).as_secs();
    authority.advance(later, true).await.unwrap();
    assert_eq!(authority.trust().borrow().roots.len(), 1);
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
    let error = opened.authority.issue(foreign).await.unwrap_err();
    assert!(matches!(error, AuthorityError::Foreign { .. }), "{error}");
    let revision = opened.authority.trust().borrow().revision;
    let subject = Subject::Node(node("orders-1"));
    opened.authority.revoke(subject, NOW).await.unwrap();
    let trust = Arc::clone(&opened.authority.trust().borrow());
    assert_eq!((trust.revision, trust.revoked.len()), (revision + 1, 1));
    let error = opened.authority.issue(grant(NOW + 60)).await.unwrap_err();
    assert_eq!(denied(&error), "REVOKED");
}
