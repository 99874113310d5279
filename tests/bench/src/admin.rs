//! Asks the admin port of a Sidelane process whether it is ready. Polled while the mesh starts,
//! never while a round is measured.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

use crate::process::Process;

/// A debug build on a busy machine takes a second or two.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// One answer of a live admin port comes within milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Often enough that starting costs nothing to speak of, seldom enough that asking costs nothing.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// What `/readyz` says when it is not ready is a few lines; more is not worth showing.
const LONGEST_ANSWER: usize = 16 * 1024;

/// Waits until `http://ADDRESS/PATH` answers 200, at most [`READY_LIMIT`]; the process must live.
pub(crate) async fn ready(process: &mut Process, address: SocketAddr, path: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + READY_LIMIT;
    loop {
        process.must_live()?;
        let answer = tokio::time::timeout(ANSWER_LIMIT, get(address, path)).await;
        let reason = match answer {
            Ok(Ok((StatusCode::OK, _))) => return Ok(()),
            Ok(Ok((status, text))) => format!("{status} {}", text.trim()),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {ANSWER_LIMIT:?}"),
        };
        if tokio::time::Instant::now() >= deadline {
            let (name, tail) = (process.name, process.log_tail());
            bail!("{name}: http://{address}{path} not 200 in {READY_LIMIT:?}: {reason}{tail}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String)> {
    let stream = TcpStream::connect(address)
        .await
        .context("cannot connect")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST_ANSWER)
        .collect()
        .await;
    connection.abort();
    let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn status_and_text_are_read() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            let answer = "HTTP/1.1 503 x\r\ncontent-length: 11\r\n\r\nno snapshot";
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let (status, text) = get(address, "/readyz?for=outbound").await.unwrap();
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "no snapshot")
        );
        assert!(
            server
                .await
                .unwrap()
                .starts_with("GET /readyz?for=outbound HTTP/1.1\r\n")
        );
    }
}
