//! What peers and files show: chains of certificates in DER, each behind its length in two bytes, or,
//! after a first byte that is not 0, PEM. What is taken has one identity, and is taken again.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use sidelane_identity::verify::{self, Leaf};
use sidelane_identity::{
    Bundle, CHAIN_LIMIT, CertificateDer, PrivateKey, SpiffeId, Svid, TrustDomain,
};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "certificates",
    run,
    seeds,
};

fn run(data: &[u8]) {
    match data.split_first() {
        Some((0, rest)) => shows(rest),
        Some((_, rest)) => reads(rest),
        None => {}
    }
}

fn shows(mut data: &[u8]) {
    let mut chain = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        chain.push(CertificateDer::from(&rest[..length]));
        data = &rest[length..];
        if chain.len() > CHAIN_LIMIT {
            break;
        }
    }
    let Ok(leaf) = verify::leaf(&chain) else {
        return;
    };
    assert!(chain.len() <= CHAIN_LIMIT);
    sound(&leaf);
    // What stands behind it changes nothing of what it says.
    assert_eq!(verify::leaf(&chain[..1]).as_ref(), Ok(&leaf));
}

fn sound(leaf: &Leaf) {
    assert_eq!(SpiffeId::new(leaf.id.as_str()).as_ref(), Ok(&leaf.id));
    assert!(leaf.id.is_of(&leaf.id.trust_domain()));
}

fn reads(text: &[u8]) {
    let domain = TrustDomain::new("mesh.example").expect("a name");
    if let Ok(bundle) = Bundle::from_pem(domain.clone(), text) {
        let again = Bundle::new(domain, bundle.roots().to_vec());
        assert_eq!(again.expect("roots").roots(), bundle.roots());
    }
    let key = PrivateKey::from_pem(text);
    if let Ok(svid) = Svid::from_pem(text, text) {
        assert!(key.is_ok(), "its key was read");
        let leaf = verify::leaf(svid.chain()).expect("it was looked at");
        sound(&leaf);
        assert_eq!((&leaf.id, &leaf.serial), (svid.id(), svid.serial()));
    }
}

/// Made anew each time: a key that lies in a repository is no key.
fn seeds() -> Vec<Vec<u8>> {
    let key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let signed = root.self_signed(&key).unwrap();
    let issuer = Issuer::from_params(&root, &key);
    let mut seeds = Vec::new();
    for (uri, dns, ca) in [
        ("spiffe://mesh.example/ns/shop/sa/orders", None, false),
        (
            "spiffe://mesh.example/ns/shop/sa/orders",
            Some("orders.example"),
            false,
        ),
        ("https://mesh.example/", None, false),
        ("spiffe://mesh.example/x", None, true),
    ] {
        let own = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(uri.to_owned().try_into().unwrap())];
        let dns = dns.map(|dns| SanType::DnsName(dns.to_owned().try_into().unwrap()));
        leaf.subject_alt_names.extend(dns);
        leaf.is_ca = if ca {
            IsCa::Ca(BasicConstraints::Unconstrained)
        } else {
            IsCa::ExplicitNoCa
        };
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = leaf.signed_by(&own, &issuer).unwrap();
        let framed = |der: &[u8]| {
            let length = u16::try_from(der.len()).unwrap().to_be_bytes();
            [&length[..], der].concat()
        };
        seeds.push([&[0][..], &framed(leaf.der())].concat());
        seeds.push([&[0][..], &framed(leaf.der()), &framed(signed.der())].concat());
        let pem = format!("{}{}", leaf.pem(), own.serialize_pem());
        seeds.push([b"p", pem.as_bytes()].concat());
    }
    seeds.push([b"p", signed.pem().as_bytes()].concat());
    seeds
}
