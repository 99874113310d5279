//! Certificates for nodes, in files, as an operator would hand them out: one authority, and a
//! folder for each workload that can be written again while it is read.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use sidelane_identity::files::Files;
use sidelane_identity::{Identity, Source};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::secrets;

/// The trust domain of these meshes.
pub const DOMAIN: &str = "mesh.example";
/// As long as no test takes.
pub const LONG: Duration = Duration::from_secs(3600);

/// Who signs.
#[derive(Debug)]
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    root: String,
    der: Vec<u8>,
    folder: TempDir,
}

/// A workload's files.
#[derive(Debug)]
pub struct Certificate {
    /// Its certificate.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The roots.
    pub roots: PathBuf,
    /// The folder with the files of control's own.
    pub(crate) control: PathBuf,
    id: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A root that nobody has heard of before.
    ///
    /// # Panics
    /// If there is no room for its files.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        // Two roots of one name would be told apart by their signatures only.
        let name = folder.path().display().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (SystemTime::now() - LONG).into();
        params.not_after = (SystemTime::now() + 24 * LONG).into();
        let root = params.self_signed(&key).unwrap();
        let authority = Self {
            params,
            key,
            root: root.pem(),
            der: root.der().to_vec(),
            folder,
        };
        let id = format!("spiffe://{DOMAIN}/ns/sidelane/sa/control");
        let _ = authority.issue_as("control.own", id, LONG);
        authority
    }

    /// Its root, DER.
    #[must_use]
    pub fn root_der(&self) -> Vec<u8> {
        self.der.clone()
    }

    /// The SPIFFE id of a service account of these meshes.
    #[must_use]
    pub fn id(account: &str) -> String {
        format!("spiffe://{DOMAIN}/ns/test/sa/{account}")
    }

    /// A certificate for this service account, for so long.
    ///
    /// # Panics
    /// If its files cannot be written.
    #[must_use]
    pub fn issue(&self, account: &str, life: Duration) -> Certificate {
        self.issue_as(account, Self::id(account), life)
    }

    /// A certificate for this service account, as somebody signs it whose clock says something else:
    /// from then until then.
    ///
    /// # Panics
    /// If its files cannot be written.
    #[must_use]
    pub fn issue_between(&self, account: &str, times: Range<SystemTime>) -> Certificate {
        let certificate = self.issue(account, LONG);
        let (chain, key) = self.signed_between(&certificate.id, times);
        write(&certificate.key, &key.serialize_pem());
        write(&certificate.chain, &chain.pem());
        certificate
    }

    fn issue_as(&self, folder: &str, id: String, life: Duration) -> Certificate {
        let folder = self.folder.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        let certificate = Certificate {
            chain: folder.join("chain.pem"),
            key: folder.join("key.pem"),
            roots: folder.join("roots.pem"),
            control: self.folder.path().join("control.own"),
            id,
        };
        write(&certificate.roots, &self.root);
        self.renew(&certificate, life);
        certificate
    }

    /// Writes another certificate and key in place of the ones before, one file after the other.
    ///
    /// # Panics
    /// If its files cannot be written.
    pub fn renew(&self, certificate: &Certificate, life: Duration) {
        let (chain, key) = self.signed(&certificate.id, life);
        write(&certificate.key, &key.serialize_pem());
        write(&certificate.chain, &chain.pem());
    }

    /// A certificate for this identity, and its private key in PKCS#8, both DER.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn mint(&self, id: &str, life: Duration) -> (Vec<u8>, Vec<u8>) {
        let (chain, key) = self.signed(id, life);
        (chain.der().to_vec(), key.serialize_der())
    }

    /// Whatever is asked of it, signed, DER.
    ///
    /// # Panics
    /// If it cannot be.
    #[must_use]
    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().der().to_vec()
    }

    fn signed(&self, id: &str, life: Duration) -> (rcgen::Certificate, KeyPair) {
        let now = SystemTime::now();
        self.signed_between(id, now - Duration::from_secs(60)..now + life)
    }

    fn signed_between(&self, id: &str, times: Range<SystemTime>) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        secrets::hide_key(id, &key.serialize_der());
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = times.start.into();
        params.not_after = times.end.into();
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap(), key)
    }
}

impl Certificate {
    /// For a client or server of the test's own.
    ///
    /// # Panics
    /// If its files are wrong.
    #[must_use]
    pub fn source(&self) -> (watch::Sender<Option<Arc<Identity>>>, Source) {
        let files = Files {
            chain: self.chain.clone(),
            key: self.key.clone(),
            roots: self.roots.clone(),
        };
        let identity = files.read(SystemTime::now()).unwrap();
        watch::channel(Some(Arc::new(identity)))
    }

    /// A line of the private key, which must never be seen anywhere else.
    ///
    /// # Panics
    /// If its file cannot be read.
    #[must_use]
    pub fn secret(&self) -> String {
        let text = fs::read_to_string(&self.key).unwrap();
        text.lines().nth(1).unwrap().trim().to_owned()
    }
}

/// In one step, and never readable for others.
fn write(path: &Path, text: &str) {
    let beside = path.with_extension("next");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// A root that names this trust domain as control's own do, PEM; nobody has its key.
///
/// # Panics
/// If the domain is no name.
#[must_use]
pub fn domain_root(domain: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let uri = format!("spiffe://{domain}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.self_signed(&key).unwrap().pem()
}
