//! Identities from files: what is taken, what is refused by name, and what a change does.

#![allow(clippy::unwrap_used)] // What fails in a function here fails its test.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use sidelane_identity::files::{Files, LOOK_EVERY};
use sidelane_identity::{Moment, Svid, SvidError};
use support::{Authority, BILLING, ORDERS, armour, pem, workload};
use tempfile::TempDir;
use tokio::sync::watch;

struct Folder {
    folder: TempDir,
    files: Files,
}

impl Folder {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let files = Files {
            chain: folder.path().join("chain.pem"),
            key: folder.path().join("key.pem"),
            roots: folder.path().join("roots.pem"),
        };
        Self { folder, files }
    }

    fn of(root: &Authority, id: &str) -> Self {
        let folder = Self::new();
        folder.chain_and_key(&root.pem(&workload(id)));
        folder.roots(&pem(std::slice::from_ref(&root.der)));
        folder
    }

    fn chain_and_key(&self, (chain, key): &(String, String)) {
        fs::write(&self.files.chain, chain).unwrap();
        self.key(key);
    }

    fn key(&self, key: &str) {
        fs::write(&self.files.key, key).unwrap();
        self.mode(0o600);
    }

    fn mode(&self, mode: u32) {
        fs::set_permissions(&self.files.key, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn roots(&self, roots: &str) {
        fs::write(&self.files.roots, roots).unwrap();
    }

    /// What is said of the files, without the folder's name.
    fn says(&self) -> String {
        let error = match self.files.read(SystemTime::now()) {
            Ok(_) => return "fine".to_owned(),
            Err(error) => error.to_string(),
        };
        let folder = format!("{}/", self.folder.path().display());
        error.replace(&folder, "")
    }
}

#[test]
fn three_files_are_an_identity() {
    let root = Authority::root("root");
    let folder = Folder::of(&root, ORDERS);
    let identity = folder.files.read(SystemTime::now()).unwrap();
    assert_eq!(identity.svid().id().as_str(), ORDERS);
    assert_eq!(identity.bundle().roots(), std::slice::from_ref(&root.der));
    folder.mode(0o400);
    assert_eq!(folder.says(), "fine");
}

#[test]
fn each_wrong_file_is_named_with_what_is_wrong() {
    let root = Authority::root("root");
    let right = || Folder::of(&root, ORDERS);

    let folder = right();
    folder.mode(0o640);
    let wanted = "key.pem has mode 640, so others may read the private key: chmod 600 key.pem";
    assert_eq!(folder.says(), wanted);

    let folder = right();
    fs::remove_file(&folder.files.chain).unwrap();
    assert_eq!(folder.says(), "chain.pem cannot be read: entity not found");

    let folder = right();
    fs::write(&folder.files.roots, vec![b'-'; 256 * 1024 + 1]).unwrap();
    assert_eq!(folder.says(), "roots.pem is longer than 262144 bytes");

    let folder = right();
    folder.key(&KeyPair::generate().unwrap().serialize_pem());
    let wanted = "chain.pem and key.pem: the private key does not fit the certificate: the two \
                  are not of one signing";
    assert_eq!(folder.says(), wanted);

    let folder = right();
    folder.key("-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n-----END PRIVATE KEY-----\n");
    assert!(folder.says().contains("the private key cannot be used"));
    folder.key("-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n");
    assert!(
        folder.says().contains("it is no whole PEM"),
        "{}",
        folder.says()
    );
    folder.key("");
    assert!(
        folder
            .says()
            .contains("no `-----BEGIN PRIVATE KEY-----` is in it")
    );

    let folder = right();
    fs::write(&folder.files.chain, "").unwrap();
    assert!(
        folder
            .says()
            .contains("no `-----BEGIN CERTIFICATE-----` is in it")
    );

    let folder = right();
    folder.roots(&pem(&root.leaf(|_| {})));
    let wanted = "roots.pem: root 1 cannot sign certificates: it is no authority's (basic \
                  constraints)";
    assert_eq!(folder.says(), wanted);
    folder.roots(&pem(&vec![root.der.clone(); 17]));
    assert_eq!(
        folder.says(),
        "roots.pem: a bundle has 1 to 16 roots, not 17"
    );

    let folder = right();
    folder.roots(&pem(&[Authority::root("other").der]));
    let wanted = "chain.pem: no peer would take this certificate: no root of the bundle that is \
                  still valid signed the certificate";
    assert_eq!(folder.says(), wanted);

    let folder = right();
    let mut ended = workload(ORDERS);
    let end = SystemTime::now() - Duration::from_secs(5);
    ended.not_after = end.into();
    folder.chain_and_key(&root.pem(&ended));
    let said = folder.says();
    let wanted = format!(
        "chain.pem: no peer would take this certificate: the certificate has expired: it ended at \
         {}, and it is past 20",
        Moment::of(end)
    );
    assert!(said.starts_with(&wanted), "{said}");
    assert!(said.ends_with("check the clocks of both sides"), "{said}");

    let folder = right();
    let below = root.below("below", |_| {});
    let (chain, key) = below.pem(&workload(ORDERS));
    folder.chain_and_key(&(chain.clone(), key.clone()));
    assert_eq!(folder.says(), "fine");
    let mixed = chain + &pem(&[Authority::root("stranger").der]);
    folder.chain_and_key(&(mixed, key));
    let wanted = "chain.pem and key.pem: certificate 3 of the chain is not the issuer of the one \
                  before it: the workload's comes first, then who signed it, and so on; the root \
                  stays in the bundle";
    assert_eq!(folder.says(), wanted);
}

#[test]
fn keys_come_in_three_forms() {
    let root = Authority::root("root");
    let leaf = workload(ORDERS);
    for (kind, inside, key) in [
        ("EC PRIVATE KEY", true, KeyPair::generate().unwrap()),
        ("PRIVATE KEY", false, KeyPair::generate().unwrap()),
        (
            "RSA PRIVATE KEY",
            true,
            KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap(),
        ),
        (
            "PRIVATE KEY",
            false,
            KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        ),
    ] {
        let chain = pem(&root.sign(&leaf, &key));
        let der = key.serialize_der();
        let der = if inside { inner(&der) } else { &der };
        let svid = Svid::from_pem(chain.as_bytes(), armour(kind, der).as_bytes());
        assert_eq!(
            svid.map(|svid| svid.id().to_string()),
            Ok(ORDERS.to_owned()),
            "{kind}"
        );
    }
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let chain = pem(&root.sign(&leaf, &p521));
    let refused = Svid::from_pem(chain.as_bytes(), p521.serialize_pem().as_bytes()).err();
    assert!(matches!(refused, Some(SvidError::Leaf(_))), "{refused:?}");
}

/// The octet string within PKCS#8 (RFC 5958 §2): SEC1 for P-256, PKCS#1 for RSA.
fn inner(pkcs8: &[u8]) -> &[u8] {
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, head) = match der[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            _ => (usize::from(u16::from_be_bytes([der[2], der[3]])), 4),
        };
        (&der[head..head + length], &der[head + length..])
    }
    let (_version, rest) = element(element(pkcs8).0);
    let (_algorithm, rest) = element(rest);
    element(rest).0
}

#[tokio::test(start_paused = true)]
async fn a_change_is_followed_and_a_torn_one_is_not() {
    let root = Authority::root("root");
    let folder = Folder::of(&root, ORDERS);
    let (present, mut source) = watch::channel(None);
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&said);
    let following = tokio::spawn(folder.files.clone().follow(present, move |news| {
        let text = match news {
            Ok(identity) => identity.svid().id().to_string(),
            Err(error) => error.to_string(),
        };
        heard.lock().unwrap().push(text);
    }));
    let present = |source: &sidelane_identity::Source| {
        let held = source.borrow().clone();
        held.map(|held| held.svid().chain()[0].clone())
    };
    source.changed().await.unwrap();
    let first = present(&source);

    // The key of the next certificate is there, the certificate is not.
    let next = root.pem(&workload(ORDERS));
    folder.key(&next.1);
    tokio::time::sleep(LOOK_EVERY * 3).await;
    assert_eq!(present(&source), first);
    folder.chain_and_key(&next);
    tokio::time::sleep(LOOK_EVERY * 2).await;
    let second = present(&source);
    assert_ne!(second, first);

    // Half of a file.
    fs::write(&folder.files.chain, &next.0[..next.0.len() / 2]).unwrap();
    tokio::time::sleep(LOOK_EVERY * 3).await;
    assert_eq!(present(&source), second);
    folder.chain_and_key(&next);
    tokio::time::sleep(LOOK_EVERY * 3).await;
    assert_eq!(present(&source), second);

    // Somebody else's.
    folder.chain_and_key(&root.pem(&workload(BILLING)));
    tokio::time::sleep(LOOK_EVERY * 3).await;
    assert_eq!(present(&source), second);

    let said = said.lock().unwrap().clone();
    assert_eq!(said.len(), 6, "{said:?}");
    assert_eq!(said[0], ORDERS);
    assert!(said[1].contains("does not fit"), "{}", said[1]);
    assert_eq!(said[2], ORDERS);
    assert!(said[3].contains("no whole PEM"), "{}", said[3]);
    // What was wrong is mended: the same as before.
    assert_eq!(said[4], ORDERS);
    assert!(said[5].contains("starts anew"), "{}", said[5]);
    let secret: String = next.1.lines().skip(1).take(1).collect();
    assert!(said.iter().all(|line| !line.contains(&secret)));

    drop(source);
    following.await.unwrap();
}
