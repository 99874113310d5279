//! The server over real sockets, spoken to byte by byte where a client library would be too kind.

use std::net::SocketAddr;
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::server::{Times, connection, serve_within};
use super::*;
use crate::fetch;

const LIMIT: Duration = Duration::from_secs(10);

struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(pages: Pages) -> Self {
        Self::start_for(Times::REAL, pages).await
    }

    async fn start_within(read: Duration, age: Duration, pages: Pages) -> Self {
        let times = Times {
            read,
            age,
            ..Times::REAL
        };
        Self::start_for(times, pages).await
    }

    async fn start_for(times: Times, pages: Pages) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve_within(times, listener, pages, async {
            stopped.await.unwrap();
        }));
        Self {
            address,
            stop: Some(stop),
            task,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends bytes and reads until the server closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        rest(&mut stream).await
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good an end as any.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn pages() -> Pages {
    Pages::new()
        .get("/livez", |_| async { AdminResponse::text("alive\n") })
        .get("/echo", |request| async move {
            AdminResponse::json(&serde_json::json!({
                "method": request.method.as_str(),
                "path": request.path,
                "for": request.parameter("for"),
                "pairs": request.query,
                "loopback": request.peer.ip().is_loopback(),
            }))
        })
        .get("/fails", |_| async { panic!("as this test wants it") })
        .post("/drain", |request| async move {
            AdminResponse::text(format!("{} bytes\n", request.body.len()))
                .with_status(StatusCode::ACCEPTED)
        })
}

#[tokio::test]
async fn pages_answer_and_hear_their_query() {
    let server = Server::start(pages()).await;
    let alive = fetch::get(&server.url("/livez"), LIMIT).await.unwrap();
    assert_eq!(
        (alive.status, alive.text().as_str()),
        (StatusCode::OK, "alive\n")
    );
    let echo = fetch::get(&server.url("/echo?for=in%20bound&x="), LIMIT)
        .await
        .unwrap();
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&echo.body).unwrap(),
        serde_json::json!({
            "method": "GET",
            "path": "/echo",
            "for": "in bound",
            "pairs": [["for", "in bound"], ["x", ""]],
            "loopback": true,
        })
    );
    let drain = fetch::post(&server.url("/drain"), Bytes::from_static(b"now"), LIMIT).await;
    let drain = drain.unwrap();
    assert_eq!(
        (drain.status, drain.text().as_str()),
        (StatusCode::ACCEPTED, "3 bytes\n")
    );
    server.stop().await;
}

/// A page that goes on, and what it says: each asker is given out as the sender of its pieces.
fn going_on() -> (Pages, mpsc::UnboundedReceiver<mpsc::Sender<Bytes>>) {
    let (askers, asked) = mpsc::unbounded_channel();
    let pages = Pages::new().stream("/goes-on", move |request| {
        let askers = askers.clone();
        async move {
            if request.parameter("no").is_some() {
                let text = AdminResponse::text("not now\n");
                return Err(text.with_status(StatusCode::SERVICE_UNAVAILABLE));
            }
            let (sender, mut pieces) = mpsc::channel(1);
            askers.send(sender).unwrap();
            let next = move |context: &mut Context<'_>| pieces.poll_recv(context);
            Ok(AdminStream::new("application/x-ndjson", next))
        }
    });
    (pages, asked)
}

async fn begun(server: &Server) -> fetch::Lines {
    let begun = fetch::lines(&server.url("/goes-on"), LIMIT).await;
    begun.unwrap().unwrap()
}

#[tokio::test]
async fn a_page_that_goes_on_is_read_piece_by_piece() {
    let (pages, mut asked) = going_on();
    let server = Server::start(pages).await;
    let mut lines = begun(&server).await;
    let sender = asked.recv().await.unwrap();
    // In lines, however they come.
    for (piece, expected) in [
        ("one\n", &["one"] as &[_]),
        ("two\nthree\nfo", &["two", "three"]),
        ("ur\n\n", &["four", ""]),
    ] {
        sender.send(piece.into()).await.unwrap();
        for expected in expected {
            assert_eq!(lines.next().await.unwrap().as_deref(), Some(*expected));
        }
    }
    sender.send("the end".into()).await.unwrap();
    drop(sender);
    assert_eq!(lines.next().await.unwrap().as_deref(), Some("the end"));
    assert_eq!(lines.next().await.unwrap(), None);
    // Who does not get it is told why.
    let refused = fetch::lines(&server.url("/goes-on?no"), LIMIT).await;
    let refused = refused.unwrap().unwrap_err();
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "not now\n")
    );
    // Who leaves is missed at once.
    let lines = begun(&server).await;
    let sender = asked.recv().await.unwrap();
    drop(lines);
    timeout(LIMIT, sender.closed()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_page_that_goes_on_ends_with_the_server_and_not_before() {
    let (pages, mut asked) = going_on();
    let times = Times {
        age: Duration::from_millis(200),
        ..Times::REAL
    };
    let server = Server::start_for(times, pages).await;
    let mut lines = begun(&server).await;
    let sender = asked.recv().await.unwrap();
    for number in 0..10 {
        sender.send(format!("{number}\n").into()).await.unwrap();
        let line = lines.next().await.unwrap();
        assert_eq!(line, Some(number.to_string()));
        tokio::time::sleep(times.age / 4).await;
    }
    server.stop().await;
    assert_eq!(lines.next().await.unwrap(), None);
    assert!(sender.is_closed());
}

#[tokio::test]
async fn a_page_that_goes_on_has_an_end_where_nobody_ends_it() {
    let (pages, mut asked) = going_on();
    let times = Times {
        age: Duration::from_millis(50),
        stream: Duration::from_millis(200),
        ..Times::REAL
    };
    let server = Server::start_for(times, pages).await;
    let mut lines = begun(&server).await;
    let sender = asked.recv().await.unwrap();
    assert_eq!(lines.next().await.unwrap(), None);
    assert!(sender.is_closed());
    server.stop().await;
}

#[tokio::test]
async fn who_does_not_read_what_goes_on_loses_its_place() {
    let (pages, mut asked) = going_on();
    let times = Times {
        stall: Duration::from_millis(200),
        last_answer: Duration::from_millis(50),
        ..Times::REAL
    };
    let server = Server::start_for(times, pages).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = b"GET /goes-on HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let sender = asked.recv().await.unwrap();
    let piece = Bytes::from(vec![b'x'; 256 * 1024]);
    let filling = async { while sender.send(piece.clone()).await.is_ok() {} };
    timeout(LIMIT, filling).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_line_without_an_end_is_not_read_for_ever() {
    let (pages, mut asked) = going_on();
    let server = Server::start(pages).await;
    let mut lines = begun(&server).await;
    let sender = asked.recv().await.unwrap();
    let piece = Bytes::from(vec![b'x'; 64 * 1024]);
    let filling = async { while sender.send(piece.clone()).await.is_ok() {} };
    let reading = async {
        let error = lines.next().await.unwrap_err().to_string();
        assert!(error.contains("a line is longer than"), "{error}");
        drop(lines);
    };
    timeout(LIMIT, async { tokio::join!(filling, reading) })
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test]
async fn who_is_elsewhere_may_look_and_change_nothing() {
    // Somebody else's address, as the kernel would say it.
    let elsewhere: SocketAddr = "192.0.2.7:4711".parse().unwrap();
    let asked = async |bytes: &[u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, accepted) = tokio::join!(near, listener.accept());
        let times = Times::REAL;
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let pages = std::sync::Arc::new(pages());
        let (mut near, (stream, _)) = (near.unwrap(), accepted.unwrap());
        let serving = tokio::spawn(connection(times, stream, elsewhere, pages, stopped));
        near.write_all(bytes).await.unwrap();
        let answer = rest(&mut near).await;
        serving.await.unwrap();
        answer
    };
    let drain =
        b"POST /drain HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let refused = asked(drain).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert!(refused.contains("for this machine alone"), "{refused}");
    let alive = asked(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(alive.ends_with("alive\n"), "{alive}");
}

#[tokio::test]
async fn what_is_not_there_names_what_is() {
    let server = Server::start(pages()).await;
    let missing = fetch::get(&server.url("/healthz"), LIMIT).await.unwrap();
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(
        missing.text(),
        "no such page; there are GET /livez, GET /echo, GET /fails, POST /drain\n"
    );
    let wrong = server
        .raw(b"GET /drain HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(
        wrong.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"),
        "{wrong}"
    );
    assert!(wrong.contains("\r\nallow: POST\r\n"), "{wrong}");
    assert!(
        wrong.ends_with("GET is not for this page; use POST\n"),
        "{wrong}"
    );
    server.stop().await;
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Server::start(pages()).await;
    let head = server
        .raw(b"HEAD /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-length: 6\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    server.stop().await;
}

#[tokio::test]
async fn bounds_are_kept() {
    let server = Server::start(pages()).await;
    let large = Bytes::from(vec![b'x'; BODY_LIMIT]);
    let fits = fetch::post(&server.url("/drain"), large, LIMIT)
        .await
        .unwrap();
    assert_eq!(fits.text(), "65536 bytes\n");

    let declared = b"POST /drain HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 65537\r\n\r\n";
    let refused = server.raw(declared).await;
    assert!(
        refused.starts_with("HTTP/1.1 413 Payload Too Large\r\n"),
        "{refused}"
    );
    assert!(
        refused.ends_with("the body is larger than 65536 bytes\n"),
        "{refused}"
    );

    let mut chunked =
        b"POST /drain HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n10001\r\n"
            .to_vec();
    chunked.extend(vec![b'x'; BODY_LIMIT + 1]);
    chunked.extend(b"\r\n0\r\n\r\n");
    let refused = server.raw(&chunked).await;
    assert!(
        refused.starts_with("HTTP/1.1 413 Payload Too Large\r\n"),
        "{refused}"
    );

    let long = format!(
        "GET /livez HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "x".repeat(HEADER_LIMIT)
    );
    let refused = server.raw(long.as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 431 "), "{refused}");

    let broken = server
        .raw(b"GET /echo?a=%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(
        broken.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{broken}"
    );
    server.stop().await;
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let server = Server::start_within(Duration::from_millis(50), CONNECTION_AGE, pages()).await;
    server.raw(b"GET /livez HTTP/1.1\r\nhost").await;
    let body = server
        .raw(b"POST /drain HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\r\n12")
        .await;
    assert!(
        body.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{body}"
    );
    // A connection that was used and is idle since.
    let idle = server.raw(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(idle.ends_with("alive\n"), "{idle}");
    server.stop().await;
}

#[tokio::test]
async fn connections_end_with_age() {
    let server = Server::start_within(READ_TIME, Duration::from_millis(50), pages()).await;
    let started = tokio::time::Instant::now();
    server.raw(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        started.elapsed() < READ_TIME,
        "it ended by age, not by idleness"
    );
    server.stop().await;
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_a_place() {
    let server = Server::start(pages()).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTION_LIMIT {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        held.push(stream);
    }
    let mut late = TcpStream::connect(server.address).await.unwrap();
    late.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0];
    let waits = tokio::time::timeout(Duration::from_millis(100), late.read(&mut first)).await;
    assert!(waits.is_err(), "it was served above the limit");
    held.pop();
    assert!(rest(&mut late).await.ends_with("alive\n"));
    server.stop().await;
}

#[tokio::test]
async fn a_page_that_panics_takes_only_its_connection_along() {
    let server = Server::start(pages()).await;
    assert!(matches!(
        fetch::get(&server.url("/fails"), LIMIT).await,
        Err(fetch::FetchError::NotHttp { .. })
    ));
    assert_eq!(
        fetch::get(&server.url("/livez"), LIMIT)
            .await
            .unwrap()
            .text(),
        "alive\n"
    );
    server.stop().await;
}

#[tokio::test]
async fn pages_of_another_origin_cannot_act() {
    let server = Server::start(pages()).await;
    let post = |origin: &str| {
        format!(
            "POST /drain HTTP/1.1\r\nhost: localhost:1\r\norigin: {origin}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
    };
    let foreign = server.raw(post("http://evil.example").as_bytes()).await;
    assert!(
        foreign.starts_with("HTTP/1.1 403 Forbidden\r\n"),
        "{foreign}"
    );
    let opaque = server.raw(post("null").as_bytes()).await;
    assert!(opaque.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{opaque}");
    let own = server.raw(post("http://localhost:1").as_bytes()).await;
    assert!(own.starts_with("HTTP/1.1 202 Accepted\r\n"), "{own}");
    server.stop().await;
}

#[tokio::test]
async fn a_name_that_leads_here_grants_nothing() {
    let (going_on, mut asked) = going_on();
    let pages = going_on
        .get("/near", |request| async move {
            AdminResponse::text(format!("near: {}\n", request.near))
        })
        .post("/drain", |_| async { AdminResponse::text("draining\n") });
    let server = Server::start(pages).await;
    let ask = async |what: &str, headers: &str| {
        let end = "content-length: 0\r\nconnection: close";
        let request = format!("{what} HTTP/1.1\r\n{headers}{end}\r\n\r\n");
        server.raw(request.as_bytes()).await
    };
    for (headers, allowed) in [
        ("", true),
        ("host: localhost:1\r\n", true),
        ("host: 127.0.0.1:1\r\nsec-fetch-site: same-origin\r\n", true),
        ("host: 127.0.0.1:1\r\nsec-fetch-site: none\r\n", true),
        ("host: evil.example:1\r\n", false),
        (
            "host: evil.example:1\r\norigin: http://evil.example:1\r\n",
            false,
        ),
        ("host: 127.0.0.1:1\r\nsec-fetch-site: cross-site\r\n", false),
        ("host: 127.0.0.1:1\r\nsec-fetch-site: same-site\r\n", false),
        (
            "host: 127.0.0.1:1\r\norigin: http://evil.example\r\n",
            false,
        ),
    ] {
        let expected = if allowed {
            "HTTP/1.1 200 "
        } else {
            "HTTP/1.1 403 "
        };
        let drain = ask("POST /drain", headers).await;
        assert!(drain.starts_with(expected), "{headers}: {drain}");
        let ending = async {
            while let Some(sender) = asked.recv().await {
                drop(sender);
            }
        };
        let going_on = tokio::select! {
            going_on = ask("GET /goes-on", headers) => going_on,
            () = ending => unreachable!("the server has them"),
        };
        assert!(going_on.starts_with(expected), "{headers}: {going_on}");
    }
    let near = ask("GET /near", "host: localhost\r\n").await;
    assert!(near.ends_with("near: true\n"), "{near}");
    let named = ask("GET /near", "host: evil.example\r\n").await;
    assert!(named.ends_with("near: false\n"), "{named}");
    server.stop().await;
}

#[tokio::test]
async fn an_end_lets_the_answer_under_way_finish() {
    let (entered, entry) = oneshot::channel::<()>();
    let (release, released) = oneshot::channel::<()>();
    let once = std::sync::Mutex::new(Some((entered, released)));
    let pages = Pages::new().get("/slow", move |_| {
        let (entered, released) = once.lock().unwrap().take().unwrap();
        async move {
            entered.send(()).unwrap();
            released.await.unwrap();
            AdminResponse::text("finished\n")
        }
    });
    let mut server = Server::start(pages).await;
    let url = server.url("/slow");
    let client = tokio::spawn(async move { fetch::get(&url, LIMIT).await });
    entry.await.unwrap();
    server.stop.take().unwrap().send(()).unwrap();
    release.send(()).unwrap();
    assert_eq!(client.await.unwrap().unwrap().text(), "finished\n");
    server.task.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
