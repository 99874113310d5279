//! Certificates that no peer may take, each refused by its own reason; and those that all take.

#![allow(clippy::unwrap_used)] // What fails in a function here fails its test.

mod support;

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose as Extended,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose as Usage, NameConstraints, PublicKeyData,
    SanType, SignatureAlgorithm,
};
use sidelane_identity::kept::{self, KeptError};
use sidelane_identity::verify::{self, CLOCK_SKEW, Expected, Leaf};
use sidelane_identity::{
    CHAIN_LIMIT, CertificateDer, Identity, PrivateKey, Refusal, Revoked, Serial, SpiffeId, Svid,
};
use support::{Authority, BILLING, DOMAIN, HOUR, ORDERS, armour, uri, workload};

type Chain = Vec<CertificateDer<'static>>;

fn orders() -> Expected {
    Expected::One(SpiffeId::new(ORDERS).unwrap())
}

fn verdict(root: &Authority, chain: &Chain) -> Result<Leaf, Refusal> {
    let identity = root.identity(BILLING);
    verify::chain(chain, &identity, &orders(), SystemTime::now())
}

fn ago(time: Duration) -> SystemTime {
    SystemTime::now() - time
}

fn ahead(time: Duration) -> SystemTime {
    SystemTime::now() + time
}

/// A leaf that differs from a right one by one thing, and what it is refused for.
type Wrong = (&'static str, &'static str, fn(&mut CertificateParams));

const LEAVES: &[Wrong] = &[
    ("ended an hour ago", "expired", |leaf| {
        leaf.not_before = ago(2 * HOUR).into();
        leaf.not_after = ago(HOUR).into();
    }),
    ("ended two seconds ago", "expired", |leaf| {
        leaf.not_after = ago(Duration::from_secs(2)).into();
    }),
    ("begins in an hour", "not_yet_valid", |leaf| {
        leaf.not_before = ahead(HOUR).into();
        leaf.not_after = ahead(2 * HOUR).into();
    }),
    ("begins after the skew", "not_yet_valid", |leaf| {
        leaf.not_before = ahead(CLOCK_SKEW + Duration::from_secs(30)).into();
    }),
    ("ends before it begins", "expired", |leaf| {
        leaf.not_before = ahead(Duration::from_secs(60)).into();
        leaf.not_after = ago(Duration::from_secs(60)).into();
    }),
    ("another trust domain", "wrong_trust_domain", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://other.example/ns/shop/sa/orders")];
    }),
    (
        "a trust domain that begins alike",
        "wrong_trust_domain",
        |leaf| {
            leaf.subject_alt_names = vec![uri("spiffe://mesh.example.evil/ns/shop/sa/orders")];
        },
    ),
    ("two URIs", "two_uri_sans", |leaf| {
        leaf.subject_alt_names = vec![uri(ORDERS), uri(BILLING)];
    }),
    ("the same URI twice", "two_uri_sans", |leaf| {
        leaf.subject_alt_names = vec![uri(ORDERS), uri(ORDERS)];
    }),
    ("a URI that is a page, too", "two_uri_sans", |leaf| {
        leaf.subject_alt_names = vec![uri(ORDERS), uri("https://mesh.example/")];
    }),
    ("no names", "no_uri_san", |leaf| {
        leaf.subject_alt_names.clear();
    }),
    ("a DNS name only", "no_uri_san", |leaf| {
        leaf.subject_alt_names = vec![SanType::DnsName("orders".try_into().unwrap())];
    }),
    ("an address only", "no_uri_san", |leaf| {
        leaf.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    }),
    ("an id as DNS name", "no_uri_san", |leaf| {
        leaf.subject_alt_names = vec![SanType::DnsName(ORDERS.try_into().unwrap())];
    }),
    ("a page", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("https://mesh.example/ns/shop/sa/orders")];
    }),
    ("capitals in the scheme", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("SPIFFE://mesh.example/ns/shop/sa/orders")];
    }),
    ("capitals in the domain", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://Mesh.example/ns/shop/sa/orders")];
    }),
    ("no domain", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe:///ns/shop/sa/orders")];
    }),
    ("a port", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://mesh.example:443/ns/shop/sa/orders")];
    }),
    ("a user", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://me@mesh.example/ns/shop/sa/orders")];
    }),
    ("a query", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://mesh.example/ns/shop/sa/orders?a=b")];
    }),
    ("a fragment", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://mesh.example/ns/shop/sa/orders#a")];
    }),
    ("a way up", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://mesh.example/ns/shop/../sa/orders")];
    }),
    ("a slash at the end", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://mesh.example/ns/shop/sa/orders/")];
    }),
    ("percent signs", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://mesh.example/ns/shop/sa/%6frders")];
    }),
    ("a NUL", "spiffe_id", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://mesh.example/ns/shop/sa/orders\0")];
    }),
    ("2,049 bytes", "spiffe_id", |leaf| {
        let long = format!("spiffe://{DOMAIN}/{}", "p".repeat(2049 - 10 - DOMAIN.len()));
        leaf.subject_alt_names = vec![uri(&long)];
    }),
    ("the trust domain itself", "no_workload", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://mesh.example")];
    }),
    ("an authority", "ca_leaf", |leaf| {
        leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }),
    ("an authority with path length 0", "ca_leaf", |leaf| {
        leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    }),
    ("may sign certificates", "key_usage", |leaf| {
        leaf.key_usages.push(Usage::KeyCertSign);
    }),
    ("may sign revocation lists", "key_usage", |leaf| {
        leaf.key_usages.push(Usage::CrlSign);
    }),
    ("may encipher only", "key_usage", |leaf| {
        leaf.key_usages = vec![Usage::KeyEncipherment];
    }),
    ("no key usage", "key_usage", |leaf| leaf.key_usages.clear()),
    ("for servers only", "extended_key_usage", |leaf| {
        leaf.extended_key_usages = vec![Extended::ServerAuth];
    }),
    ("for clients only", "extended_key_usage", |leaf| {
        leaf.extended_key_usages = vec![Extended::ClientAuth];
    }),
    ("for code", "extended_key_usage", |leaf| {
        leaf.extended_key_usages = vec![Extended::CodeSigning];
    }),
    ("for anything", "extended_key_usage", |leaf| {
        leaf.extended_key_usages = vec![Extended::Any];
    }),
    (
        "somebody else of the mesh",
        "not_the_expected_identity",
        |leaf| {
            leaf.subject_alt_names = vec![uri(BILLING)];
        },
    ),
    (
        "an id that begins alike",
        "not_the_expected_identity",
        |leaf| {
            leaf.subject_alt_names = vec![uri("spiffe://mesh.example/ns/shop/sa/orders-2")];
        },
    ),
    ("an id below", "not_the_expected_identity", |leaf| {
        leaf.subject_alt_names = vec![uri("spiffe://mesh.example/ns/shop/sa/orders/a")];
    }),
    ("an extension nobody knows", "critical_extension", |leaf| {
        let mut unknown =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        unknown.set_criticality(true);
        leaf.custom_extensions.push(unknown);
    }),
];

#[test]
fn wrong_leaves_are_refused_by_their_reason() {
    let root = Authority::root("root");
    for (what, label, change) in LEAVES {
        refused(what, label, verdict(&root, &root.leaf(change)));
    }
}

#[test]
fn wrong_chains_are_refused_by_their_reason() {
    let root = Authority::root("root");
    for (what, label, chain) in wrong_chains(&root) {
        refused(what, label, verdict(&root, &chain));
    }
}

fn wrong_chains(root: &Authority) -> Vec<(&'static str, &'static str, Chain)> {
    let nothing = |_: &mut CertificateParams| {};
    let right = root.leaf(nothing);
    let other = Authority::root("other");
    let same_name = Authority::root("root");
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        vec![workload(ORDERS).self_signed(&key).unwrap().der().clone()]
    };
    let of_svid = {
        let key = KeyPair::generate().unwrap();
        let params = workload(BILLING);
        let chain = root.sign(&params, &key);
        let above = chain.clone();
        let der = chain[0].clone();
        Authority {
            params,
            key,
            der,
            above,
        }
        .leaf(nothing)
    };
    let changed = |place: fn(usize) -> usize| {
        let mut der = right[0].to_vec();
        let place = place(der.len());
        der[place] ^= 1;
        vec![CertificateDer::from(der)]
    };
    let cut = |length: fn(usize) -> usize| {
        vec![CertificateDer::from(
            right[0][..length(right[0].len())].to_vec(),
        )]
    };
    let no_ca = root.below("no authority", |params| params.is_ca = IsCa::ExplicitNoCa);
    let may_not = root.below("may not sign", |params| {
        params.key_usages = vec![Usage::DigitalSignature];
    });
    let ended = root.below("ended", |params| params.not_after = ago(HOUR).into());
    let last = root.below("last", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let beyond = last.below("beyond", nothing);
    let deep = root
        .below("1", nothing)
        .below("2", nothing)
        .below("3", nothing);
    let elsewhere = root.below("elsewhere", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![],
            excluded_subtrees: vec![GeneralSubtree::DnsName("orders.example".into())],
        });
    });
    let with_gap = {
        let upper = root.below("upper", nothing);
        let lower = upper.below("lower", nothing);
        let whole = lower.leaf(nothing);
        vec![whole[0].clone(), whole[1].clone()]
    };
    let long = root.leaf(|leaf| {
        let padding =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 2], vec![0; 17_000]);
        leaf.custom_extensions.push(padding);
    });
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let followed = {
        let mut der = right[0].to_vec();
        der.push(0);
        vec![CertificateDer::from(der)]
    };
    vec![
        ("no certificate", "no_certificate", vec![]),
        ("another root", "unknown_root", other.leaf(nothing)),
        (
            "another root of the same name",
            "signature",
            same_name.leaf(nothing),
        ),
        ("signed by itself", "unknown_root", self_signed),
        ("signed by a workload", "intermediate", of_svid),
        (
            "the signature changed",
            "signature",
            changed(|length| length - 1),
        ),
        (
            "cut off in the middle",
            "malformed",
            cut(|length| length / 2),
        ),
        (
            "the last byte is missing",
            "malformed",
            cut(|length| length - 1),
        ),
        ("one byte", "malformed", cut(|_| 1)),
        ("nothing", "malformed", cut(|_| 0)),
        ("a byte more", "malformed", followed),
        (
            "an intermediate without the flag",
            "intermediate",
            no_ca.leaf(nothing),
        ),
        (
            "an intermediate without the usage",
            "intermediate",
            may_not.leaf(nothing),
        ),
        (
            "an intermediate that has ended",
            "expired",
            ended.leaf(nothing),
        ),
        ("an intermediate that is missing", "unknown_root", with_gap),
        (
            "more authorities than one allows",
            "path_length",
            beyond.leaf(nothing),
        ),
        ("five certificates", "chain_too_long", {
            let mut chain = deep.leaf(nothing);
            chain.push(other.der.clone());
            assert_eq!(chain.len(), CHAIN_LIMIT + 1);
            chain
        }),
        ("a certificate of 17 KB", "chain_too_long", long),
        ("an authority for other names", "name_constraint", {
            elsewhere.leaf(|leaf| {
                let name = SanType::DnsName("orders.example".try_into().unwrap());
                leaf.subject_alt_names.push(name);
            })
        }),
        ("P-521", "weak_key", root.sign(&workload(ORDERS), &p521)),
        (
            "RSA of 1,024 bits",
            "weak_key",
            root.sign(&workload(ORDERS), &Rsa1024),
        ),
    ]
}

#[track_caller]
fn refused(what: &str, label: &str, verdict: Result<Leaf, Refusal>) {
    match verdict {
        Ok(leaf) => panic!("{what}: {} was believed", leaf.id),
        Err(refusal) => {
            assert_eq!(refusal.label(), label, "{what}: {refusal}");
            assert!(
                Refusal::LABELS.contains(&label),
                "{label} is not in the list"
            );
        }
    }
}

#[test]
fn a_roots_own_path_length_is_held() {
    // As control's own roots say: nobody stands between them and a workload.
    let closed = Authority::root_with("closed", |it| {
        it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    verdict(&closed, &closed.leaf(|_| {})).unwrap();
    let below = closed.below("below", |_| {});
    let chain = below.leaf(|_| {});
    refused("one too many", "path_length", verdict(&closed, &chain));
    let open = Authority::root_with("open", |it| {
        it.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    });
    let below = open.below("below", |_| {});
    verdict(&open, &below.leaf(|_| {})).unwrap();
    let deeper = below.below("deeper", |_| {});
    let chain = deeper.leaf(|_| {});
    refused("two too many", "path_length", verdict(&open, &chain));
}

/// Where a reason stands in the list. Who adds one adds it here, to the list, and to the samples.
fn place(refusal: &Refusal) -> usize {
    match refusal {
        Refusal::NoIdentity => 0,
        Refusal::NotTls => 1,
        Refusal::TlsVersion => 2,
        Refusal::Alpn => 3,
        Refusal::NoCertificate => 4,
        Refusal::ChainTooLong => 5,
        Refusal::Malformed { .. } => 6,
        Refusal::NoUriSan => 7,
        Refusal::TwoUriSans { .. } => 8,
        Refusal::SpiffeId(_) => 9,
        Refusal::NoWorkload => 10,
        Refusal::CaLeaf => 11,
        Refusal::KeyUsage { .. } => 12,
        Refusal::ExtendedKeyUsage => 13,
        Refusal::WeakKey => 14,
        Refusal::Expired { .. } => 15,
        Refusal::NotYetValid { .. } => 16,
        Refusal::WrongTrustDomain { .. } => 17,
        Refusal::UnknownRoot => 18,
        Refusal::Signature => 19,
        Refusal::Intermediate { .. } => 20,
        Refusal::PathLength => 21,
        Refusal::NameConstraint => 22,
        Refusal::CriticalExtension => 23,
        Refusal::Revoked { .. } => 24,
        Refusal::NotTheExpectedIdentity { .. } => 25,
        Refusal::OtherNode { .. } => 26,
        Refusal::ByPeer { .. } => 27,
        Refusal::Ended => 28,
        Refusal::TooSlow => 29,
        Refusal::Handshake { .. } => 30,
    }
}

#[test]
fn every_reason_has_a_label_of_its_own_and_stands_in_the_list() {
    let id = || SpiffeId::new(ORDERS).unwrap();
    let now = SystemTime::now();
    let what = "it";
    let samples = [
        Refusal::NoIdentity,
        Refusal::NotTls,
        Refusal::TlsVersion,
        Refusal::Alpn,
        Refusal::NoCertificate,
        Refusal::ChainTooLong,
        Refusal::Malformed { what },
        Refusal::NoUriSan,
        Refusal::TwoUriSans { count: 2 },
        Refusal::SpiffeId(SpiffeId::new("it").unwrap_err()),
        Refusal::NoWorkload,
        Refusal::CaLeaf,
        Refusal::KeyUsage { what },
        Refusal::ExtendedKeyUsage,
        Refusal::WeakKey,
        Refusal::expired(now, now),
        Refusal::not_yet_valid(now, now),
        Refusal::WrongTrustDomain {
            found: id().trust_domain(),
            wanted: id().trust_domain(),
        },
        Refusal::UnknownRoot,
        Refusal::Signature,
        Refusal::Intermediate { what },
        Refusal::PathLength,
        Refusal::NameConstraint,
        Refusal::CriticalExtension,
        Refusal::Revoked { id: id() },
        Refusal::NotTheExpectedIdentity {
            found: id(),
            wanted: what.to_owned(),
        },
        Refusal::OtherNode {
            what: what.to_owned(),
        },
        Refusal::ByPeer {
            alert: what.to_owned(),
        },
        Refusal::Ended,
        Refusal::TooSlow,
        Refusal::Handshake {
            what: what.to_owned(),
        },
    ];
    assert_eq!(samples.len(), Refusal::LABELS.len());
    for (index, sample) in samples.iter().enumerate() {
        assert_eq!(place(sample), index, "{sample}");
        assert_eq!(Refusal::LABELS[index], sample.label());
    }
    let labels: std::collections::BTreeSet<_> = Refusal::LABELS.into_iter().collect();
    assert_eq!(labels.len(), samples.len(), "two have the same");
}

#[test]
fn a_root_that_has_ended_signs_for_nobody() {
    let good = Authority::root("good");
    let ended = Authority::root_with("ended", |root| root.not_after = ago(HOUR).into());
    let roots = vec![good.der.clone(), ended.der.clone()];
    let domain = good.bundle().trust_domain().clone();
    let bundle = sidelane_identity::Bundle::new(domain, roots).unwrap();
    let identity = Identity::new(good.svid(BILLING), bundle, Revoked::default()).unwrap();
    let now = SystemTime::now();
    let of_good = verify::chain(&good.leaf(|_| {}), &identity, &orders(), now);
    assert_eq!(of_good.unwrap().id.as_str(), ORDERS);
    let of_ended = verify::chain(&ended.leaf(|_| {}), &identity, &orders(), now);
    refused("an ended root", "unknown_root", of_ended);
}

#[test]
fn revocations_by_serial_fingerprint_and_identity() {
    let root = Authority::root("root");
    let chain = root.leaf(|_| {});
    let leaf = verdict(&root, &chain).unwrap();
    let mut by_serial = Revoked::default();
    by_serial
        .serial(Serial::from_hex("4d:02:03").unwrap())
        .unwrap();
    let mut by_fingerprint = Revoked::default();
    by_fingerprint.fingerprint(leaf.fingerprint).unwrap();
    let mut by_identity = Revoked::default();
    by_identity.identity(leaf.id.clone()).unwrap();
    let mut another = Revoked::default();
    another.serial(Serial::from_hex("4d0204").unwrap()).unwrap();
    let now = SystemTime::now();
    for (revoked, what) in [
        (by_serial, "its serial number"),
        (by_fingerprint, "its fingerprint"),
        (by_identity, "its identity"),
    ] {
        let identity = Identity::new(root.svid(BILLING), root.bundle(), revoked).unwrap();
        refused(
            what,
            "revoked",
            verify::chain(&chain, &identity, &orders(), now),
        );
        let still = verify::still(&leaf, &identity, now).unwrap_err();
        assert_eq!(still.label(), "revoked", "{what}");
    }
    let identity = Identity::new(root.svid(BILLING), root.bundle(), another).unwrap();
    verify::chain(&chain, &identity, &orders(), now).unwrap();
    verify::still(&leaf, &identity, now).unwrap();
    let ended = verify::still(&leaf, &identity, leaf.not_after + Duration::from_secs(1));
    assert_eq!(ended.unwrap_err().label(), "expired");
}

#[test]
fn what_ended_lately_is_believed_for_so_long_and_no_longer() {
    let root = Authority::root("root");
    let chain = root.leaf(|_| {});
    let mut revoked = Revoked::default();
    let judge = Identity::new(root.svid(BILLING), root.bundle(), revoked.clone()).unwrap();
    let end = verify::leaf(&chain).unwrap().not_after;
    let late = Duration::from_secs(10);
    let at = |judge: &Identity, now, late| verify::late(&chain, judge, &orders(), now, late);
    let second = Duration::from_secs(1);
    at(&judge, end, Duration::ZERO).unwrap();
    let refused = at(&judge, end + second, Duration::ZERO).unwrap_err();
    assert_eq!(refused.label(), "expired");
    assert_eq!(at(&judge, end + late, late).unwrap().not_after, end);
    let refused = at(&judge, end + late + second, late).unwrap_err();
    assert_eq!(refused.label(), "expired");
    // All else is asked as ever.
    let other = Authority::root("other").identity(BILLING);
    let refused = at(&other, end + second, late).unwrap_err();
    assert_eq!(refused.label(), "unknown_root");
    revoked.identity(SpiffeId::new(ORDERS).unwrap()).unwrap();
    let judge = Identity::new(root.svid(BILLING), root.bundle(), revoked).unwrap();
    let refused = at(&judge, end + second, late).unwrap_err();
    assert_eq!(refused.label(), "revoked");
}

#[test]
fn what_was_kept_is_who_it_was_and_nobody_else() {
    let root = Authority::root("root");
    let (chain, key) = root.pem(&workload(ORDERS));
    let svid = Svid::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let identity = Identity::new(svid, root.bundle(), Revoked::default()).unwrap();
    let private = PrivateKey::from_pem(key.as_bytes()).unwrap();
    let text = kept::to_text("orders-1", &identity, &private);
    let read = kept::from_text("orders-1", text.as_bytes()).unwrap();
    assert_eq!(read.svid().chain(), identity.svid().chain());
    assert_eq!(read.bundle(), identity.bundle());
    read.is_sound(SystemTime::now()).unwrap();
    let other = kept::from_text("orders-2", text.as_bytes()).err().unwrap();
    let found = "orders-1".to_owned();
    assert_eq!(other, KeptError::OtherNode { found });
    let secret = key.lines().nth(1).unwrap();
    assert!(text.contains(secret), "the key is what is kept");
    for length in 0..text.len() - 1 {
        let cut = &text.as_bytes()[..length];
        // Only the line's end after the last certificate may be missing.
        if let Some(error) = kept::from_text("orders-1", cut).err() {
            assert!(!error.to_string().contains(secret), "{error}");
        } else {
            assert!(text[length..].len() < 8, "{length} bytes were enough");
        }
    }
}

#[test]
fn what_is_right_is_believed() {
    let root = Authority::root("root");
    let between = root.below("between", |_| {});
    let deep = between.below("deep", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let leaf = workload(ORDERS);
    for (what, chain) in [
        ("from the root", root.leaf(|_| {})),
        ("over one", between.leaf(|_| {})),
        ("over two", deep.leaf(|_| {})),
        ("Ed25519", root.sign(&leaf, &ed25519)),
        ("P-384", root.sign(&leaf, &p384)),
        ("RSA", root.sign(&leaf, &rsa)),
        (
            "no extended key usage",
            root.leaf(|leaf| leaf.extended_key_usages.clear()),
        ),
        (
            "no basic constraints",
            root.leaf(|leaf| leaf.is_ca = IsCa::NoCa),
        ),
        (
            "a DNS name beside",
            root.leaf(|leaf| {
                leaf.subject_alt_names
                    .push(SanType::DnsName("orders".try_into().unwrap()));
            }),
        ),
        (
            "begins within the skew",
            root.leaf(|leaf| {
                leaf.not_before = ahead(CLOCK_SKEW - Duration::from_secs(30)).into();
            }),
        ),
        ("the order mixed up", {
            let mut chain = deep.leaf(|_| {});
            chain.swap(1, 2);
            chain
        }),
    ] {
        match verdict(&root, &chain) {
            Ok(leaf) => assert_eq!(leaf.id.as_str(), ORDERS, "{what}"),
            Err(refusal) => panic!("{what}: {refusal}"),
        }
    }
    let ids = [ORDERS, BILLING].map(|id| SpiffeId::new(id).unwrap());
    let identity = root.identity(BILLING);
    let now = SystemTime::now();
    for expected in [Expected::Any, Expected::Of(ids.into())] {
        verify::chain(&root.leaf(|_| {}), &identity, &expected, now).unwrap();
    }
    let none = Expected::Of(vec![]);
    let refusal = verify::chain(&root.leaf(|_| {}), &identity, &none, now).unwrap_err();
    assert_eq!(refusal.label(), "not_the_expected_identity");
}

/// Every byte of a certificate, each changed in turn: nothing of it is believed as it stands, and
/// nothing panics.
#[test]
fn no_changed_byte_is_believed() {
    let root = Authority::root("root");
    let identity = root.identity(BILLING);
    let right = root.leaf(|_| {});
    let now = SystemTime::now();
    for place in 0..right[0].len() {
        for change in [0x01, 0x80, 0xff] {
            let mut der = right[0].to_vec();
            der[place] ^= change;
            let chain = vec![CertificateDer::from(der)];
            let verdict = verify::chain(&chain, &identity, &Expected::Any, now);
            assert!(
                verdict.is_err(),
                "byte {place} changed by {change:#x} was believed"
            );
        }
    }
}

#[test]
fn the_test_writes_pem_as_others_read_it() {
    let key = KeyPair::generate().unwrap();
    let by_rcgen = key.serialize_pem().replace('\r', "");
    let letters = |text: &str| text.split_whitespace().collect::<String>();
    let by_hand = armour("PRIVATE KEY", &key.serialize_der());
    assert_eq!(letters(&by_hand), letters(&by_rcgen));
}

/// A public key that no generator makes any more.
struct Rsa1024;

impl PublicKeyData for Rsa1024 {
    fn der_bytes(&self) -> &[u8] {
        // SEQUENCE { INTEGER of 1,024 bits, INTEGER 65537 }
        const KEY: [u8; 140] = {
            let mut key = [0xa5; 140];
            let head = [0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00];
            let tail = [0x02, 0x03, 0x01, 0x00, 0x01];
            let mut at = 0;
            while at < head.len() {
                key[at] = head[at];
                at += 1;
            }
            let mut at = 0;
            while at < tail.len() {
                key[135 + at] = tail[at];
                at += 1;
            }
            key
        };
        &KEY
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}
