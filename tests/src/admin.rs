//! What tests ask of a process over its admin port: plain HTTP/1.1, one connection a question, so
//! that a restarted process is found again. Every question is bounded in time.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::secrets;

/// A frozen process accepts connections and never answers.
const TIME_LIMIT: Duration = Duration::from_secs(3);

/// An answer of an admin port.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `content-type`; empty where there is none.
    pub content_type: String,
    /// The whole body.
    pub body: String,
}

/// Figures in the Prometheus text format.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// Asks with GET.
///
/// # Errors
/// Nobody listens, or there is no whole answer within 3 s.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    get_within(address, path, TIME_LIMIT).await
}

/// The same, of somebody who may take longer.
///
/// # Errors
/// Nobody listens, or there is no whole answer in time.
pub async fn get_within(address: SocketAddr, path: &str, limit: Duration) -> Result<Answer> {
    ask(address, http::Method::GET, (path, ""), limit).await
}

/// The same, by who wants the answer in this format.
///
/// # Errors
/// Nobody listens, or there is no whole answer within 3 s.
pub async fn get_as(address: SocketAddr, path: &str, accept: &str) -> Result<Answer> {
    ask(address, http::Method::GET, (path, accept), TIME_LIMIT).await
}

/// Asks with POST and an empty body.
///
/// # Errors
/// Nobody listens, or there is no whole answer within 3 s.
pub async fn post(address: SocketAddr, path: &str) -> Result<Answer> {
    ask(address, http::Method::POST, (path, ""), TIME_LIMIT).await
}

async fn ask(
    address: SocketAddr,
    method: http::Method,
    (path, accept): (&str, &str),
    limit: Duration,
) -> Result<Answer> {
    let question = format!("{method} http://{address}{path}");
    let answer = tokio::time::timeout(limit, exchange(address, method, (path, accept)))
        .await
        .with_context(|| format!("{question}: no answer within {limit:?}"))?;
    if let Ok(answer) = &answer {
        secrets::assert_none_in_page(&question, &answer.body);
    }
    answer.context(question)
}

async fn exchange(
    address: SocketAddr,
    method: http::Method,
    (path, accept): (&str, &str),
) -> Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::ACCEPT, accept)
        .body(Full::<Bytes>::default())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let content_type = response.headers().get(http::header::CONTENT_TYPE);
    let content_type = content_type.and_then(|it| it.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok(Answer {
        status,
        content_type,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

impl Metrics {
    /// Reads the text format; lines that are no samples are left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter_map(sample).collect();
        Self { samples }
    }

    /// The sum of all samples of this name that carry all of these labels; zero if there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| labels.iter().all(|wanted| sample.carries(*wanted)))
            .map(|sample| sample.value)
            .sum()
    }

    /// Is there a sample of this name?
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }
}

impl Sample {
    fn carries(&self, (name, value): (&str, &str)) -> bool {
        self.labels
            .iter()
            .any(|(label, given)| label == name && given == value)
    }
}

fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    // Label values may hold blanks and braces, but a sample ends with its value and, in
    // OpenMetrics, with an exemplar after ` # `.
    let line = line.split(" # ").next()?.trim_end();
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = match head.split_once('{') {
        None => (head, Vec::new()),
        Some((name, rest)) => (name, parse_labels(rest.strip_suffix('}')?)?),
    };
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

fn parse_labels(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
        text = rest.get(end + 1..)?.trim_start_matches(',');
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_labels() {
        let metrics = Metrics::parse(
            "# TYPE calls counter\n\
             calls_total{lane=\"general\",class=\"Internal\"} 3\n\
             calls_total{lane=\"general\",class=\"External\"} 4 # {trace=\"x\"} 1 2\n\
             calls_total{lane=\"gossip\",text=\"a \\\"b\\\", c\"} 5\n\
             calls_total_of_others{lane=\"general\"} 100\n\
             age 0.25\n",
        );
        assert!((metrics.sum("calls_total", &[]) - 12.0).abs() < f64::EPSILON);
        let general = metrics.sum("calls_total", &[("lane", "general")]);
        assert!((general - 7.0).abs() < f64::EPSILON);
        let text = metrics.sum("calls_total", &[("text", "a \"b\", c")]);
        assert!((text - 5.0).abs() < f64::EPSILON);
        assert!((metrics.sum("age", &[]) - 0.25).abs() < f64::EPSILON);
        assert!(metrics.has("age") && !metrics.has("calls"));
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_named() {
        let address = SocketAddr::from(([127, 0, 0, 1], crate::ports::free_port()));
        let error = get(address, "/readyz").await.unwrap_err();
        assert_eq!(error.to_string(), format!("GET http://{address}/readyz"));
    }
}
