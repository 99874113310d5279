//! The pages of the admin HTTP server.

use std::fmt::Write;
use std::sync::Arc;

use sidelane_process::admin::{AdminResponse, Pages, StatusCode};
use sidelane_process::metrics;

use super::View;
use super::metrics as figures;

/// `/livez`: the process answers. `/readyz`: 200 while sidecars may come, 503 otherwise; its text
/// also names what is wrong while control serves all the same, because taking a control plane out
/// of service for a full disk would make things worse. `/metrics`: figures.
#[must_use]
pub fn pages(view: &Arc<View>) -> Pages {
    let (ready, figured) = (Arc::clone(view), Arc::clone(view));
    Pages::new()
        .get("/livez", |_| async { AdminResponse::text("alive\n") })
        .get("/readyz", move |_| {
            let view = Arc::clone(&ready);
            async move { readiness(&view) }
        })
        .get("/metrics", move |request| {
            let view = Arc::clone(&figured);
            async move {
                let text = figures::text(&view).await + &metrics::own().await.text();
                metrics::page(&request, &text)
            }
        })
}

fn readiness(view: &View) -> AdminResponse {
    if !view.ready.get() {
        let text = "not ready: control is starting or stopping\n";
        return AdminResponse::text(text).with_status(StatusCode::SERVICE_UNAVAILABLE);
    }
    let troubles = view.troubles();
    if troubles.is_empty() {
        return AdminResponse::text("ready\n");
    }
    let mut text = "ready, with trouble:\n".to_owned();
    for trouble in troubles {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- {trouble}");
    }
    AdminResponse::text(text)
}
