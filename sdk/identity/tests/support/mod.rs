//! A certificate authority for tests, which also signs what nobody should, and handshakes in
//! memory.
// Each test file uses a part of it, and what fails here fails the test.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::SideData;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection};
use sidelane_identity::{
    Bundle, CertificateDer, Identity, Refusal, Revoked, Source, Svid, TrustDomain, tls,
};
use tokio::sync::watch;

pub(crate) const DOMAIN: &str = "mesh.example";
pub(crate) const ORDERS: &str = "spiffe://mesh.example/ns/shop/sa/orders";
pub(crate) const BILLING: &str = "spiffe://mesh.example/ns/shop/sa/billing";
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Who signs.
pub(crate) struct Authority {
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
    pub(crate) der: CertificateDer<'static>,
    /// Itself and those above it, without the root.
    pub(crate) above: Vec<CertificateDer<'static>>,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub(crate) fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = authority(name);
        change(&mut params);
        let der = params.self_signed(&key).unwrap().der().clone();
        let above = Vec::new();
        Self {
            params,
            key,
            der,
            above,
        }
    }

    pub(crate) fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = authority(name);
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().clone();
        let above = std::iter::once(der.clone())
            .chain(self.above.clone())
            .collect();
        Self {
            params,
            key,
            der,
            above,
        }
    }

    /// Signs `params` for `key`: the whole chain.
    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl rcgen::PublicKeyData,
    ) -> Vec<CertificateDer<'static>> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        let leaf = params.signed_by(key, &issuer).unwrap().der().clone();
        std::iter::once(leaf).chain(self.above.clone()).collect()
    }

    /// The chain of a leaf that is right but for one change.
    pub(crate) fn leaf(
        &self,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<CertificateDer<'static>> {
        let mut params = workload(ORDERS);
        change(&mut params);
        self.sign(&params, &KeyPair::generate().unwrap())
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let domain = TrustDomain::new(DOMAIN).unwrap();
        Bundle::new(domain, vec![self.der.clone()]).unwrap()
    }

    pub(crate) fn svid(&self, id: &str) -> Svid {
        let (chain, key) = self.pem(&workload(id));
        Svid::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    }

    pub(crate) fn pem(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let chain = self.sign(params, &key);
        (pem(&chain), key.serialize_pem())
    }

    pub(crate) fn identity(&self, id: &str) -> Identity {
        Identity::new(self.svid(id), self.bundle(), Revoked::default()).unwrap()
    }

    pub(crate) fn source(&self, id: &str) -> (watch::Sender<Option<Arc<Identity>>>, Source) {
        watch::channel(Some(Arc::new(self.identity(id))))
    }
}

pub(crate) fn pem(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| armour("CERTIFICATE", der)).collect()
}

/// PEM, by hand: tests write what no library would.
pub(crate) fn armour(kind: &str, der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {kind}-----\n");
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let mut word = [0; 4];
            word[1..=three.len()].copy_from_slice(three);
            let word = u32::from_be_bytes(word);
            for place in 0..4 {
                let letter = LETTERS[(word >> (18 - 6 * place)) as usize & 63];
                let letter = if place > three.len() { b'=' } else { letter };
                text.push(char::from(letter));
            }
        }
        text.push('\n');
    }
    text + &format!("-----END {kind}-----\n")
}

pub(crate) fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + 24 * HOUR).into();
    params
}

pub(crate) fn workload(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.serial_number = Some(SerialNumber::from(vec![0x4d, 2, 3]));
    params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.to_owned().try_into().unwrap())
}

/// A handshake to its end: what each side says.
pub(crate) fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (
    Result<ClientConnection, Refusal>,
    Result<ServerConnection, Refusal>,
) {
    let mut client = ClientConnection::new(client, tls::name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_says, mut server_says) = (None, None);
    while client_says.is_none() && server_says.is_none() {
        let moved = carry(&mut client, &mut server, &mut server_says)
            + carry(&mut server, &mut client, &mut client_says);
        if moved == 0 {
            break;
        }
    }
    // Who refuses tells the other one.
    carry(&mut client, &mut server, &mut server_says);
    carry(&mut server, &mut client, &mut client_says);
    let ended = |says: Option<Refusal>| says.map_or(Ok(()), Err);
    (
        ended(client_says).map(|()| client),
        ended(server_says).map(|()| server),
    )
}

fn carry<From: SideData, To: SideData>(
    from: &mut ConnectionCommon<From>,
    to: &mut ConnectionCommon<To>,
    says: &mut Option<Refusal>,
) -> usize {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() && says.is_none() {
        to.read_tls(&mut rest).unwrap();
        if let Err(error) = to.process_new_packets() {
            *says = Some(Refusal::of_tls(&error));
        }
    }
    bytes.len()
}

/// Sends a line through: the handshake has really led to keys that both have.
pub(crate) fn talks(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> io::Result<bool> {
    client.writer().write_all(b"over TLS")?;
    let mut says = None;
    carry(client, server, &mut says);
    let mut got = [0; 8];
    server.reader().read_exact(&mut got)?;
    Ok(&got == b"over TLS" && says.is_none())
}
