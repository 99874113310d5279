//! Clients: tonic's channel, and [`RawClient`], which speaks HTTP/2 frame by frame, so that a
//! test sees what a gRPC library hides (which frame carried the status, `RST_STREAM` reasons) and
//! sends what none would. It has no deadline of its own: when a call ends in time, somebody else
//! has ended it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// How the tests' tonic client names itself; tonic adds its own name.
pub const USER_AGENT: &str = "sidelane-tests/1";
/// A connection on loopback is there in milliseconds or never.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What a slow reader would have to hold; large enough for all calls made by hand.
const WINDOW: u32 = 1024 * 1024;

/// A tonic channel: one connection, made now.
///
/// # Errors
/// Nobody listens there.
pub async fn channel(address: SocketAddr) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_LIMIT)
        .user_agent(USER_AGENT)?
        .tcp_nodelay(true);
    let connected = endpoint.connect().await;
    connected.with_context(|| format!("no channel to {address}"))
}

/// A gRPC message with its prefix: not compressed, and its length.
#[must_use]
pub fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("a message under 4 GiB"));
    bytes.put_slice(message);
    bytes.freeze()
}

/// An HTTP/2 connection, frame by frame.
#[derive(Debug, Clone)]
pub struct RawClient {
    address: SocketAddr,
    sender: SendRequest<Bytes>,
}

/// A call whose headers are sent.
#[derive(Debug)]
pub struct RawCall {
    response: ResponseFuture,
    /// For the request's body.
    pub request: SendStream<Bytes>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct RawAnswer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// All DATA.
    pub data: Bytes,
    /// The trailers, if there were any.
    pub trailers: Option<HeaderMap>,
    /// `END_STREAM` stood on the headers.
    pub only_headers: bool,
    /// `RST_STREAM` ended the answer, with this reason.
    pub reset: Option<Reason>,
}

impl RawClient {
    /// Opens a connection.
    ///
    /// # Errors
    /// Nobody speaks HTTP/2 there.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("nobody listens on {address}"))?;
        Self::over(stream).await
    }

    /// Speaks HTTP/2 from here on, on a connection that was opened already.
    ///
    /// # Errors
    /// The other side does not.
    pub async fn over(stream: TcpStream) -> Result<Self> {
        let address = stream.peer_addr()?;
        stream.set_nodelay(true)?;
        Self::over_stream(stream, address).await
    }

    /// The same, on whatever carries bytes to this address.
    ///
    /// # Errors
    /// The other side does not.
    pub async fn over_stream<Stream>(stream: Stream, address: SocketAddr) -> Result<Self>
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 4)
            .handshake(stream)
            .await?;
        // It ends when the last sender and the last stream are gone.
        tokio::spawn(connection);
        Ok(Self { address, sender })
    }

    /// Begins a gRPC call: headers as gRPC has them, and these more (which may also replace them).
    ///
    /// # Errors
    /// The connection has ended, or a header is none.
    pub async fn begin(&self, path: &str, headers: &[(&str, &str)]) -> Result<RawCall> {
        self.begin_with("POST", path, headers).await
    }

    /// The same, with another method than calls have.
    ///
    /// # Errors
    /// As [`RawClient::begin`].
    pub async fn begin_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<RawCall> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())?;
        for (name, _) in headers {
            request.headers_mut().remove(*name);
        }
        for (name, value) in headers {
            let name: http::HeaderName = name.parse()?;
            request.headers_mut().append(name, value.parse()?);
        }
        let mut sender = self.sender.clone().ready().await?;
        let (response, request) = sender.send_request(request, false)?;
        Ok(RawCall { response, request })
    }

    /// A call with one message, to its end.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn unary(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        message: &impl Message,
    ) -> Result<RawAnswer> {
        let mut call = self.begin(path, headers).await?;
        // The other side may have ended the call already, and then says so in its answer.
        let _ = call
            .request
            .send_data(framed(&message.encode_to_vec()), true);
        call.answer().await
    }
}

impl RawCall {
    /// Sends one message; the request goes on.
    ///
    /// # Errors
    /// The stream has ended.
    pub fn send(&mut self, message: &impl Message) -> Result<()> {
        let data = framed(&message.encode_to_vec());
        Ok(self.request.send_data(data, false)?)
    }

    /// Ends the request.
    ///
    /// # Errors
    /// The stream has ended.
    pub fn end_request(&mut self) -> Result<()> {
        Ok(self.request.send_data(Bytes::new(), true)?)
    }

    /// Ends the request with trailers, which no gRPC client sends.
    ///
    /// # Errors
    /// The stream has ended, or a name or a value is none.
    pub fn end_with(&mut self, trailers: &[(&str, &str)]) -> Result<()> {
        let mut all = HeaderMap::new();
        for (name, value) in trailers {
            all.append(name.parse::<http::HeaderName>()?, value.parse()?);
        }
        Ok(self.request.send_trailers(all)?)
    }

    /// Gives the call up, as gRPC clients do: `RST_STREAM` with CANCEL.
    pub fn cancel(mut self) {
        self.request.send_reset(Reason::CANCEL);
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// The connection ended, and not this call alone.
    pub async fn answer(mut self) -> Result<RawAnswer> {
        self.answer_while_open().await
    }

    /// The same, and the request stays as it is.
    ///
    /// # Errors
    /// As [`RawCall::answer`].
    pub async fn answer_while_open(&mut self) -> Result<RawAnswer> {
        let mut answer = RawAnswer {
            status: StatusCode::default(),
            headers: HeaderMap::new(),
            data: Bytes::new(),
            trailers: None,
            only_headers: false,
            reset: None,
        };
        let ended = read(&mut self.response, &mut answer).await;
        if let Err(error) = ended {
            let reason = error.reason().filter(|_| error.is_reset());
            answer.reset = Some(reason.ok_or_else(|| anyhow!(error))?);
        }
        Ok(answer)
    }

    /// Waits until this side is told to send no more of its request, and with which reason.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn told_to_stop(&mut self) -> Result<Reason> {
        Ok(std::future::poll_fn(|context| self.request.poll_reset(context)).await?)
    }
}

async fn read(response: &mut ResponseFuture, answer: &mut RawAnswer) -> Result<(), h2::Error> {
    let response = response.await?;
    answer.status = response.status();
    answer.headers = response.headers().clone();
    let mut body: RecvStream = response.into_body();
    answer.only_headers = body.is_end_stream();
    let mut data = BytesMut::new();
    let read = loop {
        match body.data().await {
            Some(Ok(chunk)) => {
                body.flow_control().release_capacity(chunk.len())?;
                data.extend_from_slice(&chunk);
            }
            Some(Err(error)) => break Err(error),
            None => break Ok(()),
        }
    };
    answer.data = data.freeze();
    read?;
    answer.trailers = body.trailers().await?;
    Ok(())
}

impl RawAnswer {
    /// The gRPC status: from the trailers, or from headers that are the whole answer.
    ///
    /// # Errors
    /// There is none.
    pub fn grpc_status(&self) -> Result<Status> {
        let carrier = self
            .trailers
            .as_ref()
            .or(self.only_headers.then_some(&self.headers));
        let status = carrier.and_then(Status::from_header_map);
        status.with_context(|| format!("the answer has no grpc-status: {self:?}"))
    }

    /// Its one message.
    ///
    /// # Errors
    /// There is not exactly one, or it is another.
    pub fn message<T: Message + Default>(&self) -> Result<T> {
        let mut messages = self.messages()?;
        let one = messages.pop().filter(|_| messages.is_empty());
        Ok(T::decode(one.context("not exactly one message")?)?)
    }

    /// Its messages, still encoded.
    ///
    /// # Errors
    /// The last one is cut off.
    pub fn messages(&self) -> Result<Vec<Bytes>> {
        let mut data = self.data.clone();
        let mut messages = Vec::new();
        while data.has_remaining() {
            data.try_get_u8()?;
            let length = data.try_get_u32()? as usize;
            if data.len() < length {
                return Err(anyhow!(
                    "a message of {length} bytes is cut off after {}",
                    data.len()
                ));
            }
            messages.push(data.split_to(length));
        }
        Ok(messages)
    }
}

/// The reason with which the mesh itself refused a call: from the `google.rpc.ErrorInfo` of domain
/// `sidelane.dev` in its details. `None` if the status is somebody else's.
#[must_use]
pub fn mesh_reason(status: &Status) -> Option<String> {
    use tonic_types::StatusExt;
    let info = status.get_details_error_info()?;
    (info.domain == "sidelane.dev").then_some(info.reason)
}
