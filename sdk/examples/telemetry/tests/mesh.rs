//! The project's lane, strategy and demand at work: real processes, real calls.

#![allow(
    clippy::unwrap_used,
    reason = "what a test cannot go on without ends it"
)]

mod support;

use std::time::Duration;

use sidelane::sender::Bound;
use support::{Caller, Mesh, OWN, STOCK, opening_window};

use telemetry::demand::TimeLimits;
use telemetry::metrics::v1::samples_client::SamplesClient;
use telemetry::metrics::v1::{PushRequest, SamplesServiceRouting};
use tonic::codegen::{Body, Bytes};

/// The lane's, as the proto says.
const WINDOW: u32 = 131_072;

/// By a client that is bound to the rule of its service.
async fn push(caller: &Caller) -> Result<(String, String), tonic::Status> {
    let bound = Bound::<SamplesServiceRouting>::connect_to(&caller.target).await;
    push_over(bound.unwrap()).await
}

/// By a client that knows nothing but the service.
async fn push_plainly(caller: &Caller) -> Result<(String, String), tonic::Status> {
    push_over(sidelane::channel_to(&caller.target).await.unwrap()).await
}

async fn push_over<T>(way: T) -> Result<(String, String), tonic::Status>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let mut samples = SamplesClient::new(way);
    let request = PushRequest {
        series: "cpu".to_owned(),
        value: 0.5,
    };
    let answer = samples.push(request).await?.into_inner();
    Ok((answer.collector, answer.lane))
}

/// Calls until the answer is from this collector, and at most 20 s.
async fn until_answered_by(caller: &Caller, collector: &str) {
    let mut last = String::new();
    for _ in 0..400 {
        match push_plainly(caller).await {
            Ok((from, _)) if from == collector => return,
            other => last = format!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{collector} does not answer: {last}");
}

#[tokio::test]
async fn calls_travel_in_the_projects_lane_and_go_where_its_strategy_says() {
    let mut mesh = Mesh::start(OWN).await;
    mesh.collector("collector-1").await;
    mesh.collector("collector-2").await;
    let app = mesh.caller(OWN, "app").await;
    until_answered_by(&app, "collector-1").await;

    for _ in 0..50 {
        let answer = push(&app).await.unwrap();
        assert_eq!(answer, ("collector-1".to_owned(), "telemetry".to_owned()));
    }

    let config = app.config();
    let lanes = config["lanes"].as_array().unwrap();
    let lane = lanes.iter().find(|lane| lane["lane"] == "telemetry");
    assert_eq!(lane.unwrap()["stream_window"], WINDOW);
    // What the collector's sidecar says to whoever opens a link in lane 20, class Internal.
    let collector = || (mesh.internal("collector-1"), mesh.shown("app"));
    assert_eq!(opening_window(collector(), 20, 1).await, WINDOW);
    assert_ne!(opening_window(collector(), 0, 1).await, WINDOW);

    mesh.kill("collector-1");
    until_answered_by(&app, "collector-2").await;
}

#[tokio::test]
async fn a_sidecar_that_was_not_built_with_the_lane_follows_the_offer() {
    let mut mesh = Mesh::start(STOCK).await;
    mesh.collector("collector-1").await;
    let stranger = mesh.caller(STOCK, "stranger").await;
    until_answered_by(&stranger, "collector-1").await;
    let (_, lane) = push_plainly(&stranger).await.unwrap();
    assert_eq!(lane, "telemetry");
}

const UNTIMED: &str = "rules:
  - service: metrics.v1.Reports
    connection: INTERNAL
    lane: general
";

#[tokio::test]
async fn the_projects_demand_is_made_at_apply() {
    let mesh = Mesh::start(OWN).await;
    let applied = mesh.apply(UNTIMED);
    assert!(!applied.status.success());
    let text = String::from_utf8(applied.stderr).unwrap();
    for part in ["timeout", "every service of ours says", "time-limits"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn the_projects_demand_is_made_where_a_rule_is_received() {
    // A control plane that does not know the demand takes the rule; the sidecar does not.
    let mut mesh = Mesh::start(STOCK).await;
    mesh.serving("reports-1", "metrics.v1.Reports").await;
    let applied = mesh.apply(UNTIMED);
    let text =
        String::from_utf8(applied.stdout).unwrap() + &String::from_utf8_lossy(&applied.stderr);
    assert!(!applied.status.success(), "{text}");
    for part in ["reports-1", "time-limits"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_projects_demand_is_made_by_the_build() {
    let folder = tempfile::tempdir().unwrap();
    let proto = "syntax = \"proto3\";
package metrics.v1;
import \"sidelane/routing/v1/routing.proto\";
service Reports {
  option (sidelane.routing.v1.service) = { connection: INTERNAL lane: \"general\" };
  rpc Get(Empty) returns (Empty);
}
message Empty {}
";
    std::fs::write(folder.path().join("reports.proto"), proto).unwrap();
    let built = sidelane_build::configure()
        .protos(&[folder.path()])
        .out_dir(folder.path().join("out"))
        .validation(TimeLimits)
        .build();
    let text = built.unwrap_err().to_string();
    for part in [
        "reports.proto:5:",
        "every service of ours says",
        "time-limits",
    ] {
        assert!(text.contains(part), "{text}");
    }
}
