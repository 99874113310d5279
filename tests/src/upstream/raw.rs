//! Servers that do what no gRPC library would: they answer frame by frame, so that a test can end
//! an answer where it should not end. The test gives a function that is called for each request.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::cluster::LocalService;

/// h2 sends a reset in place of what still waits to be sent, so what is meant to arrive before it
/// needs this time to leave.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// Takes what must live until the connection is closed: an answer that was dropped before would be
/// reset.
type HangUp = mpsc::Sender<Box<dyn Send>>;

/// A server that answers frame by frame. It ends with this value.
#[derive(Debug)]
pub struct RawUpstream {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

/// One request, and the means to answer it.
#[derive(Debug)]
pub struct RawRequest {
    /// Its headers.
    pub head: Request<()>,
    /// Its body.
    pub body: RecvStream,
    /// For its answer.
    pub answer: RawAnswer,
}

/// An answer to be.
#[derive(Debug)]
pub struct RawAnswer {
    respond: SendResponse<Bytes>,
    hang_up: HangUp,
}

/// An answer whose headers are sent.
#[derive(Debug)]
pub struct RawBody {
    stream: SendStream<Bytes>,
    hang_up: HangUp,
}

impl RawUpstream {
    /// A server that gives each request to `answer`, but for health checks: sidecars ask every
    /// server, and this one says that it has none.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(RawRequest) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        Self::answering(answer, false).await
    }

    /// A server that gives each request to `answer`, health checks too.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn with_health<F, A>(answer: F) -> Self
    where
        F: Fn(RawRequest) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        Self::answering(answer, true).await
    }

    async fn answering<F, A>(answer: F, with_health: bool) -> Self
    where
        F: Fn(RawRequest) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let answer = Arc::new(answer);
        Self::connections(move |stream| serve(stream, answer.clone(), with_health)).await
    }

    /// A server that gives each connection to `handle`, whatever is spoken there.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn connections<F, H>(handle: F) -> Self
    where
        F: Fn(TcpStream) -> H + Send + Sync + 'static,
        H: Future<Output = ()> + Send + 'static,
    {
        let runtime = super::own_runtime("raw");
        let bound = runtime.spawn(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = bound.await.expect("binding does not panic");
        let listener = listener.expect("a free port on 127.0.0.1");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(handle(stream));
            }
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl LocalService for RawUpstream {
    fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve<F, A>(stream: TcpStream, answer: Arc<F>, with_health: bool)
where
    F: Fn(RawRequest) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    // Health checks connect and go away again; that is no failure.
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let (hang_up, mut hung_up) = mpsc::channel(1);
    loop {
        let accepted = tokio::select! {
            biased;
            last = hung_up.recv() => {
                drop(connection);
                drop(last);
                return;
            }
            accepted = connection.accept() => accepted,
        };
        let Some(Ok((request, mut respond))) = accepted else {
            return;
        };
        if !with_health && request.uri().path().starts_with("/grpc.health.v1.") {
            let none = head(StatusCode::OK, &[("grpc-status", "12")]);
            let _ = respond.send_response(none, true);
            continue;
        }
        let (head, body) = request.into_parts();
        let request = RawRequest {
            head: Request::from_parts(head, ()),
            body,
            answer: RawAnswer {
                respond,
                hang_up: hang_up.clone(),
            },
        };
        tokio::spawn(answer(request));
    }
}

impl RawRequest {
    /// Reads the request to its end.
    ///
    /// # Panics
    /// If it breaks off.
    pub async fn read_all(&mut self) -> Bytes {
        let mut all = Vec::new();
        while let Some(data) = self.body.data().await {
            let data = data.expect("the request goes on to its end");
            let freed = self.body.flow_control().release_capacity(data.len());
            freed.expect("what was received can be released");
            all.extend_from_slice(&data);
        }
        all.into()
    }
}

impl RawRequest {
    /// What ends the request, once it was read.
    ///
    /// # Panics
    /// If it breaks off.
    pub async fn trailers(&mut self) -> http::HeaderMap {
        let trailers = self.body.trailers().await;
        trailers.expect("the request ends").unwrap_or_default()
    }
}

impl RawAnswer {
    /// Sends headers with this status and `content-type: application/grpc`, and these more; a body
    /// follows.
    ///
    /// # Panics
    /// If the stream has ended.
    #[must_use]
    pub fn begin(mut self, status: StatusCode, headers: &[(&str, &str)]) -> RawBody {
        let head = head(status, headers);
        let stream = self.respond.send_response(head, false);
        RawBody {
            stream: stream.expect("an answer can begin"),
            hang_up: self.hang_up,
        }
    }

    /// Sends these headers as the whole answer and, if given, `RST_STREAM` behind it.
    ///
    /// # Panics
    /// If the stream has ended.
    pub fn only_headers(
        mut self,
        status: StatusCode,
        headers: &[(&str, &str)],
        then: Option<Reason>,
    ) {
        let head = head(status, headers);
        let sent = self.respond.send_response(head, true);
        reset_later(sent.expect("an answer can be sent"), then);
    }

    /// Answers with `RST_STREAM` and nothing else.
    pub fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Waits until the caller resets the stream, and says with which reason; for ever where it does
    /// not.
    pub async fn caller_resets(&mut self) -> Reason {
        let reset = std::future::poll_fn(|context| self.respond.poll_reset(context)).await;
        match reset {
            Ok(reason) => reason,
            // Its connection ended.
            Err(_) => std::future::pending().await,
        }
    }

    /// Closes the whole connection without a word.
    pub fn hang_up(self) {
        let hang_up = self.hang_up.clone();
        // Full or closed: somebody else hangs up at this moment.
        let _ = hang_up.try_send(Box::new(self));
    }
}

impl RawBody {
    /// Sends a gRPC message of these bytes.
    ///
    /// # Panics
    /// If the stream has ended.
    pub fn message(&mut self, message: &[u8]) {
        self.bytes(&crate::client::framed(message));
    }

    /// Sends these bytes as they are.
    ///
    /// # Panics
    /// If the stream has ended.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let data = Bytes::copy_from_slice(bytes);
        self.stream
            .send_data(data, false)
            .expect("data can be sent");
    }

    /// Ends the answer with these trailers and, if given, `RST_STREAM` behind them.
    ///
    /// # Panics
    /// If the stream has ended.
    pub fn trailers(mut self, trailers: &[(&str, &str)], then: Option<Reason>) {
        let sent = self.stream.send_trailers(headers(trailers));
        sent.expect("trailers can be sent");
        reset_later(self.stream, then);
    }

    /// Ends the answer as if it were whole, without trailers.
    ///
    /// # Panics
    /// If the stream has ended.
    pub fn end(mut self) {
        self.stream
            .send_data(Bytes::new(), true)
            .expect("an answer can end");
    }

    /// Ends the answer by `RST_STREAM`.
    pub fn reset(mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Closes the whole connection without a word.
    pub fn hang_up(self) {
        let hang_up = self.hang_up.clone();
        // Full or closed: somebody else hangs up at this moment.
        let _ = hang_up.try_send(Box::new(self));
    }

    /// Waits until nobody reads the answer any more: the caller reset the stream, or the connection
    /// ended. An answer that goes on for ever stops there; a panic would print where it came from, which
    /// holds this server's only thread meanwhile.
    pub async fn caller_leaves(&mut self) {
        let _ = std::future::poll_fn(|context| self.stream.poll_reset(context)).await;
    }

    /// Waits until the caller resets the stream, and says with which reason.
    ///
    /// # Panics
    /// If the connection ends before.
    pub async fn caller_resets(&mut self) -> Reason {
        let reset = std::future::poll_fn(|context| self.stream.poll_reset(context)).await;
        reset.expect("the stream is reset while its connection lives")
    }
}

fn reset_later(mut stream: SendStream<Bytes>, reason: Option<Reason>) {
    if let Some(reason) = reason {
        tokio::spawn(async move {
            sleep(BEFORE_RESET).await;
            stream.send_reset(reason);
        });
    }
}

fn head(status: StatusCode, more: &[(&str, &str)]) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    let own = headers(&[("content-type", "application/grpc")]);
    head.headers_mut().extend(own);
    head.headers_mut().extend(headers(more));
    head
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: http::HeaderName = name.parse().expect("a header name");
        headers.append(name, value.parse().expect("a header value"));
    }
    headers
}
