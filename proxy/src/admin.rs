//! The admin port: readiness, liveness, metrics, the kubelet's probes, and its question whether callers have turned to
//! other pods. Everything is read-only, so nobody needs to be asked who they are; a hook of the application is opened
//! by its key.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt::Write,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::AbortHandle, time::sleep};

use crate::{certificate::News, probe::Probe, standalone::Report, state::Shared};

/// Connections at a time; the kubelet, a scraper and a person need a handful. One more ends the oldest, so that nobody
/// who holds connections open keeps the kubelet out.
const CONNECTIONS: usize = 64;
const HEAD: Duration = Duration::from_secs(10);

/// What the admin port answers from.
#[derive(Debug)]
pub struct Admin {
    /// Everything.
    pub shared: Arc<Shared>,
    /// What goes wrong on the way to being ready.
    pub news: News,
    /// Probe N is `/probe/N`.
    pub probes: Vec<Probe>,
    /// What has become of the configuration file, where there is one.
    pub configuration: Option<Arc<Report>>,
}

type Answer = Response<Full<Bytes>>;

/// Serves on a listener that is bound already; does not return.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS);
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let admin = admin.clone();
        let service = service_fn(move |request| {
            let admin = admin.clone();
            async move { Ok::<_, Infallible>(admin.answer(&request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(tcp), service);
        if open.len() == CONNECTIONS {
            open.retain(|connection| !connection.is_finished());
        }
        if open.len() == CONNECTIONS {
            open.pop_front().expect("it is full").abort();
        }
        // a scraper that goes away is nobody's problem
        open.push_back(tokio::spawn(async move { drop(connection.await) }).abort_handle());
    }
}

impl Admin {
    /// Answers one request.
    pub async fn answer<B>(&self, request: &Request<B>) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/ready" => self.ready(),
            "/live" => text(StatusCode::OK, ""),
            "/metrics" => self.metrics(),
            "/config" => match &self.configuration {
                Some(report) if report.is_current() => text(StatusCode::OK, report.text()),
                Some(report) => text(StatusCode::SERVICE_UNAVAILABLE, report.text()),
                None => text(StatusCode::NOT_FOUND, "this proxy has no configuration file\n"),
            },
            "/parted" => {
                self.shared.drain.parted().await;
                text(StatusCode::OK, "")
            }
            path => match path.strip_prefix("/probe/") {
                Some(which) => self.probe(which).await,
                None => {
                    text(StatusCode::NOT_FOUND, "there are /ready /live /metrics /config /parted /probe/N\n")
                }
            },
        }
    }

    fn ready(&self) -> Answer {
        let missing = self.shared.missing();
        if missing.is_empty() {
            return text(StatusCode::OK, "");
        }
        let mut body = missing.join("\n") + "\n";
        for problem in self.news.problems() {
            body.push_str(&problem);
            body.push('\n');
        }
        text(StatusCode::SERVICE_UNAVAILABLE, body)
    }

    /// `N`, or `N/KEY` for a hook.
    async fn probe(&self, which: &str) -> Answer {
        let (number, key) = which.split_once('/').map_or((which, None), |(number, key)| (number, Some(key)));
        let known = number.parse::<usize>().ok().and_then(|number| self.probes.get(number));
        let Some(probe) = known.filter(|probe| probe.opens_with(key)) else {
            return text(StatusCode::NOT_FOUND, "there is no such probe\n");
        };
        let ip = self.shared.pod.ips.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        match probe.run(ip).await {
            Ok(()) => text(StatusCode::OK, ""),
            Err(failure) => text(StatusCode::SERVICE_UNAVAILABLE, format!("the application {failure}\n")),
        }
    }

    fn metrics(&self) -> Answer {
        let Shared { metrics, identity, destinations, .. } = &*self.shared;
        metrics.ready.set(i64::from(self.shared.missing().is_empty()));
        metrics.subscriptions.set(i64::try_from(destinations.addresses().len()).unwrap_or(i64::MAX));
        metrics.trust_epoch.set(identity.bundle().map_or(0, |b| i64::try_from(b.epoch).unwrap_or(i64::MAX)));
        metrics.leaf_expires.set(identity.leaf().map_or(0, |leaf| seconds_until(leaf.not_after)));
        let mut body = String::with_capacity(16 * 1024);
        if process(&mut body).is_err() || metrics.encode(&mut body).is_err() {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "cannot write the metrics\n");
        }
        let mut answer = text(StatusCode::OK, body);
        let openmetrics =
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, openmetrics);
        answer
    }
}

/// What the process takes, under the names that Prometheus knows. Linux counts processor time in hundredths.
fn process(into: &mut String) -> std::fmt::Result {
    let resident = status_kib("VmRSS:").map(|kib| kib * 1024);
    let numbers = [
        ("process_resident_memory_bytes", "gauge", resident.map(|bytes| bytes.to_string())),
        ("process_cpu_seconds", "counter", cpu_ticks().map(|t| format!("{}.{:02}", t / 100, t % 100))),
        ("process_open_fds", "gauge", fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count().to_string())),
    ];
    for (name, kind, value) in numbers {
        if let Some(value) = value {
            let total = if kind == "counter" { "_total" } else { "" };
            writeln!(into, "# TYPE {name} {kind}\n{name}{total} {value}")?;
        }
    }
    Ok(())
}

fn status_kib(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|l| l.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

fn cpu_ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // after the name in parentheses, user and system time are the 12th and 13th fields
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn seconds_until(time: SystemTime) -> i64 {
    let left = time.duration_since(SystemTime::now()).map(|left| left.as_secs());
    left.map_or(0, |seconds| i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    let mut answer = Response::new(Full::from(body.into()));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

/// Binds the admin port on all addresses of one family.
///
/// # Errors
/// When somebody else has it.
pub fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}
