//! Worker threads: each one a current-thread runtime with listeners, connections, pools and balancers of its own.
//!
//! Owns the accept loops, the coarse clock and the sweep. Nothing here is shared between workers except
//! [`Shared`], so the request path takes no lock. Knows no protocol.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use byrnie_identity::Standing;
use byrnie_model::Workload;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    runtime::{self, LocalOptions},
    sync::{Notify, mpsc},
    task::spawn_local,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::{
    activity::{Activity, Ends},
    destination::Destination,
    drain::InFlight,
    forward_proxy,
    inbound::{self, App},
    listener::Listener,
    metrics::{AuthorizationMetrics, Direction},
    original_destination::Source,
    outbound,
    quota::Quota,
    state::{MAX_SLOTS, Shared},
    tie::Tie,
};

/// How often limits, idle connections and changes of policy and identity are looked at.
const SWEEP: Duration = Duration::from_millis(250);
/// How long a full accept queue may be left alone when no descriptor is free.
const MAX_BACKOFF: Duration = Duration::from_millis(500);
const BACKLOG: i32 = 4096;
/// Unused for this long, a destination's connections and statistics are forgotten.
const UNUSED: Duration = Duration::from_mins(10);

/// Why the workers did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Another process has the address, or the address is not ours.
    #[error("cannot listen on {address}; is another proxy running there?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a worker thread")]
    Thread(#[source] io::Error),
}

/// What the connections of one thread share.
#[derive(Debug)]
pub struct Worker {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// What is written about mishaps.
    pub quota: Quota,
    /// Decisions, counted.
    pub decisions: RefCell<AuthorizationMetrics>,
    clock: Rc<Cell<std::time::Instant>>,
    generation: Cell<u64>,
    policy: Notify,
    destinations: RefCell<HashMap<SocketAddr, Rc<Destination>>>,
    apps: RefCell<HashMap<SocketAddr, Rc<App>>>,
    connections: RefCell<Vec<Weak<Activity>>>,
    ties: RefCell<Vec<std::sync::Weak<Tie>>>,
}

/// The worker threads, and what they listen on. They run until the process ends, also when this is dropped.
#[derive(Debug)]
pub struct Workers {
    orders: Vec<mpsc::UnboundedSender<Order>>,
    listening: Vec<Listener>,
}

/// Listeners that are to be, with the sockets that are new: one for each worker.
#[derive(Debug)]
pub struct Opened {
    listeners: Vec<Listener>,
    sockets: Vec<Vec<(SocketAddr, Socket)>>,
}

/// What a worker shall listen on from now on.
#[derive(Debug)]
struct Order {
    listeners: Vec<Listener>,
    sockets: Vec<(SocketAddr, Socket)>,
}

/// Starts threads that listen on all these.
pub fn start(shared: &Arc<Shared>, listeners: &[Listener], workers: usize) -> Result<Workers, StartError> {
    let mut workers = Workers::start(shared, workers)?;
    let opened = workers.open(listeners)?;
    workers.listen(opened);
    Ok(workers)
}

impl Workers {
    /// Starts threads that listen on nothing yet.
    pub fn start(shared: &Arc<Shared>, workers: usize) -> Result<Self, StartError> {
        let mut orders = Vec::new();
        for number in 0..workers.max(1) {
            let (send, receive) = mpsc::unbounded_channel();
            orders.push(send);
            let shared = shared.clone();
            let work = move || {
                let mut builder = runtime::Builder::new_current_thread();
                match builder.enable_all().build_local(LocalOptions::default()) {
                    Ok(runtime) => runtime.block_on(run(shared, receive)),
                    Err(error) => tracing::error!(%error, "cannot start a worker's runtime"),
                }
            };
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            thread.spawn(work).map_err(StartError::Thread)?;
        }
        Ok(Self { orders, listening: Vec::new() })
    }

    /// Binds what is not bound yet, once per worker. Connections wait until [`Self::listen`] takes it.
    pub fn open(&self, listeners: &[Listener]) -> Result<Opened, StartError> {
        let new = |listener: &&Listener| !self.listening.iter().any(|l| l.address == listener.address);
        let bind_all = |_| {
            let bound = listeners.iter().filter(new).map(|listener| {
                let address = listener.address;
                let socket = bind(address).map_err(|source| StartError::Listen { address, source })?;
                Ok((address, socket))
            });
            bound.collect::<Result<Vec<_>, StartError>>()
        };
        let sockets = self.orders.iter().map(bind_all).collect::<Result<_, _>>()?;
        Ok(Opened { listeners: listeners.to_vec(), sockets })
    }

    /// Listens on these, and on nothing else any more. Who is connected notices nothing.
    pub fn listen(&mut self, Opened { listeners, sockets }: Opened) {
        for (order, sockets) in self.orders.iter().zip(sockets) {
            // a worker that is gone has said why
            let _ = order.send(Order { listeners: listeners.clone(), sockets });
        }
        self.listening = listeners;
    }
}

/// Serves what it is ordered to; does not return.
async fn run(shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let worker = Worker::new(shared);
    spawn_local({
        let worker = worker.clone();
        async move {
            let mut doors: Vec<Rc<Door>> = Vec::new();
            while let Some(Order { listeners, sockets }) = orders.recv().await {
                doors.retain(|door| {
                    let stays = listeners.iter().find(|l| l.address == door.listener.borrow().address);
                    match stays {
                        Some(listener) => *door.listener.borrow_mut() = listener.clone(),
                        None => door.close.notify_one(),
                    }
                    stays.is_some()
                });
                for (address, socket) in sockets {
                    let Some(listener) = listeners.iter().find(|l| l.address == address) else { continue };
                    let door =
                        Rc::new(Door { listener: RefCell::new(listener.clone()), close: Notify::new() });
                    doors.push(door.clone());
                    spawn_local(accept(worker.clone(), socket, door));
                }
            }
        }
    });
    worker.look_after().await;
}

/// A listening socket's side of an accept loop.
struct Door {
    listener: RefCell<Listener>,
    close: Notify,
}

/// A listening socket; every worker binds its own to the same address.
pub fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// The moment on the monotonic clock that a wall-clock time will be.
pub fn until(time: SystemTime) -> Instant {
    Instant::now() + time.duration_since(SystemTime::now()).unwrap_or_default()
}

async fn accept(worker: Rc<Worker>, socket: Socket, door: Rc<Door>) {
    let listener = match TcpListener::from_std(socket.into()) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be served"),
    };
    let mut backoff = Duration::from_millis(5);
    let mut closes = None;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = sleep_until(closes.unwrap_or_else(Instant::now)), if closes.is_some() => return,
            () = door.close.notified(), if closes.is_none() => {
                // who has connected already is let in
                closes = Some(Instant::now() + SWEEP);
                continue;
            }
        };
        match accepted {
            Ok((tcp, client)) => {
                backoff = Duration::from_millis(5);
                let Listener { direction, source, .. } = *door.listener.borrow();
                let in_flight = worker.shared.drain.in_flight();
                match (direction, source) {
                    (_, Source::Asked { pass }) => {
                        spawn_local(forward_proxy::serve(worker.clone(), tcp, client, pass, in_flight));
                    }
                    (Direction::Outbound, _) => {
                        spawn_local(outbound::serve(worker.clone(), tcp, client, source, in_flight));
                    }
                    (Direction::Inbound, _) => {
                        spawn_local(inbound::serve(worker.clone(), tcp, client, source, in_flight));
                    }
                }
            }
            // the connection that failed is gone, the next one need not be
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; are file descriptors exhausted?");
                sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }
}

impl Worker {
    /// A worker without connections.
    pub fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            decisions: RefCell::new(shared.metrics.authorization()),
            quota: Quota::default(),
            shared,
            clock: Rc::new(Cell::new(std::time::Instant::now())),
            generation: Cell::new(0),
            policy: Notify::new(),
            destinations: RefCell::default(),
            apps: RefCell::default(),
            connections: RefCell::default(),
            ties: RefCell::default(),
        })
    }

    /// Grows whenever the proxy's own certificate or trust changes: older connections are not used again.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// The time, a sweep old at most: for limits that are much longer.
    pub fn now(&self) -> Instant {
        Instant::from_std(self.clock.get())
    }

    /// Starts to watch over a connection.
    pub fn watch_over(&self, ends: Ends, arriving: Option<InFlight>) -> Rc<Activity> {
        self.watch(Activity::new(&self.clock, ends, None, arriving))
    }

    /// As [`Self::watch_over`], for a connection between mesh peers.
    pub fn watch_over_peer(
        &self,
        ends: Ends,
        standing: Standing,
        arriving: Option<InFlight>,
    ) -> Rc<Activity> {
        let peer = (self.shared.standings.count(standing), self.shared.drain.peer());
        self.watch(Activity::new(&self.clock, ends, Some(peer), arriving))
    }

    fn watch(&self, activity: Rc<Activity>) -> Rc<Activity> {
        if self.shared.drain.is_draining() {
            activity.close();
        }
        // both may have changed since the handshake began
        activity.reconsider(&self.shared.identity);
        self.connections.borrow_mut().push(Rc::downgrade(&activity));
        activity
    }

    /// Binds a connection of our own making to its certificates.
    pub fn tie(&self, expires: Instant, standing: Standing) -> Arc<Tie> {
        let tie = Arc::new(Tie::new(expires.into_std(), self.shared.standings.count(standing)));
        tie.reconsider(&self.shared.identity);
        self.ties.borrow_mut().push(Arc::downgrade(&tie));
        tie
    }

    /// Whether the log shall have a line about what ended for this reason, or well, with what policies said about it.
    pub fn is_logged(&self, direction: Direction, reason: Option<&'static str>, verdict: &str) -> bool {
        let log = &self.shared.log;
        let decided = matches!(verdict, "deny" | "audit");
        log.wants(reason.is_some())
            && reason.is_none_or(|why| decided || log.is_complete() || self.quota.admits(direction, why))
    }

    /// Returns at the next change of the workload's policy.
    pub async fn policy_changed(&self) {
        self.policy.notified().await;
    }

    /// What is known of an original destination; asks for it at first use.
    pub fn destination(&self, address: SocketAddr) -> Rc<Destination> {
        let mut all = self.destinations.borrow_mut();
        if let Some(known) = all.get(&address) {
            return known.clone();
        }
        let new = Rc::new(Destination::new(self.shared.destinations.slot(address)));
        if all.len() < MAX_SLOTS {
            all.insert(address, new.clone());
        }
        new
    }

    /// The application on one of the pod's own ports.
    pub fn app(&self, address: SocketAddr) -> Rc<App> {
        self.apps
            .borrow_mut()
            .entry(address)
            .or_insert_with(|| Rc::new(App::new(address, &self.shared)))
            .clone()
    }

    /// Looks after everything that has a limit; does not return.
    async fn look_after(&self) {
        let mut tick = interval(SWEEP);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = false;
        let mut standing = None;
        let mut workload: Option<Arc<Workload>> = None;
        let mut second = self.clock.get();
        loop {
            tick.tick().await;
            self.clock.set(std::time::Instant::now());
            if self.clock.get() - second >= Duration::from_secs(1) {
                second = self.clock.get();
                self.quota
                    .renew(|direction, reason, count| self.shared.log.left_out(direction, reason, count));
            }
            let leaf = self.shared.identity.leaf().map(|leaf| Arc::as_ptr(&leaf).addr());
            let bundle = self.shared.identity.bundle().map(|bundle| Arc::as_ptr(&bundle).addr());
            let now_standing = Some((leaf, bundle));
            let reconsider = now_standing != standing;
            if reconsider {
                standing = now_standing;
                self.generation.set(self.generation.get() + 1);
            }
            let latest = self.shared.workload.load_full();
            if latest.as_ref().map(Arc::as_ptr) != workload.as_ref().map(Arc::as_ptr) {
                workload = latest;
                self.policy.notify_waiters();
            }
            let begins = self.shared.drain.is_draining() && !draining;
            draining |= begins;
            self.connections.borrow_mut().retain(|connection| {
                let Some(connection) = connection.upgrade() else { return false };
                if begins {
                    connection.drain();
                }
                if reconsider {
                    connection.reconsider(&self.shared.identity);
                }
                connection.check();
                true
            });
            self.ties.borrow_mut().retain(|tie| {
                let Some(tie) = tie.upgrade() else { return false };
                if reconsider {
                    tie.reconsider(&self.shared.identity);
                }
                tie.check(self.clock.get());
                true
            });
            self.destinations.borrow_mut().retain(|_, d| d.sweep(self, UNUSED) || Rc::strong_count(d) > 1);
            self.apps.borrow_mut().retain(|_, app| app.sweep(self) || Rc::strong_count(app) > 1);
        }
    }
}
