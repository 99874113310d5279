//! The limits as a client sees them: SETTINGS read back from the wire, byte by byte.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::drain::Drain;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

async fn start() -> (SocketAddr, Drain, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let drain = Drain::new();
    let served = serve(
        listener,
        Routes::default(),
        Security::disabled(),
        Arc::default(),
        drain.watch(),
    );
    (address, drain, tokio::spawn(served))
}

/// The next frame: its type and payload.
async fn frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], payload)
}

#[tokio::test]
async fn every_limit_reaches_the_wire() {
    let (address, drain, served) = start().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&EMPTY_SETTINGS).await.unwrap();
    let (kind, payload) = frame(&mut stream).await;
    assert_eq!(kind, SETTINGS);
    let settings: BTreeMap<u16, u32> = payload
        .chunks(6)
        .map(|entry| {
            let id = u16::from_be_bytes(entry[..2].try_into().unwrap());
            (id, u32::from_be_bytes(entry[2..].try_into().unwrap()))
        })
        .collect();
    // RFC 9113, section 6.5.2.
    assert_eq!(
        settings[&3], STREAM_LIMIT,
        "SETTINGS_MAX_CONCURRENT_STREAMS"
    );
    assert_eq!(
        settings.get(&4).copied().unwrap_or(65_535),
        STREAM_WINDOW,
        "SETTINGS_INITIAL_WINDOW_SIZE"
    );
    assert_eq!(
        settings.get(&5).copied().unwrap_or(16_384),
        FRAME_LIMIT,
        "SETTINGS_MAX_FRAME_SIZE"
    );
    assert_eq!(settings[&6], HEADER_LIMIT, "SETTINGS_MAX_HEADER_LIST_SIZE");
    // The connection's window grows from the protocol's 65,535 to ours.
    let window = loop {
        let (kind, payload) = frame(&mut stream).await;
        if kind == WINDOW_UPDATE {
            break u32::from_be_bytes(payload.try_into().unwrap());
        }
    };
    assert_eq!(window + 65_535, CONNECTION_WINDOW);
    drain.begin();
    while frame(&mut stream).await.0 != GOAWAY {}
    drop(stream);
    served.await.unwrap();
}

#[tokio::test]
async fn what_is_not_http_2_is_closed_and_harms_nobody() {
    let (address, drain, served) = start().await;
    for garbage in [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
        &[0xff; 64],
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good an end as any.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    drain.begin();
    served.await.unwrap();
}

#[tokio::test]
async fn whoever_says_nothing_is_closed_in_time() {
    tokio::time::pause();
    let (address, drain, served) = start().await;
    let began = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server's SETTINGS, and then the end.
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(began.elapsed() >= FIRST_CALL_LIMIT);
    drain.begin();
    served.await.unwrap();
}
