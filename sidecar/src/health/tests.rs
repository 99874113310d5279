//! Looks at real servers on loopback: what each says, and what is made of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Instant;

use futures_util::stream::Stream;
use sidelane_proto::model::PeerAddress;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthService, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::*;

const LIMIT: Duration = Duration::from_millis(400);

/// What a health service says of each name; of others `NOT_FOUND`.
#[derive(Clone)]
enum Says {
    Status(ServingStatus),
    Fails(Status),
    Hangs,
}

#[derive(Clone, Default)]
struct Fake(Arc<HashMap<&'static str, Says>>);

#[tonic::async_trait]
impl HealthService for Fake {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        assert!(request.metadata().get("grpc-timeout").is_some());
        match self.0.get(request.get_ref().service.as_str()) {
            None => Err(Status::not_found("no such service")),
            Some(Says::Fails(status)) => Err(status.clone()),
            Some(Says::Hangs) => std::future::pending().await,
            Some(Says::Status(status)) => Ok(Response::new(HealthCheckResponse {
                status: (*status).into(),
            })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        panic!("nobody asks for an open stream")
    }
}

async fn server(says: &[(&'static str, Says)]) -> SocketAddr {
    let fake = Fake(Arc::new(says.iter().cloned().collect()));
    connections(move |stream| {
        let fake = fake.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let (head, body) = request.into_parts();
                let service = HealthServer::new(fake.clone());
                tokio::spawn(async move {
                    let _ = crate::http2::serve(service, head, body, respond).await;
                });
            }
        }
    })
    .await
}

async fn connections<F, H>(handle: F) -> SocketAddr
where
    F: Fn(TcpStream) -> H + Send + 'static,
    H: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}

fn at(address: SocketAddr) -> Address {
    Address::Tcp(PeerAddress::new(&address.to_string()).unwrap())
}

fn named(names: &[&str]) -> Vec<ServiceName> {
    names
        .iter()
        .map(|it| ServiceName::new(it).unwrap())
        .collect()
}

async fn looked(address: SocketAddr, names: &[&str], by: CheckBy) -> Vec<Finding> {
    let onward = Onward::default();
    probe::look(&at(address), &named(names), (by, LIMIT), &onward).await
}

async fn outcome(says: &[(&'static str, Says)]) -> Outcome {
    let address = server(says).await;
    looked(address, &["a.A"], CheckBy::Grpc).await[0].outcome
}

#[tokio::test]
async fn a_health_service_is_taken_at_its_word() {
    use ServingStatus::*;
    let says = |status| ("a.A", Says::Status(status));
    assert_eq!(outcome(&[says(Serving)]).await, Outcome::Serving);
    assert_eq!(outcome(&[says(NotServing)]).await, Outcome::NotServing);
    assert_eq!(outcome(&[says(Unknown)]).await, Outcome::NotServing);
}

#[tokio::test]
async fn a_name_that_it_does_not_know_goes_by_the_server_as_a_whole() {
    use ServingStatus::*;
    let whole = |status| ("", Says::Status(status));
    assert_eq!(outcome(&[whole(Serving)]).await, Outcome::Serving);
    assert_eq!(outcome(&[whole(NotServing)]).await, Outcome::NotServing);
    let unknown = ("a.A", Says::Status(ServiceUnknown));
    assert_eq!(
        outcome(&[unknown, whole(NotServing)]).await,
        Outcome::NotServing
    );
    assert_eq!(outcome(&[]).await, Outcome::Connects);
}

#[tokio::test]
async fn where_there_is_nothing_to_ask_a_connection_is_enough() {
    let fails = |status| [("a.A", Says::Fails(status))];
    for none in [
        Status::unimplemented("no such service"),
        Status::permission_denied("not for you"),
        Status::unauthenticated("who are you?"),
    ] {
        assert_eq!(outcome(&fails(none)).await, Outcome::Connects);
    }
    let address = server(&[("a.A", Says::Status(ServingStatus::NotServing))]).await;
    let findings = looked(address, &["a.A"], CheckBy::Tcp).await;
    assert_eq!(findings[0].outcome, Outcome::Connects);
}

#[tokio::test]
async fn a_look_ends_in_time_and_says_why_it_failed() {
    let ill = Says::Fails(Status::unavailable("the database is away"));
    let address = server(&[("a.A", ill)]).await;
    let findings = looked(address, &["a.A"], CheckBy::Grpc).await;
    let why = "its health service answers Unavailable: the database is away";
    assert_eq!(findings, [Finding::new(Outcome::Silent, why)]);

    // What one service does not say keeps nothing from being heard of the others.
    let well = Says::Status(ServingStatus::Serving);
    let address = server(&[("a.A", Says::Hangs), ("a.B", well)]).await;
    let begun = Instant::now();
    let findings = looked(address, &["a.A", "a.B"], CheckBy::Grpc).await;
    assert!(begun.elapsed() >= LIMIT);
    assert_eq!(
        findings[0],
        Finding::new(Outcome::Silent, "no answer within 400 ms")
    );
    assert_eq!(findings[1].outcome, Outcome::Serving);

    let accepts_only = connections(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    let findings = looked(accepts_only.await, &["a.A"], CheckBy::Grpc).await;
    assert_eq!(
        findings,
        [Finding::new(Outcome::Silent, "no answer within 400 ms")]
    );

    let closes = connections(|stream| async move { drop(stream) }).await;
    let findings = looked(closes, &["a.A"], CheckBy::Grpc).await;
    assert_eq!(findings[0].outcome, Outcome::Silent, "{findings:?}");

    let other = connections(|mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        std::future::pending::<()>().await;
    });
    let findings = looked(other.await, &["a.A"], CheckBy::Grpc).await;
    assert_eq!(findings[0].outcome, Outcome::Silent, "{findings:?}");
    assert!(
        findings[0].why.starts_with("the connection ended"),
        "{findings:?}"
    );
}

#[tokio::test]
async fn nobody_there_is_told_from_somebody_who_is_silent() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let findings = looked(address, &["a.A"], CheckBy::Grpc).await;
    assert_eq!(findings[0].outcome, Outcome::Refused);
    let path = std::path::PathBuf::from("/nowhere/at.sock");
    let onward = Onward::default();
    let how = (CheckBy::Grpc, LIMIT);
    let findings = probe::look(&Address::Unix(path), &named(&["a.A"]), how, &onward).await;
    assert_eq!(findings[0].outcome, Outcome::Refused);
}

#[tokio::test]
async fn more_services_than_are_asked_about_at_once_are_all_asked_about() {
    let says = |name| (name, Says::Status(ServingStatus::Serving));
    let names: Vec<&'static str> = (0..50)
        .map(|number| &*Box::leak(format!("a.S{number}").into_boxed_str()))
        .collect();
    let address = server(&names.iter().copied().map(says).collect::<Vec<_>>()).await;
    let findings = looked(address, &names, CheckBy::Grpc).await;
    assert_eq!(findings.len(), 50);
    assert!(
        findings.iter().all(|it| it.outcome == Outcome::Serving),
        "{findings:?}"
    );
}

#[tokio::test]
async fn a_look_is_known_as_a_connection_of_the_sidecars_own() {
    let (told, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let address = connections(move |stream| {
        let told = told.clone();
        async move {
            told.send((stream.peer_addr().unwrap(), stream.local_addr().unwrap()))
                .unwrap();
            // Answers nothing, so that the look is under way for its whole limit.
            std::future::pending::<()>().await;
            drop(stream);
        }
    })
    .await;
    let onward = Onward::default();
    let (address, services) = (at(address), named(&["a.A"]));
    let looking = probe::look(&address, &services, (CheckBy::Grpc, LIMIT), &onward);
    let meanwhile = async {
        let (from, to) = ends.recv().await.unwrap();
        while !onward.has_opened(from, to) {
            tokio::task::yield_now().await;
        }
        (from, to)
    };
    let (_, (from, to)) = tokio::join!(looking, meanwhile);
    assert!(
        !onward.has_opened(from, to),
        "it counts as open after its end"
    );
}

#[tokio::test]
async fn a_dial_that_fails_fells_all_services_of_its_address() {
    let address = server(&[("", Says::Status(ServingStatus::Serving))]).await;
    let names = named(&["a.A", "a.B"]);
    let given = names.iter().map(|name| (name.clone(), at(address)));
    let other = (
        named(&["b.B"]).remove(0),
        at("127.0.0.1:1".parse().unwrap()),
    );
    let local = LocalServices::new(given.chain([other]).collect(), |_| None);
    let health = LocalHealth::new(&local, Checks::default());
    health.look(&Onward::default()).await;
    assert_eq!(health.of(&names[0]), Health::Healthy);
    assert_eq!(
        health.complaints(),
        ["no answer from the local service at 127.0.0.1:1"]
    );
    health.failed(&at(address), &"it broke");
    assert_eq!(health.of(&names[0]), Health::Unhealthy);
    assert_eq!(health.of(&names[1]), Health::Unhealthy);
    assert_eq!(health.complaints().len(), 2);
    let described = &health.describe()[0];
    assert_eq!(described["health"], "unhealthy");
    assert_eq!(described["why"], "it broke");
    for _ in 0..Checks::default().healthy_after {
        health.look(&Onward::default()).await;
    }
    assert_eq!(health.of(&names[1]), Health::Healthy);
    let mut text = String::new();
    health.render(&mut text);
    for expected in [
        "sidelane_health_looks_total{result=\"serving\"} 6\n",
        "sidelane_health_looks_total{result=\"refused\"} 3\n",
        "sidelane_local_service_healthy{service=\"a.B\"} 1\n",
        "sidelane_local_service_healthy{service=\"b.B\"} 0\n",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

/// Its listener goes a moment after its connections.
#[tokio::test]
async fn a_doubted_address_is_looked_at_more_than_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let name = named(&["a.A"]).remove(0);
    let local = LocalServices::new([(name.clone(), at(address))].into(), |_| None);
    let checks = Checks {
        by: CheckBy::Tcp,
        interval: Duration::from_secs(3_600),
        ..Checks::default()
    };
    let health = LocalHealth::new(&local, checks);
    let onward = Onward::default();
    health.look(&onward).await;
    assert_eq!(health.of(&name), Health::Healthy);
    health.changed.notified().await;
    let closing = async {
        listener.accept().await.unwrap();
        health.doubted(&at(address));
        // The look that comes of it finds it open still.
        listener.accept().await.unwrap();
        drop(listener);
        health.changed.notified().await;
    };
    tokio::select! {
        () = health.follow(&health.places[0], &onward) => unreachable!(),
        told = timeout(Duration::from_secs(30), closing) => told.unwrap(),
    }
    assert_eq!(health.of(&name), Health::Unhealthy);
}
