//! A small HTTP/1.1 client for the command line: one request, one answer, one connection. It
//! speaks `http://` only, to admin pages; calls never go this way.

mod lines;

pub use lines::{LINE_LIMIT, Lines, lines};

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The largest answer that is read, in bytes. A full `/config` or `/metrics` of a large mesh fits;
/// a wrong address that streams for ever does not.
pub const ANSWER_LIMIT: usize = 8 * 1024 * 1024;

/// What came back.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Any status: a 404 is an answer, too.
    pub status: StatusCode,
    /// The body, whole.
    pub body: Bytes,
}

impl Fetched {
    /// The body as text, with replacement characters for what is not UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL cannot be used.
    #[error("{url:?} cannot be used: {reason}; write a URL such as http://127.0.0.1:15000/livez")]
    BadUrl {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody there.
    #[error(
        "cannot reach {url}: {source}; is the program running, and is this its --admin address?"
    )]
    Unreachable {
        /// As it was given.
        url: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// No whole answer in time.
    #[error("{url} gave no answer within {} ms", limit.as_millis())]
    TimedOut {
        /// As it was given.
        url: String,
        /// The time that it had.
        limit: Duration,
    },
    /// An answer above [`ANSWER_LIMIT`].
    #[error("the answer of {url} is larger than {ANSWER_LIMIT} bytes; is this an admin address?")]
    TooLarge {
        /// As it was given.
        url: String,
    },
    /// An answer that is not HTTP/1.1, or that ended early.
    #[error("{url} does not answer in HTTP/1.1: {reason}; is this an admin address?")]
    NotHttp {
        /// As it was given.
        url: String,
        /// What went wrong.
        reason: String,
    },
}

impl FetchError {
    fn not_http(url: &str, error: &dyn std::fmt::Display) -> Self {
        Self::NotHttp {
            url: url.to_owned(),
            reason: error.to_string(),
        }
    }
}

/// Gets a page; `limit` is for everything, from the dial to the last byte.
///
/// # Errors
/// There was no whole answer. Any status is an answer.
pub async fn get(url: &str, limit: Duration) -> Result<Fetched, FetchError> {
    request(Method::GET, url, Bytes::new(), limit).await
}

/// Posts `body` to a page; `limit` is for everything, from the dial to the last byte.
///
/// # Errors
/// There was no whole answer. Any status is an answer.
pub async fn post(url: &str, body: Bytes, limit: Duration) -> Result<Fetched, FetchError> {
    request(Method::POST, url, body, limit).await
}

async fn request(
    method: Method,
    url: &str,
    body: Bytes,
    limit: Duration,
) -> Result<Fetched, FetchError> {
    let target = Target::read(url)?;
    timeout(limit, exchange(method, url, target, body))
        .await
        .unwrap_or_else(|_| {
            Err(FetchError::TimedOut {
                url: url.to_owned(),
                limit,
            })
        })
}

async fn exchange(
    method: Method,
    url: &str,
    target: Target,
    body: Bytes,
) -> Result<Fetched, FetchError> {
    // Its connection ends with this function, also when that is dropped half-way.
    let (response, _driver) = open(method, url, target, body).await?;
    read_whole(url, response).await
}

/// Sends a request, and gives back what is answered as soon as it begins, and what reads it.
async fn open(
    method: Method,
    url: &str,
    target: Target,
    body: Bytes,
) -> Result<(Response<Incoming>, JoinSet<hyper::Result<()>>), FetchError> {
    let unreachable = |source| FetchError::Unreachable {
        url: url.to_owned(),
        source,
    };
    let not_http = |error: hyper::Error| FetchError::not_http(url, &error);
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(unreachable)?;
    // The address, whatever name has led there: pages that are for who knows where they are refuse names,
    // which browsers may be made to ask for.
    let reached = stream.peer_addr().map_err(unreachable)?;
    let reached = SocketAddr::new(reached.ip(), reached.port());
    let host = HeaderValue::try_from(reached.to_string());
    let host = host.map_err(|error| FetchError::not_http(url, &error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(not_http)?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);

    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = target.path;
    request.headers_mut().insert(header::HOST, host);
    let response = sender.send_request(request).await.map_err(not_http)?;
    Ok((response, driver))
}

async fn read_whole(url: &str, response: Response<Incoming>) -> Result<Fetched, FetchError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT)
        .collect()
        .await;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            FetchError::TooLarge {
                url: url.to_owned(),
            }
        } else {
            FetchError::not_http(url, &error)
        }
    })?;
    Ok(Fetched {
        status,
        body: body.to_bytes(),
    })
}

/// The parts of a URL that a request needs.
struct Target {
    host: String,
    port: u16,
    path: Uri,
}

impl Target {
    fn read(url: &str) -> Result<Self, FetchError> {
        let bad = |reason: &str| FetchError::BadUrl {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        let uri: Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(bad("admin pages have no TLS")),
            Some(_) => return Err(bad("it is not http://")),
            None => return Err(bad("it does not begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("admin pages have no users"));
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(80),
            path: path.parse().map_err(|_| bad("its path is malformed"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Answers one connection with these bytes, then with `filler` for as long as it is read.
    async fn answering(bytes: &'static [u8], filler: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // By a name, which is said as the address that it leads to.
        let port = listener.local_addr().unwrap().port();
        let url = format!("http://localhost:{port}/page?x=1");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /page?x=1 HTTP/1.1\r\n"));
            let host = format!("host: {}\r\n", stream.local_addr().unwrap());
            assert!(String::from_utf8_lossy(&request[..read]).contains(&host));
            stream.write_all(bytes).await.unwrap();
            while !filler.is_empty() && stream.write_all(filler).await.is_ok() {}
        });
        url
    }

    #[tokio::test]
    async fn wrong_urls_say_why() {
        let cases = [
            ("http://a b/", "it is not a URL"),
            ("127.0.0.1:15000", "it does not begin with http://"),
            ("/livez", "it does not begin with http://"),
            ("https://127.0.0.1/", "admin pages have no TLS"),
            ("ftp://127.0.0.1/", "it is not http://"),
            ("http://me:pw@127.0.0.1/", "admin pages have no users"),
        ];
        for (url, reason) in cases {
            assert_eq!(
                get(url, LIMIT).await.unwrap_err().to_string(),
                format!(
                    "{url:?} cannot be used: {reason}; write a URL such as \
                     http://127.0.0.1:15000/livez"
                )
            );
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_what_to_check() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let message = get(&url, LIMIT).await.unwrap_err().to_string();
        assert!(message.starts_with(&format!("cannot reach {url}: Connection refused")));
        assert!(message.ends_with("is the program running, and is this its --admin address?"));
    }

    #[tokio::test]
    async fn silence_ends_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        assert_eq!(
            get(&url, Duration::from_millis(20))
                .await
                .unwrap_err()
                .to_string(),
            format!("{url} gave no answer within 20 ms")
        );
    }

    #[tokio::test]
    async fn endless_answers_are_cut() {
        let url = answering(b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 65536]).await;
        assert_eq!(
            get(&url, LIMIT).await.unwrap_err().to_string(),
            format!("the answer of {url} is larger than 8388608 bytes; is this an admin address?")
        );
    }

    #[tokio::test]
    async fn other_protocols_and_torn_answers_are_told() {
        for bytes in [
            b"SSH-2.0-OpenSSH_9.9\r\n".as_slice(),
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ntorn",
            b"",
        ] {
            let url = answering(bytes, b"").await;
            let error = get(&url, LIMIT).await.unwrap_err();
            assert!(matches!(error, FetchError::NotHttp { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_ends_with_the_connection_is_whole() {
        let url = answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready\n", b"").await;
        let fetched = get(&url, LIMIT).await.unwrap();
        assert_eq!(fetched.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(fetched.text(), "not ready\n");
    }
}
