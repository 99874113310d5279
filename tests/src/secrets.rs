//! Nothing secret is seen anywhere: what every process of every test writes, what every admin page
//! answers and what every command complains of is searched for the keys, tokens and join secrets of
//! this test program, in each form in which one could slip out. A test need not ask for it.
//!
//! Secrets are found where processes are told of them: the files that flags name, the variable
//! `SIDELANE_TOKEN`, and what lies in a mesh's own folder. Who makes one otherwise says [`hide`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use sidelane_identity::token::{JoinFile, JoinToken};

/// Each form of a secret, and what it is of.
static FORMS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
/// The last answer to each question that an admin port was asked: secrets may become known after it.
static PAGES: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
/// Flags that name files with secrets.
const FLAGS: [&str; 3] = ["--identity-key", "--tls-key", "--token-file"];
/// Flags that name files which are a secret as they stand: tokens of a cluster's.
const WHOLE: [&str; 2] = ["--service-account-token", "--kubernetes-token"];
/// What no output has, whatever secret it is. A token's text goes on after its name.
const ALWAYS: [&str; 1] = ["PRIVATE KEY-----"];
const TOKENS: [&str; 2] = ["sidelane-token-1.", "sidelane-join-1."];
/// A shorter text could be somewhere by chance.
const SHORTEST: usize = 16;
/// How a P-256 key's PKCS#8 goes on after its first three bytes, and how long all of it is.
const PKCS8: [u8; 14] = [
    2, 1, 0, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1,
];
const PKCS8_LENGTH: usize = 138;
/// In PKCS#8 the private number of a P-256 key begins here (RFC 5958, RFC 5915).
const NUMBER: std::ops::Range<usize> = 36..68;

/// These bytes are a secret.
pub fn hide(what: &str, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let listed: Vec<String> = bytes.iter().take(12).map(ToString::to_string).collect();
    let forms = [
        hex.to_uppercase(),
        hex,
        // As Rust prints a list, on one line.
        listed.join(", "),
        STANDARD.encode(bytes),
        STANDARD_NO_PAD.encode(bytes),
        URL_SAFE_NO_PAD.encode(bytes),
    ];
    for form in forms {
        hide_text(what, &form);
    }
}

/// This text is a secret.
pub fn hide_text(what: &str, text: &str) {
    if text.len() >= SHORTEST {
        let mut forms = FORMS.lock().unwrap_or_else(PoisonError::into_inner);
        forms.insert(text.to_owned(), what.to_owned());
    }
}

/// This private key, DER, is a secret.
pub fn hide_key(what: &str, der: &[u8]) {
    hide(what, der);
    if let Some(number) = der.get(NUMBER) {
        hide(what, number);
    }
}

/// What this file holds is a secret: private keys, a token, or a join file. Certificates beside a key
/// are none.
pub fn hide_file(path: &Path) {
    let Ok(text) = std::fs::read_to_string(path) else {
        return;
    };
    let what = path.display().to_string();
    let text = text.trim();
    if let Ok(token) = JoinToken::parse(text) {
        hide_text(&what, text);
        hide(&what, &*token.secret);
    }
    if let Ok(join) = JoinFile::parse(text) {
        hide_text(&what, text);
        hide(&what, &*join.secret);
    }
    let mut key: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with("-----") {
            let der = key.take().and_then(|lines| STANDARD.decode(lines).ok());
            if let Some(der) = der {
                hide_key(&what, &der);
            }
            let begins = line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY");
            key = begins.then(String::new);
        } else if let Some(lines) = &mut key {
            hide_text(&what, line);
            lines.push_str(line);
        }
    }
}

/// The secrets that a program is given by its arguments and variables.
pub fn hide_given(arguments: &[String], variables: &[(String, String)]) {
    for (flag, path) in arguments.iter().zip(arguments.iter().skip(1)) {
        if FLAGS.contains(&flag.as_str()) {
            hide_file(Path::new(path));
        }
        if WHOLE.contains(&flag.as_str()) {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            hide_text(path, text.trim());
        }
    }
    for (name, value) in variables {
        if name == "SIDELANE_TOKEN" {
            hide_text(name, value);
            if let Ok(token) = JoinToken::parse(value) {
                hide(name, &*token.secret);
            }
        }
    }
}

/// The secrets that the processes of a mesh have left in its folder.
pub fn hide_left(folder: &Path) {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries(folder) {
        let path = entry.path();
        if path.extension().is_some_and(|it| it == "data") {
            hide_file(&path.join("identity.pem"));
        } else if path.extension().is_some_and(|it| it == "token") {
            hide_file(&path);
        }
    }
    for entry in entries(&folder.join("sidelane")) {
        hide_file(&entry.path());
    }
    // The authority's own keys stand in control's store, as they are.
    for entry in entries(&folder.join("control.data")) {
        hide_keys_in(&entry.path());
    }
}

/// Private keys that stand somewhere in this file are secrets. Says how many there are.
pub fn hide_keys_in(path: &Path) -> usize {
    let bytes = std::fs::read(path).unwrap_or_default();
    let begins = bytes.windows(PKCS8.len()).enumerate();
    let begins = begins.filter(|(_, window)| *window == PKCS8);
    let keys = begins.filter_map(|(at, _)| {
        let at = at.checked_sub(3)?;
        bytes.get(at..at + PKCS8_LENGTH)
    });
    keys.map(|key| hide_key(&path.display().to_string(), key))
        .count()
}

/// The secret that is in this text, by what it is of, if one is.
#[must_use]
pub fn seen_in(text: &str) -> Option<String> {
    if let Some(always) = ALWAYS.iter().find(|always| text.contains(**always)) {
        return Some(format!("`{always}`"));
    }
    let token = |name: &&&str| {
        let mut rest = text.split(**name).skip(1);
        rest.any(|rest| {
            let is_digit = |it: &char| it.is_ascii_alphanumeric() || "-_+/=.".contains(*it);
            rest.chars().take_while(is_digit).count() >= SHORTEST
        })
    };
    if let Some(name) = TOKENS.iter().find(token) {
        return Some(format!("a text after `{name}`"));
    }
    let forms = FORMS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = forms.iter().find(|(form, _)| text.contains(form.as_str()));
    found.map(|(form, what)| format!("`{form}` of {what}"))
}

/// Fails the test if a secret is in this answer of an admin port, now or once more secrets are known.
///
/// # Panics
/// If so.
pub fn assert_none_in_page(question: &str, body: &str) {
    assert_none(question, body);
    let mut pages = PAGES.lock().unwrap_or_else(PoisonError::into_inner);
    pages.insert(question.to_owned(), body.to_owned());
}

/// Fails the test if a secret is in one of the pages that were answered.
///
/// # Panics
/// If so.
pub fn assert_none_in_pages() {
    let pages = PAGES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some((question, secret)) = seen_in_pages(&pages) {
        panic!("a secret is seen in the answer to {question}: {secret}");
    }
}

fn seen_in_pages(pages: &BTreeMap<String, String>) -> Option<(&str, String)> {
    let mut seen = pages
        .iter()
        .filter_map(|(question, body)| Some((question.as_str(), seen_in(body)?)));
    seen.next()
}

/// Fails the test if a secret is in what `place` has said.
///
/// # Panics
/// If so.
pub fn assert_none(place: &str, text: &str) {
    if let Some(secret) = seen_in(text) {
        panic!("a secret is seen in {place}: {secret}, in\n{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Output, Process};
    use crate::run::Run;

    #[test]
    fn a_key_is_seen_in_each_of_its_forms_and_its_certificate_is_no_secret() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let certificate = rcgen::CertificateParams::default().self_signed(&pair);
        let certificate = certificate.unwrap().pem();
        std::fs::write(&path, format!("{}{certificate}", pair.serialize_pem())).unwrap();
        let line = pair.serialize_pem().lines().nth(1).map(str::to_owned);
        assert_eq!(seen_in(&line.unwrap()), None, "not hidden yet");
        hide_given(&["--identity-key".into(), path.display().to_string()], &[]);
        assert_eq!(seen_in(&certificate), None);
        let der = pair.serialize_der();
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        for form in [
            pair.serialize_pem(),
            pair.serialize_pem().lines().nth(1).unwrap().to_owned(),
            hex(&der),
            hex(&der[NUMBER]),
            STANDARD.encode(&der[NUMBER]),
            format!("{der:?}"),
            format!("PrivateKey({:?})", &der[NUMBER]),
        ] {
            let log = format!("INFO it is so key={form}");
            assert!(seen_in(&log).is_some(), "{log}");
        }
    }

    #[test]
    fn what_lies_in_a_meshs_folder_is_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("orders.data");
        std::fs::create_dir(&data).unwrap();
        let pair = rcgen::KeyPair::generate().unwrap();
        std::fs::write(data.join("identity.pem"), pair.serialize_pem()).unwrap();
        let line = pair.serialize_pem().lines().nth(1).unwrap().to_owned();
        assert_eq!(seen_in(&line), None);
        hide_left(folder.path());
        assert!(seen_in(&line).is_some());
    }

    #[test]
    fn keys_within_a_store_are_hidden_and_pages_are_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("control.data");
        std::fs::create_dir(&data).unwrap();
        let (one, other) = (
            rcgen::KeyPair::generate().unwrap().serialize_der(),
            rcgen::KeyPair::generate().unwrap().serialize_der(),
        );
        let store = [&b"store"[..], &one, b"between", &other, b"end"].concat();
        std::fs::write(data.join("store.redb"), store).unwrap();
        let text = |key: &[u8]| STANDARD.encode(&key[NUMBER]);
        let pages = BTreeMap::from([("GET /told-early".to_owned(), text(&other))]);
        assert_eq!(seen_in_pages(&pages), None);
        hide_left(folder.path());
        for key in [&one, &other] {
            assert!(seen_in(&text(key)).is_some());
        }
        let (question, secret) = seen_in_pages(&pages).unwrap();
        assert_eq!(question, "GET /told-early");
        assert!(secret.contains("store.redb"), "{secret}");
    }

    #[test]
    fn tokens_are_seen_without_being_hidden() {
        assert!(seen_in("token=sidelane-token-1.AAAAAAAAAAAAAAAAAAAAAAAA").is_some());
        assert!(seen_in("sidelane-join-1.AAAAAAAAAAAAAAAAAAAAAAAA").is_some());
        assert_eq!(
            seen_in("a token begins with sidelane-token-1. and goes on"),
            None
        );
    }

    #[tokio::test]
    async fn a_process_that_tells_a_secret_fails_its_test() {
        let told = tokio::spawn(async {
            let folder = tempfile::tempdir().unwrap();
            let script = "echo \"it is sidelane-token-1.AAAAAAAAAAAAAAAAAAAAAAAA\" >&2";
            let process = Process::start(
                "it",
                Path::new("/bin/sh"),
                vec!["-c".to_owned(), script.to_owned()],
                folder.path(),
                Output::Logged,
            );
            let process = process.await;
            process.exited(std::time::Duration::from_secs(10)).await;
        });
        assert!(told.await.unwrap_err().is_panic());
        let told = Run::of("/bin/sh").with(["-c", "echo '-----BEGIN PRIVATE KEY-----' >&2"]);
        let told = tokio::spawn(told.to_its_end()).await;
        assert!(told.unwrap_err().is_panic());
    }
}
