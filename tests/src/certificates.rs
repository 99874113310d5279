//! Certificates for nodes, in files, as an operator would hand them out: one authority, and a
//! folder for each workload that can be written again while it is read.

use std::fs;
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
        let root = params.self_signed(&key).unwrap().pem();
        Self {
            params,
            key,
            root,
            folder,
        }
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
        let folder = self.folder.path().join(account);
        fs::create_dir_all(&folder).unwrap();
        let certificate = Certificate {
            chain: folder.join("chain.pem"),
            key: folder.join("key.pem"),
            roots: folder.join("roots.pem"),
            id: Self::id(account),
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
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(certificate.id.clone().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (SystemTime::now() + life).into();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let chain = params.signed_by(&key, &issuer).unwrap().pem();
        write(&certificate.key, &key.serialize_pem());
        write(&certificate.chain, &chain);
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
