//! The pages of the admin HTTP server.

use std::fmt::Write;
use std::sync::Arc;

use sidelane_process::admin::{AdminResponse, Pages, StatusCode};

use super::View;
use super::metrics;

/// Prometheus text format, version 0.0.4.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/livez`: the process answers. `/readyz`: 200 while sidecars may come, 503 otherwise; its text
/// also names what is wrong while control serves all the same, because taking a control plane out
/// of service for a full disk would make things worse. `/metrics`: figures.
#[must_use]
pub fn pages(view: &Arc<View>) -> Pages {
    let (ready, figures) = (Arc::clone(view), Arc::clone(view));
    Pages::new()
        .get("/livez", |_| async { AdminResponse::text("alive\n") })
        .get("/readyz", move |_| {
            let view = Arc::clone(&ready);
            async move { readiness(&view) }
        })
        .get("/metrics", move |_| {
            let view = Arc::clone(&figures);
            async move {
                AdminResponse {
                    content_type: METRICS_TYPE,
                    ..AdminResponse::text(metrics::text(&view).await)
                }
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
