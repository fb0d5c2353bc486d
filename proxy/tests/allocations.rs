//! What a request allocates, in both proxies of its hop together. A process of its own, since the allocator counts for
//! everybody in it; `make bench` prints the figures.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "shared with the tests of the data path")]
#[path = "data_path/apps.rs"]
mod apps;
#[allow(dead_code, reason = "shared with the tests of the data path")]
#[path = "data_path/rig.rs"]
mod rig;

use std::{
    alloc::System,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use byrnie_model::Protocol;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use crate::{
    apps::{echo, http2, text},
    rig::Mesh,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUESTS: usize = 500;
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: app\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\npong";
/// A step back of the code, or of a library, shows here.
const MOST_HTTP1: f64 = 31.0;
const MOST_HTTP2: f64 = 68.0;

#[test]
fn a_request_allocates_little() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let http1 = http1_allocations();
    let http2 = runtime.block_on(http2_allocations());
    println!("allocations per request, both proxies: HTTP/1.1 {http1:.1}, HTTP/2 {http2:.1}");
    assert!(http1 <= MOST_HTTP1, "HTTP/1.1: {http1}");
    assert!(http2 <= MOST_HTTP2, "HTTP/2: {http2}");
}

/// Client and application allocate nothing themselves.
fn http1_allocations() -> f64 {
    let mesh = Mesh::speaking(application(), Protocol::Http1);
    let mut client = TcpStream::connect(mesh.client.outbound).unwrap();
    ask(&mut client, REQUESTS / 10);
    let before = allocations();
    ask(&mut client, REQUESTS);
    per_request(allocations() - before)
}

/// Less what the same client and application allocate without proxies.
async fn http2_allocations() -> f64 {
    let app = echo().await;
    let mesh = Mesh::speaking(app, Protocol::Http2);
    let proxied = streams(mesh.client.outbound).await;
    proxied - streams(app).await
}

async fn streams(address: SocketAddr) -> f64 {
    let mut client = http2::<Full<Bytes>>(address).await;
    let mut before = 0;
    for count in 0..REQUESTS + REQUESTS / 10 {
        if count == REQUESTS / 10 {
            before = allocations();
        }
        let request = Request::post("http://api/").body(Full::new(Bytes::from_static(b"ping"))).unwrap();
        let (head, ..) = text(client.send_request(request).await.unwrap()).await;
        assert_eq!(head.status, 200);
    }
    per_request(allocations() - before)
}

fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut tcp, _)) = listener.accept() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                let mut held = 0;
                while let Ok(read @ 1..) = tcp.read(&mut buffer[held..]) {
                    held += read;
                    if buffer[..held].ends_with(b"\r\n\r\n") {
                        held = 0;
                        tcp.write_all(RESPONSE).unwrap();
                    }
                }
            });
        }
    });
    address
}

fn ask(client: &mut TcpStream, requests: usize) {
    let mut buffer = [0; 4096];
    for _ in 0..requests {
        client.write_all(b"GET /1k HTTP/1.1\r\nHost: api.shop\r\nAccept: */*\r\n\r\n").unwrap();
        let mut held = 0;
        while !buffer[..held].ends_with(b"\r\n\r\npong") {
            held += client.read(&mut buffer[held..]).unwrap();
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"));
    }
}

fn allocations() -> usize {
    let so_far = ALLOCATOR.stats();
    so_far.allocations + so_far.reallocations
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
fn per_request(allocations: usize) -> f64 {
    allocations as f64 / REQUESTS as f64
}
