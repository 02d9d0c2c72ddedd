//! Bounds what untrusted clients can use, over all connections together: connections, requests in flight, memory, time.
//!
//! | resource | bound | when it is reached |
//! |---|---|---|
//! | connections | `MAX_CONNECTIONS`, of which at most [`MAX_HTTP2_CONNECTIONS`] use HTTP/2 | one is closed: see [`Connections`] |
//! | streaming responses and upgraded connections | half of `MAX_CONNECTIONS` | the new one gets 503 |
//! | requests whose response has not begun | `MAX_REQUESTS` | the request whose body has stalled longest gets 408; if no body is incomplete, the new request gets 503 |
//! | memory for bodies, and for heads beyond what each connection has | [`MEMORY`] | the same, except that a small body always has room |

mod body;
mod connections;
mod exchange;
mod operation;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub(super) use body::{RequestBody, ResponseBody};
pub(super) use connections::{Command, Connection, Connections, Need, Ticket};
pub(super) use exchange::{Exchange, LimitError};
pub use operation::{LimitedEndpoint, RequestLimits};

use crate::{app::HttpConfig, clock::Clock};

/// The most fields of a request head, trailers aside. hyper checks it for HTTP/1; h2 knows no such limit.
pub(super) const MAX_FIELDS: usize = 100;

/// The most connections that use HTTP/2. Each has about 40 KiB of buffers and up to 100 streams, so that clients and
/// proxies need few of them.
pub(super) const MAX_HTTP2_CONNECTIONS: usize = 256;

/// Bytes that all request bodies and all large heads may occupy together.
///
/// An open connection uses up to 13 KB, and a request in flight up to 10 KB. With the defaults, 48 MiB keep the process
/// below 15 KB per connection and 96 MB beyond that: 4096 requests of 10 KB take 41 MB, and this takes 50 MB.
pub(super) const MEMORY: usize = 48 * 1024 * 1024;

/// A body up to this size always has room: it is never rejected because of what other clients hold. Hanko's webhooks are
/// smaller, and Hanko does not send them again. `MAX_REQUESTS` bounds how many of them there can be.
pub(super) const SMALL_BODY: usize = 16 * 1024;

/// What all connections of a server share.
pub(super) struct Limits {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) connections: Connections,
    max_requests: usize,
    max_body: usize,
    request_timeout: Duration,
    requests: AtomicUsize,
    memory: AtomicUsize,
    stalled: Mutex<Stalled>,
    is_draining: AtomicBool,
}

/// The requests that wait for bytes of their body, in the order of their last byte.
#[derive(Default)]
struct Stalled {
    next: u64,
    exchanges: BTreeMap<u64, Arc<Exchange>>,
}

impl Limits {
    /// Returns limits as configured, for at most `max_connections`, which the descriptors allow.
    pub(super) fn new(config: &HttpConfig, max_connections: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            connections: Connections::new(max_connections, config.request_timeout),
            clock,
            max_requests: config.max_requests,
            max_body: config.max_request_body,
            request_timeout: config.request_timeout,
            requests: AtomicUsize::new(0),
            memory: AtomicUsize::new(0),
            stalled: Mutex::default(),
            is_draining: AtomicBool::new(false),
        }
    }

    /// Whether the server has been told to shut down.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub(super) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Counts one more request in flight. Returns `false` if there is no room and none can be made.
    fn admit(&self) -> bool {
        if self.requests.fetch_add(1, Ordering::Relaxed) < self.max_requests {
            return true;
        }
        let closes = || self.connections.close_first(Need::Request, &self.clock);
        if self.drop_stalled() || closes().is_some() {
            return true;
        }
        self.requests.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Accounts for `bytes` more. Returns whether they fit, after whatever had to be dropped for them; the bytes are
    /// accounted for in either case.
    fn charge(&self, bytes: usize) -> bool {
        let mut used = self.memory.fetch_add(bytes, Ordering::Relaxed) + bytes;
        while used > MEMORY {
            if !self.drop_stalled() {
                let Some(closed) = self.connections.close_first(Need::Memory, &self.clock) else {
                    return false;
                };
                // At once, so that no more than needed are closed.
                self.release(closed.replace_charge(0));
            }
            used = self.memory.load(Ordering::Relaxed);
        }
        true
    }

    fn release(&self, bytes: usize) {
        self.memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Changes what a connection itself holds: a partial head, or the bytes of a large one.
    pub(super) fn recharge(&self, connection: &Connection, bytes: usize) {
        let before = connection.replace_charge(bytes);
        if bytes < before {
            self.release(before - bytes);
        } else if bytes > before && !self.charge(bytes - before) {
            connection.tell(Command::Close);
        }
    }

    /// Drops the request whose body has stalled longest.
    fn drop_stalled(&self) -> bool {
        let first = {
            let mut stalled = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
            stalled.exchanges.pop_first()
        };
        let Some((_, exchange)) = first else {
            return false;
        };
        exchange.drop_body();
        true
    }

    /// Puts a request at the end of those that wait for their body, and returns its place.
    fn add_stalled(&self, exchange: &Arc<Exchange>) -> u64 {
        let mut stalled = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        let place = stalled.next;
        stalled.next += 1;
        stalled.exchanges.insert(place, Arc::clone(exchange));
        place
    }

    fn remove_stalled(&self, place: u64) {
        let mut stalled = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        stalled.exchanges.remove(&place);
    }
}
