//! Certificates and TLS for the pairs that run in mTLS: one authority and a P-256 certificate for
//! each end, the same kind for all pairs, in files. A certificate has a SPIFFE id, by which Envoy and
//! Sidelane know their peer, and a DNS name, by which rustls' own verifiers know it: so the bare pair
//! is rustls and nothing of Sidelane's.

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The application protocol of all.
pub(crate) const ALPN: &str = "h2";

/// Longer than any run: no certificate is renewed while it is measured.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// Clocks of one machine agree; this is for whoever sets it back a little.
const BEFORE: Duration = Duration::from_secs(300);

/// Who shows a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Sidelane's control plane.
    Control,
    /// The proxy beside the echo server.
    Callee,
    /// The proxy that takes the load.
    Caller,
    /// The benchmark itself, where it times connections.
    Dialler,
}

impl End {
    const ALL: [Self; 4] = [Self::Control, Self::Callee, Self::Caller, Self::Dialler];

    /// As its files are called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Callee => "callee",
            Self::Caller => "caller",
            Self::Dialler => "dialler",
        }
    }

    fn dns(self) -> String {
        format!("{}.bench.example", self.name())
    }

    /// Its SPIFFE id.
    pub(crate) fn id(self) -> String {
        // Sidecars know control by its place in the trust domain.
        let namespace = match self {
            Self::Control => "sidelane",
            Self::Callee | Self::Caller | Self::Dialler => "bench",
        };
        format!("spiffe://bench.example/ns/{namespace}/sa/{}", self.name())
    }
}

/// A folder with the root and the certificates and keys of all ends, in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Certificates(PathBuf);

impl Certificates {
    /// Those that were made in this folder.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Makes an authority and signs for every end.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let made = Self::in_folder(folder);
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut root = CertificateParams::default();
        root.distinguished_name
            .push(DnType::CommonName, "sidelane-bench");
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        lives(&mut root);
        let signed = root.self_signed(&key).context("cannot sign the root")?;
        write(&made.roots(), &signed.pem())?;
        let issuer = Issuer::from_params(&root, &key);
        for end in End::ALL {
            let key = KeyPair::generate().context("cannot make a key")?;
            let mut leaf = CertificateParams::default();
            leaf.subject_alt_names = vec![
                SanType::URI(end.id().try_into()?),
                SanType::DnsName(end.dns().try_into()?),
            ];
            leaf.is_ca = IsCa::ExplicitNoCa;
            leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            leaf.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ];
            lives(&mut leaf);
            let signed = leaf.signed_by(&key, &issuer).context("cannot sign")?;
            write(&made.chain(end), &signed.pem())?;
            write(&made.key(end), &key.serialize_pem())?;
        }
        Ok(made)
    }

    /// Where they are.
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// The root.
    pub(crate) fn roots(&self) -> PathBuf {
        self.0.join("roots.pem")
    }

    /// The certificate of an end.
    pub(crate) fn chain(&self, end: End) -> PathBuf {
        self.0.join(format!("{}.pem", end.name()))
    }

    /// Its private key.
    pub(crate) fn key(&self, end: End) -> PathBuf {
        self.0.join(format!("{}.key", end.name()))
    }

    /// Takes TLS 1.3 from whoever shows a certificate of the root, as `end`.
    pub(crate) fn acceptor(&self, end: End) -> Result<TlsAcceptor> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.trusted()?), provider());
        let verifier = verifier.build().context("the root is no root")?;
        let (chain, key) = self.shown(end)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.into()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Dials TLS 1.3 as `end`.
    pub(crate) fn connector(&self, end: End) -> Result<TlsConnector> {
        let (chain, key) = self.shown(end)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.trusted()?)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.into()];
        config.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn trusted(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let path = self.roots();
        let root = CertificateDer::from_pem_file(&path);
        roots.add(root.with_context(|| format!("cannot read {}", path.display()))?)?;
        Ok(roots)
    }

    fn shown(&self, end: End) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let (path, key) = (self.chain(end), self.key(end));
        let chain = CertificateDer::from_pem_file(&path);
        let chain = chain.with_context(|| format!("cannot read {}", path.display()))?;
        let key = PrivateKeyDer::from_pem_file(&key)
            .with_context(|| format!("cannot read {}", key.display()))?;
        Ok((vec![chain], key))
    }
}

/// The name by which a dialler means this end.
pub(crate) fn name(end: End) -> Result<ServerName<'static>> {
    ServerName::try_from(end.dns()).context("no DNS name")
}

/// As rustls comes, with no preference of ours.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn lives(certificate: &mut CertificateParams) {
    let now = SystemTime::now();
    certificate.not_before = (now - BEFORE).into();
    certificate.not_after = (now + LIFE).into();
}

/// Keys are for their owner alone, or a sidecar refuses them.
fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    async fn meet(acceptor: &TlsAcceptor, connector: &TlsConnector, meant: End) -> io::Result<u8> {
        let (near, far) = duplex(64 * 1024);
        let (dialled, accepted) = tokio::join!(
            connector.connect(name(meant).unwrap(), near),
            acceptor.accept(far)
        );
        // Who dials is done before its certificate was looked at, so the acceptor is asked first.
        let (mut accepted, mut dialled) = (accepted?, dialled?);
        assert_eq!(dialled.get_ref().1.alpn_protocol(), Some(ALPN.as_bytes()));
        accepted.write_u8(7).await?;
        accepted.flush().await?;
        dialled.read_u8().await
    }

    #[tokio::test]
    async fn ends_of_one_folder_believe_each_other_and_nobody_else() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [own, other] = folders
            .each_ref()
            .map(|folder| Certificates::make(folder.path()).unwrap());
        let acceptor = own.acceptor(End::Callee).unwrap();
        let of = |certificates: &Certificates| certificates.connector(End::Caller).unwrap();
        assert_eq!(
            meet(&acceptor, &of(&own), End::Callee).await.unwrap(),
            7,
            "of one folder"
        );
        let wrong = meet(&acceptor, &of(&own), End::Dialler).await;
        assert!(wrong.is_err(), "another end was meant");
        let wrong = meet(&acceptor, &of(&other), End::Callee).await;
        assert!(wrong.is_err(), "of another authority");
    }
}
