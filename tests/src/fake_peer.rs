//! A peer sidecar that is none: it takes links, keeps every byte that their dialler sent, answers
//! each Hello as the test says, and every call with an empty message. For what a sidecar does when
//! it dials.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use sidelane_proto::wire::peer::v1::{HelloRequest, HelloResponse};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::Status;

use crate::client::framed;
use crate::frames::{Opening, PREFACE};
use crate::link::HELLO_PATH;
use crate::upstream::raw::RawUpstream;

/// How many calls at once a peer takes if its test says nothing else.
const STREAM_LIMIT: u32 = 100;
/// The prefix of a gRPC message.
const PREFIX: usize = 5;

type AnswerHello = Arc<dyn Fn(&HelloRequest) -> Result<HelloResponse, Status> + Send + Sync>;

/// A peer that takes links. It ends with this value.
#[derive(Debug)]
pub struct FakePeer {
    listener: RawUpstream,
    links: Links,
}

/// All links that were ever taken.
type Links = Arc<Mutex<Vec<Arc<Mutex<Taken>>>>>;

/// One link, as far as it has come.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Who dialled.
    pub from: SocketAddr,
    /// Its first bytes.
    pub preamble: [u8; 8],
    /// All that came after them.
    bytes: Vec<u8>,
    /// Every Hello that was said on it.
    pub hellos: Vec<HelloRequest>,
    /// The path and the headers of every call.
    pub calls: Vec<(String, HeaderMap)>,
}

impl FakePeer {
    /// A peer that welcomes everybody as whoever they meant.
    pub async fn welcoming() -> Self {
        Self::answering(|hello| Ok(welcome(hello))).await
    }

    /// A peer that answers Hello so.
    pub async fn answering<F>(answer: F) -> Self
    where
        F: Fn(&HelloRequest) -> Result<HelloResponse, Status> + Send + Sync + 'static,
    {
        let links = Links::default();
        let answer: AnswerHello = Arc::new(answer);
        let taken = Arc::clone(&links);
        let listener = RawUpstream::connections(move |stream| {
            let (taken, answer) = (Arc::clone(&taken), Arc::clone(&answer));
            async move {
                // A dialler that goes away has nothing more to show.
                let _ = take(stream, &taken, &answer).await;
            }
        })
        .await;
        Self { listener, links }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The links so far, in the order in which they came.
    #[must_use]
    pub fn links(&self) -> Vec<Taken> {
        let links = lock(&self.links);
        links.iter().map(|link| lock(link).clone()).collect()
    }
}

impl Taken {
    /// How the dialler opened HTTP/2: its settings and its window.
    ///
    /// # Errors
    /// It did not open HTTP/2.
    pub async fn opening(&self) -> io::Result<Opening> {
        let frames = self.bytes.strip_prefix(PREFACE.as_slice());
        let mut frames = frames.ok_or_else(|| io::Error::other("no HTTP/2 preface"))?;
        Opening::read(&mut frames).await
    }
}

/// The answer of a peer that is who was meant.
#[must_use]
pub fn welcome(hello: &HelloRequest) -> HelloResponse {
    HelloResponse {
        node_id: hello.expected_node_id.clone(),
        generation: hello.expected_generation,
        max_concurrent_streams: STREAM_LIMIT,
        protocol: 1,
        build: "fake".to_owned(),
        connection: hello.connection,
        lane_id: hello.lane_id,
        lane: hello.lane.clone(),
        class: hello.class.clone(),
        rules_digest: Vec::new(),
        unmarked_is_unrecorded: false,
    }
}

async fn take(mut stream: TcpStream, links: &Links, answer: &AnswerHello) -> anyhow::Result<()> {
    let mut preamble = [0; 8];
    stream.read_exact(&mut preamble).await?;
    let link = Arc::new(Mutex::new(Taken {
        from: stream.peer_addr()?,
        preamble,
        bytes: Vec::new(),
        hellos: Vec::new(),
        calls: Vec::new(),
    }));
    lock(links).push(Arc::clone(&link));
    let recorded = Recorded {
        stream,
        link: Arc::clone(&link),
    };
    let mut connection = h2::server::handshake(recorded).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let (link, answer) = (Arc::clone(&link), Arc::clone(answer));
        tokio::spawn(async move { answer_call(request, respond, &link, &answer).await });
    }
    Ok(())
}

async fn answer_call(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    link: &Mutex<Taken>,
    answer: &AnswerHello,
) -> anyhow::Result<()> {
    let (head, mut body) = request.into_parts();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        message.extend_from_slice(&data);
    }
    let answered = if head.uri.path() == HELLO_PATH {
        let hello = HelloRequest::decode(message.get(PREFIX..).unwrap_or_default())?;
        let answered = answer(&hello);
        lock(link).hellos.push(hello);
        answered.map(|welcome| welcome.encode_to_vec())
    } else {
        let call = (head.uri.path().to_owned(), head.headers);
        lock(link).calls.push(call);
        Ok(Vec::new())
    };
    let mut response = Response::new(());
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    match answered {
        Ok(message) => {
            let mut stream: SendStream<Bytes> = respond.send_response(response, false)?;
            stream.send_data(framed(&message), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            stream.send_trailers(trailers)?;
        }
        Err(status) => {
            status.add_header(response.headers_mut())?;
            respond.send_response(response, true)?;
        }
    }
    Ok(())
}

/// A stream of which everything that is read is kept, too.
struct Recorded {
    stream: TcpStream,
    link: Arc<Mutex<Taken>>,
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        let read = &into.filled()[before..];
        lock(&self.link).bytes.extend_from_slice(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
