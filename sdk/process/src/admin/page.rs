//! Pages: which there are, and what a handler is given and gives back.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

/// A request for a page, read whole.
#[derive(Debug, Clone)]
pub struct AdminRequest {
    /// `GET` also where the client said `HEAD`.
    pub method: Method,
    /// The path, as it was sent.
    pub path: String,
    /// The query's pairs, decoded, in their order.
    pub query: Vec<(String, String)>,
    /// The body; empty for most.
    pub body: Bytes,
    /// The `accept` header; empty where there is none.
    pub accept: String,
    /// Who asks.
    pub peer: SocketAddr,
    /// Is that somebody on this machine, who asks by an address and not by a name that a web page may
    /// have?
    pub near: bool,
}

impl AdminRequest {
    /// The first value of a query parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What a page says.
#[derive(Debug, Clone)]
pub struct AdminResponse {
    /// The status.
    pub status: StatusCode,
    /// The `content-type`.
    pub content_type: &'static str,
    /// The body, whole.
    pub body: Bytes,
}

impl AdminResponse {
    /// 200 with plain text.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    /// 200 with a web page.
    pub fn html(body: impl Into<Bytes>) -> Self {
        Self {
            content_type: "text/html; charset=utf-8",
            ..Self::text(body)
        }
    }

    /// 200 with indented JSON, or 500 if `value` cannot be written as JSON.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self {
                    content_type: "application/json",
                    ..Self::text(body)
                }
            }
            Err(error) => Self::text(format!("this page cannot be written as JSON: {error}\n"))
                .with_status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// The same answer with another status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

/// An answer that is said piece by piece, for as long as there is something to say and somebody reads
/// it. It ends with its sender, with the server, or after [`STREAM_AGE`](super::STREAM_AGE).
pub struct AdminStream {
    pub(super) content_type: &'static str,
    pub(super) pieces: NextPiece,
}

/// Asks for the next piece.
pub(super) type NextPiece = Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Send>;

impl AdminStream {
    /// Pieces as `next` gives them, until it gives none. It is asked for one when the one before has
    /// been got rid of, and dropped when nobody reads any more.
    pub fn new(
        content_type: &'static str,
        next: impl FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Send + 'static,
    ) -> Self {
        Self {
            content_type,
            pieces: Box::new(next),
        }
    }
}

impl fmt::Debug for AdminStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.content_type)
    }
}

/// What a handler gives back.
pub(super) enum Answered {
    Whole(AdminResponse),
    Stream(AdminStream),
}

type Answer = Pin<Box<dyn Future<Output = Answered> + Send>>;
type Handle = Box<dyn Fn(AdminRequest) -> Answer + Send + Sync>;

/// What answers for a page.
pub(super) struct Handler {
    handle: Handle,
    stream: bool,
}

impl Handler {
    pub(super) fn answer(&self, request: AdminRequest) -> Answer {
        (self.handle)(request)
    }

    /// Does its answer go on for as long as somebody reads?
    pub(super) const fn is_stream(&self) -> bool {
        self.stream
    }
}

/// The pages of a server, each with its path and method.
#[derive(Default)]
pub struct Pages(Vec<(Method, &'static str, Handler)>);

impl fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.known())
    }
}

impl Pages {
    /// No pages yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a page that is read; it answers `HEAD`, too.
    #[must_use]
    pub fn get<F, A>(self, path: &'static str, handler: F) -> Self
    where
        F: Fn(AdminRequest) -> A + Send + Sync + 'static,
        A: Future<Output = AdminResponse> + Send + 'static,
    {
        self.whole(Method::GET, path, handler)
    }

    /// Adds a page that is read for as long as it goes on, or says why not.
    #[must_use]
    pub fn stream<F, A>(mut self, path: &'static str, handler: F) -> Self
    where
        F: Fn(AdminRequest) -> A + Send + Sync + 'static,
        A: Future<Output = Result<AdminStream, AdminResponse>> + Send + 'static,
    {
        let handle: Handle = Box::new(move |request| {
            let answer = handler(request);
            Box::pin(async move { answer.await.map_or_else(Answered::Whole, Answered::Stream) })
        });
        let stream = true;
        self.0.push((Method::GET, path, Handler { handle, stream }));
        self
    }

    /// Adds a page that does something.
    #[must_use]
    pub fn post<F, A>(self, path: &'static str, handler: F) -> Self
    where
        F: Fn(AdminRequest) -> A + Send + Sync + 'static,
        A: Future<Output = AdminResponse> + Send + 'static,
    {
        self.whole(Method::POST, path, handler)
    }

    fn whole<F, A>(mut self, method: Method, path: &'static str, handler: F) -> Self
    where
        F: Fn(AdminRequest) -> A + Send + Sync + 'static,
        A: Future<Output = AdminResponse> + Send + 'static,
    {
        let handle: Handle = Box::new(move |request| {
            let answer = handler(request);
            Box::pin(async move { Answered::Whole(answer.await) })
        });
        let stream = false;
        self.0.push((method, path, Handler { handle, stream }));
        self
    }

    pub(super) fn find(&self, method: &Method, path: &str) -> Found<'_> {
        let mut methods = Vec::new();
        for (known, page, handler) in &self.0 {
            if *page == path {
                if known == method {
                    return Found::Page(handler);
                }
                methods.push(known.as_str());
            }
        }
        if methods.is_empty() {
            Found::Nothing
        } else {
            Found::OtherMethods(methods.join(", "))
        }
    }

    /// The pages as a list for people: `GET /livez, POST /drain`.
    pub(super) fn known(&self) -> String {
        let names = self
            .0
            .iter()
            .map(|(method, path, _)| format!("{method} {path}"));
        names.collect::<Vec<_>>().join(", ")
    }
}

/// What there is for a method and a path.
pub(super) enum Found<'a> {
    Page(&'a Handler),
    OtherMethods(String),
    Nothing,
}
