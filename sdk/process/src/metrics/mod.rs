//! What the `/metrics` pages of both programs have in common: the formats in which they are read,
//! and the figures of the process itself. A program writes its figures once, as Prometheus text with
//! exemplars where it has any, and each reader gets them in the format that it asks for.

mod accept;
mod openmetrics;
mod own;

pub use openmetrics::from_text;
pub use own::{Own, own};

use crate::admin::{AdminRequest, AdminResponse};

/// Prometheus' text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// `OpenMetrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page for who asks for it so. `text` is Prometheus text 0.0.4, in which lines of buckets may
/// end with an exemplar, as `OpenMetrics` writes it.
#[must_use]
pub fn page(request: &AdminRequest, text: &str) -> AdminResponse {
    if accept::wants_openmetrics(&request.accept) {
        AdminResponse {
            content_type: OPENMETRICS,
            ..AdminResponse::text(from_text(text))
        }
    } else {
        AdminResponse {
            content_type: TEXT,
            ..AdminResponse::text(openmetrics::without_exemplars(text))
        }
    }
}
