//! Waits until the proxy beside it says that it is ready: the sidecar's postStart hook, so that the application's first
//! connection finds it.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

const STEP: Duration = Duration::from_millis(10);
const ANSWER: Duration = Duration::from_secs(1);
const QUESTION: &[u8] = b"GET /ready?verbose HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The proxy is not ready, and what it is waiting for.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the proxy is not ready after {} s: {missing}", waited.as_secs())]
pub struct NotReady {
    waited: Duration,
    missing: String,
}

/// Returns when the proxy is ready.
///
/// # Errors
/// When the limit is over.
pub fn wait(port: u16, limit: Duration) -> Result<(), NotReady> {
    let began = Instant::now();
    loop {
        let missing = match ask(port) {
            Ok((200, _)) => return Ok(()),
            Ok((status, body)) if body.is_empty() => format!("its admin port answers {status}"),
            Ok((_, body)) => body.lines().collect::<Vec<_>>().join("; "),
            Err(error) => {
                format!("its admin port {port} does not answer ({error}); is the container running?")
            }
        };
        if began.elapsed() >= limit {
            return Err(NotReady { waited: limit, missing });
        }
        thread::sleep(STEP);
    }
}

fn ask(port: u16) -> io::Result<(u16, String)> {
    let mut answer = String::new();
    let mut stream = connect(port)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(QUESTION)?;
    stream.take(16 * 1024).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.trim().to_owned()))
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let over = |ip: std::net::IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), ANSWER);
    over(Ipv4Addr::LOCALHOST.into()).or_else(|_| over(Ipv6Addr::LOCALHOST.into()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn readiness_is_awaited() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = thread::spawn(move || {
            for answer in ["503 Service Unavailable\r\n\r\ncertificate: none\n", "200 OK\r\n\r\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut [0; QUESTION.len()]).unwrap();
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).unwrap();
            }
        });
        assert_eq!(wait(port, Duration::from_secs(10)), Ok(()));
        proxy.join().unwrap();
    }

    #[test]
    fn what_is_missing_is_said() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; QUESTION.len()]).unwrap();
            stream.write_all(b"HTTP/1.1 503 x\r\n\r\ncertificate: none\npolicy: none\n").unwrap();
        });
        let error = wait(port, Duration::ZERO).unwrap_err();
        proxy.join().unwrap();
        assert_eq!(error.to_string(), "the proxy is not ready after 0 s: certificate: none; policy: none");
        assert!(wait(port, Duration::ZERO).unwrap_err().to_string().contains("does not answer"));
    }
}
