//! Pages that go on: they are read line by line, for as long as lines come.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{FetchError, Fetched, Target, open, read_whole};

/// The longest line that is read, in bytes; a wrong address that streams for ever has none.
pub const LINE_LIMIT: usize = 256 * 1024;

/// A page that goes on. Its connection ends when this is dropped.
#[derive(Debug)]
pub struct Lines {
    url: String,
    body: Incoming,
    /// What has come and was not given out.
    rest: BytesMut,
    /// So much of it was looked at, and has no end of a line.
    looked: usize,
    _driver: JoinSet<hyper::Result<()>>,
}

/// Gets a page that goes on; `limit` is for its beginning. A status that is not 200 gives the answer
/// that came with it.
///
/// # Errors
/// There was no answer in time.
pub async fn lines(url: &str, limit: Duration) -> Result<Result<Lines, Fetched>, FetchError> {
    let target = Target::read(url)?;
    let begun = async {
        let (response, driver) = open(Method::GET, url, target, Bytes::new()).await?;
        if response.status() != StatusCode::OK {
            return Ok(Err(read_whole(url, response).await?));
        }
        Ok(Ok(Lines {
            url: url.to_owned(),
            body: response.into_body(),
            rest: BytesMut::new(),
            looked: 0,
            _driver: driver,
        }))
    };
    timeout(limit, begun).await.unwrap_or_else(|_| {
        Err(FetchError::TimedOut {
            url: url.to_owned(),
            limit,
        })
    })
}

impl Lines {
    /// The next line, without its end; `None` after the last one. Nothing is lost if this is dropped
    /// before it is ready.
    ///
    /// # Errors
    /// The page broke off, or a line is longer than [`LINE_LIMIT`].
    pub async fn next(&mut self) -> Result<Option<String>, FetchError> {
        loop {
            let end = self.rest[self.looked..].iter().position(|it| *it == b'\n');
            if let Some(end) = end {
                let line = self.rest.split_to(self.looked + end);
                self.rest.advance(1);
                self.looked = 0;
                return Ok(Some(text(&line)));
            }
            self.looked = self.rest.len();
            if self.looked > LINE_LIMIT {
                let reason = format!("a line is longer than {LINE_LIMIT} bytes");
                return Err(FetchError::not_http(&self.url, &reason));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(FetchError::not_http(&self.url, &error)),
                None if self.rest.is_empty() => return Ok(None),
                None => {
                    self.looked = 0;
                    return Ok(Some(text(&self.rest.split())));
                }
            }
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}
