//! Listens, accepts connections, and shuts down.
//!
//! Poem's own server has no timeouts, so an incomplete head keeps a connection open forever. It does not limit connections,
//! and retries without a pause when descriptors run out. Therefore this module has its own loop on hyper-util.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::TaskTracker;

use super::{
    StartError,
    connection::{self, Protocols},
    transport::Transport,
};
use crate::{
    app::HttpConfig,
    edge::{
        EdgeCore,
        limits::{Command, Limits, Need, Ticket},
    },
};

/// How many connections may wait to be accepted. If there are more, a client tries again after a second.
const ACCEPT_BACKLOG: u32 = 4096;
/// How long a client may leave unread what was sent to it.
#[cfg(target_os = "linux")]
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after a connection could not be accepted, for example because descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Descriptors for everything but connections: requests to Hanko (64 validate sessions at once), the revocation store, the
/// log, the listener, and the runtime.
const RESERVED_DESCRIPTORS: u64 = 128;
/// How long an upgraded connection may take to close after it was told to: its handler runs in a task of its own.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(1);

/// A socket that accepts connections.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on an address. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError::Listen`]
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, StartError> {
        Self::try_bind(address).map_err(|source| StartError::Listen { address, source })
    }

    /// Listens on the address of the metrics.
    ///
    /// # Errors
    /// [`StartError::ListenAdmin`]
    pub(crate) fn bind_admin(address: SocketAddr) -> Result<Self, StartError> {
        Self::try_bind(address).map_err(|source| StartError::ListenAdmin { address, source })
    }

    fn try_bind(address: SocketAddr) -> io::Result<Self> {
        let socket = listen(address)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Returns the address, with the actual port if port 0 was requested.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // SO_REUSEADDR: rebind although old connections are in TIME_WAIT.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_BACKLOG)
}

/// Returns how many connections fit in the hard limit of descriptors, at most `wanted`.
pub(crate) fn possible_connections(wanted: usize) -> usize {
    match hard_descriptor_limit() {
        None => wanted,
        Some(descriptors) => fitting(wanted, descriptors, RESERVED_DESCRIPTORS).1,
    }
}

/// Returns how many of these descriptors are reserved, and how many connections fit in the others.
fn fitting(wanted: usize, descriptors: u64, reserved: u64) -> (u64, usize) {
    // With very few descriptors, only half of them are reserved.
    let reserved = reserved.min(descriptors / 2);
    let available = usize::try_from(descriptors - reserved).unwrap_or(usize::MAX);
    (reserved, wanted.min(available).max(1))
}

/// Raises the soft limit of descriptors to the hard limit. Returns how many connections fit in it together with the
/// descriptors of the other listener, at most `wanted`.
pub(super) fn max_connections(wanted: usize, of_admin: u64) -> usize {
    let Some(descriptors) = raise_descriptor_limit() else {
        tracing::info!(
            event = "process_limits",
            max_connections = wanted,
            "descriptors are unlimited"
        );
        return wanted;
    };
    let (reserved, max_connections) = fitting(wanted, descriptors, RESERVED_DESCRIPTORS + of_admin);
    tracing::info!(
        event = "process_limits",
        descriptors,
        reserved,
        max_connections,
        "limits of this process"
    );
    if max_connections < wanted {
        tracing::warn!(
            event = "too_few_descriptors",
            wanted,
            max_connections,
            "the limit of descriptors allows fewer connections than MAX_CONNECTIONS; raise it with `ulimit -Hn` or LimitNOFILE="
        );
    }
    max_connections
}

#[cfg(unix)]
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(event = "descriptor_limit_kept", %error, "could not raise the limit of descriptors");
            limit.current
        }
    }
}

#[cfg(unix)]
fn hard_descriptor_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}

#[cfg(not(unix))]
fn hard_descriptor_limit() -> Option<u64> {
    None
}

#[cfg(not(unix))]
fn raise_descriptor_limit() -> Option<u64> {
    None
}

/// Serves until `shutdown` completes and for `SHUTDOWN_DELAY` after that, and then waits at most `SHUTDOWN_GRACE` for running
/// requests. When it returns, no task of a connection is left.
pub(crate) async fn serve(
    listener: Listener,
    edge: EdgeCore,
    limits: Arc<Limits>,
    config: &HttpConfig,
    shutdown: impl Future<Output = ()>,
) {
    let tasks = TaskTracker::new();
    let protocols = Protocols::new(edge, Arc::clone(&limits), tasks.clone());
    let protocols = Arc::new(protocols);
    let clock = &limits.clock;
    let serving = async {
        tokio::select! {
            never = accept(&listener.socket, &limits, &protocols, &tasks) => never,
            () = limits.sweep() => {}
        }
    };
    let stop = async {
        shutdown.await;
        limits.start_draining();
        if !config.shutdown_delay.is_zero() {
            tracing::info!(event = "shutdown_delayed", delay = ?config.shutdown_delay, "not ready any more; shutting down after the delay");
            clock.sleep(config.shutdown_delay).await;
        }
    };
    tokio::select! {
        () = serving => {}
        () = stop => {}
    }

    accept_queued(&listener.socket, &limits, &protocols, &tasks).await;
    drop(listener);
    let connections = &limits.connections;
    connections.tell_all(Command::Drain);
    let running = connections.count();
    if running > 0 {
        tracing::info!(event = "shutdown_begun", connections = running, grace = ?config.shutdown_grace, "shutting down");
    }
    tokio::select! {
        () = connections.all_closed() => {}
        () = clock.sleep(config.shutdown_grace) => {
            tracing::warn!(event = "shutdown_cut_off", connections = connections.count(), "closing connections that did not end in time");
            connections.tell_all(Command::Close);
        }
    }
    tasks.close();
    tasks.wait().await;
    tokio::select! {
        () = connections.all_closed() => {}
        () = clock.sleep(UPGRADE_PATIENCE) => tracing::warn!(event = "upgrade_not_closed", "an upgraded connection did not close"),
    }
}

/// Accepts connections, each into a task of its own.
async fn accept(
    listener: &TcpListener,
    limits: &Arc<Limits>,
    protocols: &Arc<Protocols>,
    tasks: &TaskTracker,
) {
    // A failure that lasts is logged once, not with every attempt.
    let mut is_failing = false;
    loop {
        let (stream, remote_address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_failing {
                    tracing::warn!(event = "accept_failed", %error, "could not accept a connection");
                }
                is_failing = true;
                // Descriptors may have run out, whatever uses them.
                limits.connections.close_first(Need::Place, &limits.clock);
                limits.clock.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        is_failing = false;
        let ticket = limits.connections.admit(limits).await;
        serve_in_task(stream, remote_address, ticket, protocols, tasks);
    }
}

/// Accepts the connections that the kernel has established. When the listener is closed, the kernel resets those that were
/// not accepted, although their clients may have sent requests.
async fn accept_queued(
    listener: &TcpListener,
    limits: &Arc<Limits>,
    protocols: &Arc<Protocols>,
    tasks: &TaskTracker,
) {
    for _ in 0..ACCEPT_BACKLOG {
        // Lets the runtime poll the listener.
        tokio::task::yield_now().await;
        let Some(Ok((stream, remote_address))) = listener.accept().now_or_never() else {
            return;
        };
        let Some(ticket) = limits.connections.admit(limits).now_or_never() else {
            return;
        };
        serve_in_task(stream, remote_address, ticket, protocols, tasks);
    }
}

fn serve_in_task(
    stream: TcpStream,
    remote_address: SocketAddr,
    ticket: Ticket,
    protocols: &Arc<Protocols>,
    tasks: &TaskTracker,
) {
    set_options(&stream);
    let transport = Transport::new(stream, ticket);
    // Boxed, since a task holds its future twice.
    let serving = connection::serve(transport, remote_address, Arc::clone(protocols));
    tasks.spawn(Box::pin(serving));
}

fn set_options(stream: &TcpStream) {
    // Responses are small and written at once: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    // Otherwise a client that sends requests and never reads would keep the connection open forever.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT));
}
