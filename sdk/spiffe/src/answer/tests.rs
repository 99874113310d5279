//! Answers as an agent sends them, and each way in which one can be wrong.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;

const ID: &str = "spiffe://mesh.example/ns/shop/sa/orders";
const HOUR: Duration = Duration::from_secs(3_600);

struct Signer {
    params: CertificateParams,
    key: KeyPair,
}

impl Signer {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self { params, key }
    }

    fn root(&self) -> Vec<u8> {
        self.params.self_signed(&self.key).unwrap().der().to_vec()
    }

    fn svid(&self, id: &str, hint: &str, end: SystemTime) -> X509svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = end.into();
        let issuer = Issuer::from_params(&self.params, &self.key);
        X509svid {
            spiffe_id: id.to_owned(),
            x509_svid: params.signed_by(&key, &issuer).unwrap().der().to_vec(),
            x509_svid_key: key.serialize_der(),
            bundle: self.root(),
            hint: hint.to_owned(),
        }
    }
}

fn answer(svids: Vec<X509svid>) -> X509svidResponse {
    X509svidResponse {
        svids,
        ..X509svidResponse::default()
    }
}

fn soon() -> SystemTime {
    SystemTime::now() + HOUR
}

#[test]
fn the_first_identity_is_taken_or_the_one_that_is_meant() {
    let signer = Signer::new();
    let other = "spiffe://mesh.example/ns/shop/sa/other";
    let all = answer(vec![
        signer.svid(ID, "main", soon()),
        signer.svid(other, "side", soon()),
    ]);
    let who = |wanted: &Wanted| read(all.clone(), wanted, SystemTime::now());
    let id = |wanted: Wanted| who(&wanted).ok().unwrap().svid().id().to_string();
    assert_eq!(id(Wanted::First), ID);
    assert_eq!(id(Wanted::Hint("side".to_owned())), other);
    assert_eq!(id(Wanted::Id(SpiffeId::new(other).unwrap())), other);
    let none = who(&Wanted::Hint("third".to_owned())).err().unwrap();
    let text = none.to_string();
    assert!(
        text.contains("`third`") && text.contains("hint `side`"),
        "{text}"
    );
}

#[test]
fn federated_roots_are_not_believed() {
    let (own, other) = (Signer::new(), Signer::new());
    let svid = own.svid(ID, "", soon());
    let root = svid.bundle.clone();
    let mut said = answer(vec![svid]);
    said.federated_bundles
        .insert("spiffe://other.example".to_owned(), other.root());
    let read = read(said, &Wanted::First, SystemTime::now()).ok().unwrap();
    assert_eq!(read.bundle().roots().len(), 1);
    assert_eq!(read.bundle().roots()[0].as_ref(), root);
}

#[test]
fn each_wrong_answer_is_refused_by_its_field_and_shows_no_key() {
    type Spoil<'a> = &'a dyn Fn(&mut X509svidResponse);
    let signer = Signer::new();
    let good = signer.svid(ID, "", soon());
    let secret: String = good
        .x509_svid_key
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let wrong = |spoil: &dyn Fn(&mut X509svidResponse)| {
        let mut said = answer(vec![good.clone()]);
        spoil(&mut said);
        let error = read(said, &Wanted::First, SystemTime::now()).err().unwrap();
        let text = error.to_string();
        assert!(!text.contains(&secret[..32]), "{text}");
        text
    };
    let stranger = Signer::new();
    let cases: [(Spoil<'_>, &str); 11] = [
        (&|it| it.svids.clear(), "svids: 0 identities"),
        (
            &|it| it.svids = vec![good.clone(); SVIDS_LIMIT + 1],
            "svids: 65",
        ),
        (
            &|it| it.svids[0].x509_svid.clear(),
            "x509_svid: there is no",
        ),
        (
            &|it| it.svids[0].x509_svid.truncate(40),
            "x509_svid: certificate 1",
        ),
        (&|it| it.svids[0].bundle.clear(), "bundle: there is no"),
        (
            &|it| it.svids[0].bundle = b"garbage".to_vec(),
            "bundle: certificate 1",
        ),
        (
            &|it| it.svids[0].spiffe_id = "orders".to_owned(),
            "spiffe_id: ",
        ),
        (
            &|it| it.svids[0].spiffe_id = format!("{ID}2"),
            "spiffe_id says",
        ),
        (&|it| it.svids[0].x509_svid_key.truncate(20), "private key"),
        (
            &|it| it.svids[0].x509_svid_key = KeyPair::generate().unwrap().serialize_der(),
            "does not fit",
        ),
        (
            &|it| it.svids[0].bundle = stranger.root(),
            "no peer would take the certificate",
        ),
    ];
    for (spoil, expected) in cases {
        let text = wrong(spoil);
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let ended = answer(vec![signer.svid(ID, "", SystemTime::now() - HOUR / 2)]);
    let ended = read(ended, &Wanted::First, SystemTime::now())
        .err()
        .unwrap();
    let unsound = matches!(ended, AnswerError::Unsound(Refusal::Expired { .. }));
    assert!(unsound, "{ended:?}");
}
