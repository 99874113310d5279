//! What the pages say of this sidecar's certificate: whose, which, until when, and how its renewals
//! went. Nothing of its key is known here.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::discover::Holder;
use crate::telemetry::{heading, line};
use crate::trust::Trust;

/// For `/config`; null in trust mode `disabled`.
pub(super) fn describe(trust: &Trust) -> Value {
    trust.present().map_or(Value::Null, |present| {
        let svid = present.svid();
        json!({
            "identity": svid.id().as_str(),
            "serial": svid.serial().to_string(),
            "until": unix(svid.not_after()),
            "roots": present.bundle().roots().len(),
            "revoked": present.revoked().len(),
        })
    })
}

/// Why no peer believes this sidecar now.
pub(super) fn complaint(trust: &Trust) -> Option<String> {
    let present = trust.present()?;
    let ago = SystemTime::now().duration_since(present.svid().not_after());
    let ago = ago.ok().filter(|ago| !ago.is_zero())?.as_secs();
    Some(format!(
        "the certificate ended {ago} s ago, and is not renewed yet"
    ))
}

/// For `/metrics`.
pub(super) fn render(text: &mut String, trust: &Trust, holder: Option<&Holder>) {
    if let Some(present) = trust.present() {
        let name = "sidelane_certificate_expires_seconds";
        let help = "When the present certificate ends, in seconds since 1970.";
        heading(text, name, "gauge", help);
        line(text, name, "", unix(present.svid().not_after()));
    }
    let Some(figures) = holder.map(Holder::figures) else {
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
