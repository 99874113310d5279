use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use sidelane_process::settings::Trust;
use sidelane_proto::model::Identity;

use super::*;
use crate::peer::{Peer, Shown};

const SYNC: &str = "/sidelane.control.v1.Membership/Sync";
const LIST: &str = "/sidelane.admin.v1.Mesh/ListNodes";
const APPLY: &str = "/sidelane.admin.v1.Mesh/ApplyRules";
const SIGN: &str = "/sidelane.control.v1.Certificates/Sign";
const SECRET: [u8; 32] = [7; 32];

fn peer(address: &str, secure: bool, certificate: bool) -> Peer {
    let local = "192.0.2.1:15010".parse().unwrap();
    let identity = Identity::new("spiffe://mesh.example/ns/shop/sa/orders").unwrap();
    Peer {
        secure,
        shown: certificate.then_some(Shown {
            identity,
            node: None,
            serial: None,
            signed: 0,
            until: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        }),
        ..Peer::plain(address.parse().unwrap(), Some(local))
    }
}

/// Before the end of the certificates here.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(99)
}

fn headers(secret: &[u8]) -> HeaderMap {
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut headers = HeaderMap::new();
    headers.insert(JOIN_HEADER, HeaderValue::from_str(&digits).unwrap());
    headers
}

fn gate(trust: Trust) -> Gate {
    Gate::new(trust, Some(Sha256::digest(SECRET).into()))
}

#[test]
fn each_method_wants_what_it_wants() {
    let none = HeaderMap::new();
    let (stranger, member) = (
        peer("127.0.0.1:9", true, false),
        peer("127.0.0.1:9", true, true),
    );
    let strict = gate(Trust::Strict);
    let admits = |peer: &Peer, path| strict.admit(peer, path, &none, now()).is_ok();
    assert_eq!(
        [SIGN, SYNC, LIST, APPLY].map(|path| admits(&stranger, path)),
        [true, false, false, false]
    );
    assert_eq!(
        [SIGN, SYNC, LIST, APPLY].map(|path| admits(&member, path)),
        [true, true, true, false]
    );
    assert!(!admits(&member, "/sidelane.admin.v1.Mesh/WhateverComes"));
    let plain = peer("192.0.2.7:9", false, false);
    let permissive = gate(Trust::Permissive);
    assert_eq!(
        [SIGN, SYNC, LIST, APPLY].map(|path| permissive.admit(&plain, path, &none, now()).is_ok()),
        [true, true, true, false]
    );
    assert!(
        gate(Trust::Disabled)
            .admit(&plain, APPLY, &none, now())
            .is_ok()
    );
}

#[test]
fn a_certificate_that_has_ended_is_good_for_renewing_it_and_nothing_else() {
    let member = peer("192.0.2.7:9", true, true);
    let none = HeaderMap::new();
    for trust in [Trust::Strict, Trust::Permissive] {
        let gate = gate(trust);
        let admits = |path, now| gate.admit(&member, path, &none, now).is_ok();
        let end = now() + Duration::from_secs(1);
        assert_eq!([SIGN, SYNC, LIST].map(|path| admits(path, end)), [true; 3]);
        let later = end + Duration::from_secs(1);
        assert_eq!(
            [SIGN, SYNC, LIST, APPLY].map(|path| admits(path, later)),
            [true, false, false, false]
        );
    }
}

#[test]
fn the_join_file_counts_over_tls_and_on_this_machine_alone() {
    let strict = gate(Trust::Strict);
    let right = headers(&SECRET);
    for here in [
        "127.0.0.1:9",
        "[::1]:9",
        "[::ffff:127.0.0.1]:9",
        "192.0.2.1:9",
    ] {
        strict
            .admit(&peer(here, true, false), APPLY, &right, now())
            .unwrap();
    }
    let refused =
        |peer: &Peer, headers: &HeaderMap| strict.admit(peer, APPLY, headers, now()).unwrap_err();
    refused(&peer("192.0.2.7:9", true, false), &right);
    refused(&peer("127.0.0.1:9", false, false), &right);
    refused(&peer("127.0.0.1:9", true, false), &headers(&[8; 32]));
    refused(&peer("127.0.0.1:9", true, false), &headers(&SECRET[..31]));
    let mut odd = HeaderMap::new();
    odd.insert(JOIN_HEADER, HeaderValue::from_static("0"));
    refused(&peer("127.0.0.1:9", true, false), &odd);
}
