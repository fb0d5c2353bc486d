//! Clients that speak HTTP/2 to cost something: one connection, frames by hand, and what it may take of the proxy.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    apps::{echo, get, within},
    limits::Process,
    rig::LIMIT,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// More than one connection's frames and windows, less than any of these attacks would make of it.
const MOST_KIB: u64 = 16 * 1024;
/// An attack is over when it was cut, when it is not read any more, or after so many rounds.
const ROUNDS: u32 = 30_000;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET http://api/`, or POST, by HPACK's static table.
fn head(method: u8) -> Vec<u8> {
    [&[method, 0x86, 0x84, 0x41, 3], &b"api"[..]].concat()
}

fn get_on(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head(0x82))
}

fn post_on(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head(0x83))
}

fn nth(round: u32) -> u32 {
    2 * round + 1
}

/// How an attack ended.
#[derive(Debug, PartialEq)]
enum End {
    /// The proxy ended the connection.
    Cut,
    /// It stopped reading, or read everything: whatever the frames cost, the attacker waits for it.
    Borne,
}

/// Sends `first`, and then what `round` makes, and reads nothing until the end.
async fn attack(proxy: SocketAddr, first: Vec<u8>, round: impl Fn(u32) -> Vec<u8>) -> End {
    let mut tcp = TcpStream::connect(proxy).await.unwrap();
    tcp.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &first].concat()).await.unwrap();
    for many in 0..ROUNDS / 100 {
        let frames: Vec<u8> = (many * 100..(many + 1) * 100).flat_map(&round).collect();
        match timeout(Duration::from_secs(2), tcp.write_all(&frames)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Cut,
            Err(_) => return End::Borne,
        }
    }
    let mut scrap = vec![0; 16 * 1024];
    loop {
        match timeout(Duration::from_secs(1), tcp.read(&mut scrap)).await {
            Ok(Ok(0) | Err(_)) => return End::Cut,
            Ok(Ok(_)) => {}
            Err(_) => return End::Borne,
        }
    }
}

/// Attacks a proxy of its own, looks at what that costs, and whether others are served meanwhile.
async fn costs_little(name: &str, first: Vec<u8>, round: impl Fn(u32) -> Vec<u8>) -> End {
    let (process, proxy) = Process::before(echo().await, 1024);
    within(LIMIT, "the proxy does not start", async || TcpStream::connect(proxy).await.ok()).await;
    assert!(get(proxy, "/", "").await.starts_with("HTTP/1.1 200 "));
    let before = process.resident_kib();
    let mut most = before;
    let mut attack = std::pin::pin!(attack(proxy, first, round));
    let end = loop {
        if let Ok(end) = timeout(Duration::from_millis(50), attack.as_mut()).await {
            break end;
        }
        most = most.max(process.resident_kib());
        assert!(get(proxy, "/", "").await.starts_with("HTTP/1.1 200 "), "{name}: others wait");
    };
    most = most.max(process.resident_kib());
    assert!(most - before <= MOST_KIB, "{name}: costs {} KiB", most - before);
    assert!(get(proxy, "/", "").await.starts_with("HTTP/1.1 200 "), "{name}: others are served afterwards");
    end
}

#[tokio::test]
async fn streams_that_are_reset_as_soon_as_they_are_opened() {
    let cancel = 8u32.to_be_bytes();
    let end = costs_little("rapid reset", vec![], |n| {
        [get_on(nth(n)), frame(RST_STREAM, 0, nth(n), &cancel)].concat()
    });
    assert_eq!(end.await, End::Cut);
}

#[tokio::test]
async fn streams_that_the_server_is_made_to_reset() {
    // a window that grows by nothing is an error of the stream (RFC 9113 section 6.9)
    let end = costs_little("MadeYouReset", vec![], |n| {
        [post_on(nth(n)), frame(WINDOW_UPDATE, 0, nth(n), &0u32.to_be_bytes())].concat()
    });
    assert_eq!(end.await, End::Cut);
}

#[tokio::test]
async fn a_head_that_never_ends() {
    let first = frame(HEADERS, END_STREAM, 1, &head(0x82));
    // a name and a value of 100 bytes each, not indexed, over and over
    let field = [&[0, 100][..], &[b'x'; 100], &[100], &[b'y'; 100]].concat();
    let end = costs_little("CONTINUATION", first, |_| frame(CONTINUATION, 0, 1, &field));
    assert_eq!(end.await, End::Cut);
}

#[tokio::test]
async fn a_body_of_empty_frames() {
    assert_eq!(costs_little("empty DATA", post_on(1), |_| frame(DATA, 0, 1, &[])).await, End::Cut);
}

#[tokio::test]
async fn a_head_that_grows_when_it_is_decoded() {
    // one field of 4,000 bytes goes into the table, and every later head names it a thousand times in a byte each
    let field = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
    let first = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[head(0x82), field].concat());
    let bomb = move |n: u32| {
        let block = [head(0x82), vec![0xbe; 1000]].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, nth(n + 1), &block)
    };
    costs_little("HPACK bomb", first, bomb).await;
}

#[tokio::test]
async fn cookies_by_the_crumb() {
    // cookie: (empty), of the static table: one byte each
    let crumbs = |n: u32| {
        let block = [head(0x82), vec![0xa0; 4000]].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, nth(n), &block)
    };
    costs_little("cookie crumbs", vec![], crumbs).await;
}

#[tokio::test]
async fn frames_that_ask_for_an_answer_that_nobody_reads() {
    costs_little("SETTINGS", vec![], |_| frame(SETTINGS, 0, 0, &[])).await;
    costs_little("PING", vec![], |_| frame(PING, 0, 0, &[0; 8])).await;
}

#[tokio::test]
async fn frames_that_change_nothing() {
    costs_little("PRIORITY", vec![], |n| frame(PRIORITY, 0, nth(n), &[0, 0, 0, 0, 16])).await;
    costs_little("WINDOW_UPDATE", vec![], |_| frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())).await;
}

#[tokio::test]
async fn answers_that_nobody_takes() {
    let no_window = [0, 4, 0, 0, 0, 0];
    let first = frame(SETTINGS, 0, 0, &no_window);
    costs_little("zero window", first, |n| get_on(nth(n))).await;
}
