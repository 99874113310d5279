//! What the pages say of this sidecar's certificate: whose, which, until when, and how its renewals
//! went. Nothing of its key is known here.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::origin::Origin;
use crate::telemetry::{heading, line};
use crate::trust::Trust;

/// For `/config`; null in trust mode `disabled`.
pub(super) fn describe(trust: &Trust, origin: &Origin) -> Value {
    trust.present().map_or(Value::Null, |present| {
        let svid = present.svid();
        json!({
            "identity": svid.id().as_str(),
            "source": {
                "kind": origin.kind(),
                "place": origin.place(),
                "trouble": origin.trouble().as_deref(),
            },
            "serial": svid.serial().to_string(),
            "until": unix(svid.not_after()),
            "roots": present.bundle().roots().len(),
            "revoked": present.revoked().len(),
        })
    })
}

/// Why no peer believes this sidecar now.
pub(super) fn complaint(trust: &Trust, origin: &Origin) -> Option<String> {
    let ago = trust.ended(SystemTime::now())?.as_secs();
    let why = origin.trouble().map(|why| format!(": {why}"));
    Some(format!(
        "the certificate ended {ago} s ago, and is not renewed yet{}",
        why.unwrap_or_default()
    ))
}

/// For `/metrics`.
pub(super) fn render(text: &mut String, trust: &Trust, origin: &Origin) {
    if let Some(present) = trust.present() {
        let name = "sidelane_certificate_expires_seconds";
        let help = "When the present certificate ends, in seconds since 1970.";
        heading(text, name, "gauge", help);
        line(text, name, "", unix(present.svid().not_after()));
    }
    if let Some(kind) = origin.kind() {
        let name = "sidelane_certificate_source_info";
        let help = "Where the certificate comes from: control, files or spiffe. Always 1.";
        heading(text, name, "gauge", help);
        line(text, name, &format!("source=\"{kind}\""), 1);
    }
    let Some(figures) = origin.figures() else {
        return;
    };
    for (name, help, value) in [
        (
            "sidelane_certificate_renewals_total",
            "Certificates that took the place of another one.",
            figures.renewed,
        ),
        (
            "sidelane_certificate_renewal_failures_total",
            "Attempts to renew the certificate that came to nothing.",
            figures.failed,
        ),
    ] {
        heading(text, name, "counter", help);
        line(text, name, "", value);
    }
}

fn unix(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
