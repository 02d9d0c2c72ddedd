//! Limits the connections, requests in flight, memory and time that untrusted clients can use, over all connections together.
//!
//! | resource | bound | when it is reached |
//! |---|---|---|
//! | connections | a maximum, of which at most [`MAX_HTTP2_CONNECTIONS`] use HTTP/2 | one is closed: see [`Connections`] |
//! | streaming responses and upgraded connections | half of the connections | the new one gets 503 |
//! | requests whose response has not started | a maximum, whose last eighth is for requests whose handler does not wait | the request whose body is furthest behind [its rate](EXPECTED_BYTES_PER_SECOND) gets 408; if no body is incomplete, the new request gets 503 |
//! | HTTP/2 responses that their clients do not read | [`MAX_UNREAD`], and [`UNREAD_TIMEOUT`] without progress | the stream that has made no progress for longest is reset |
//! | memory for bodies, unread responses, and heads that do not fit in a connection's own buffer | [`MEMORY`], and [`SMALL_MEMORY`] more for small bodies | unread responses are reset, and requests with large bodies that are furthest behind get 408; if that would not free enough, the new request gets 503 |

mod body;
mod connections;
mod exchange;
mod operation;
#[cfg(all(test, feature = "server"))]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub(crate) use body::{RequestBody, ResponseBody};
pub(crate) use connections::{Command, Connection, Connections, MAX_UNWRITTEN, Need, Ticket};
pub(in crate::edge) use exchange::with_current;
pub(crate) use exchange::{Exchange, LimitError, take_begun};
pub use operation::{LimitedEndpoint, RequestLimits};

use crate::{
    clock::Clock,
    metrics::{Closed, HttpCounts},
};

/// The largest number of fields in a request head, without trailers. hyper checks it for HTTP/1; h2 has no such limit.
pub(crate) const MAX_FIELDS: usize = 100;

/// The largest number of connections that use HTTP/2. Each has about 40 KiB of buffers and up to 100 streams, so clients and
/// proxies need few of them.
pub(crate) const MAX_HTTP2_CONNECTIONS: usize = 64;

/// Bytes that bodies, unread responses and large heads may occupy together.
///
/// With the defaults, the process stays below 15 KB per connection and 96 MB beyond that:
///
/// | what | MB |
/// |---|---:|
/// | this and [`SMALL_MEMORY`] | 19 |
/// | 4096 requests in flight, each 8 KB | 33 |
/// | webhooks that are held: 16 MiB | 17 |
/// | webhooks that wait for keys: 256 of up to 16 KiB, and 2 MiB of large ones | 6 |
/// | HTTP/2: 64 connections, each with buffers of 25 KB more, [`MAX_UNWRITTEN`], and 100 streams that are ending | 8 |
/// | [`MAX_UNREAD`] HTTP/2 responses of 4 KB | 2 |
/// | memory that the allocator cannot return to the system | 11 |
const MEMORY: usize = 10 * 1024 * 1024;

/// Bytes beyond [`MEMORY`] for requests with small bodies.
const SMALL_MEMORY: usize = 8 * 1024 * 1024;

/// The size up to which a body is small. A small body gets memory however much large bodies and unread responses occupy, and
/// incomplete requests are dropped for it. Only small bodies that running handlers hold can use up this memory. Hanko's
/// webhooks are smaller, and Hanko does not send them again.
pub(crate) const SMALL_BODY: usize = 16 * 1024;

/// The most memory that a request with a small body occupies: its head may be as large as its body.
const SMALL_REQUEST: usize = 2 * SMALL_BODY;

/// One in `RESERVED_PART` places for requests in flight is reserved for requests whose handler waits for nothing but their
/// body, and for [urgent](RequestLimits::urgent) ones.
///
/// Handlers that wait, for Hanko or a database, fill the places: other requests end before the next one starts. So health
/// checks, requests with known sessions, and webhooks are served however many handlers wait. A limit for each client address
/// would not help behind a proxy, where all requests have the address of the proxy.
const RESERVED_PART: usize = 8;

/// The largest number of HTTP/2 responses whose handler has ended and that their clients do not read. HTTP/1 responses need
/// no such limit: there is at most one per connection.
const MAX_UNREAD: usize = 512;

/// How long the client of an HTTP/2 response may read nothing of it: as long as a socket may have unread bytes.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The rate at which a body is expected to arrive. The body that is furthest behind it is dropped first. Otherwise bodies
/// that arrive at one byte a second would outlast those that have just started.
const EXPECTED_BYTES_PER_SECOND: u64 = 16 * 1024;

/// How often connections and responses are checked for their timeouts.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Limits of each request, and of all together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitSettings {
    /// How many requests may wait for the head of their response.
    pub(crate) max_requests: usize,
    /// The largest body, in bytes.
    pub(crate) max_body: usize,
    /// The time for head, body and handler together.
    pub(crate) request_timeout: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_requests: 4096,
            max_body: 256 * 1024,
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// The limits that all connections of a server share, and what is used of them.
pub(crate) struct Limits {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) connections: Connections,
    max_requests: usize,
    max_body: usize,
    request_timeout: Duration,
    requests: AtomicUsize,
    memory: AtomicUsize,
    /// The part of `memory` that connections hold for partial and large heads.
    heads: AtomicUsize,
    stalled: Mutex<Stalled>,
    unread: Mutex<Unread>,
    is_draining: AtomicBool,
    http: Option<HttpCounts>,
}

/// A place for a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Open,
    /// In the reserved part, where handlers may not wait.
    Reserved,
}

/// When the received bytes of a body were due at the expected rate, in nanoseconds of the clock; and a unique number.
type Behind = (u64, u64);

/// The requests that wait for bytes of their body, the one that is furthest behind first.
#[derive(Default)]
struct Stalled {
    last: u64,
    small: Bodies,
    large: Bodies,
}

#[derive(Default)]
struct Bodies {
    exchanges: BTreeMap<Behind, (Arc<Exchange>, usize)>,
    bytes: usize,
}

impl Bodies {
    fn insert(&mut self, key: Behind, exchange: Arc<Exchange>, bytes: usize) {
        self.bytes += bytes;
        self.exchanges.insert(key, (exchange, bytes));
    }

    fn remove(&mut self, key: Behind) {
        if let Some((_, bytes)) = self.exchanges.remove(&key) {
            self.bytes -= bytes;
        }
    }

    fn first(&self) -> Option<Behind> {
        self.exchanges.first_key_value().map(|(key, _)| *key)
    }

    fn pop(&mut self) -> Option<Arc<Exchange>> {
        let (_, (exchange, bytes)) = self.exchanges.pop_first()?;
        self.bytes -= bytes;
        Some(exchange)
    }
}

/// The HTTP/2 responses whose client does not read them; first the one that has made no progress for longest.
#[derive(Default)]
struct Unread {
    last: u64,
    responses: BTreeMap<u64, UnreadResponse>,
    bytes: usize,
}

struct UnreadResponse {
    exchange: Arc<Exchange>,
    since: Duration,
    bytes: usize,
}

impl Unread {
    fn pop_if(&mut self, condition: impl FnOnce(&UnreadResponse) -> bool) -> Option<Arc<Exchange>> {
        let first = self.responses.first_entry()?;
        if !condition(first.get()) {
            return None;
        }
        let response = first.remove();
        self.bytes -= response.bytes;
        Some(response.exchange)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Limits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Limits").finish_non_exhaustive()
    }
}

impl Limits {
    /// Returns limits with these settings, for at most `max_connections`, the number that the descriptors allow.
    pub(crate) fn new(
        settings: LimitSettings,
        max_connections: usize,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            connections: Connections::new(max_connections, settings.request_timeout),
            clock,
            max_requests: settings.max_requests,
            max_body: settings.max_body,
            request_timeout: settings.request_timeout,
            requests: AtomicUsize::new(0),
            memory: AtomicUsize::new(0),
            heads: AtomicUsize::new(0),
            stalled: Mutex::default(),
            unread: Mutex::default(),
            is_draining: AtomicBool::new(false),
            http: None,
        }
    }

    /// Counts requests by these routes.
    #[cfg(feature = "server")]
    pub(crate) fn counting(mut self, routes: impl IntoIterator<Item = String>) -> Self {
        self.http = Some(HttpCounts::new(routes));
        self
    }

    /// Returns the counts of the requests, if they are counted.
    #[cfg(feature = "server")]
    pub(crate) fn http(&self) -> Option<&HttpCounts> {
        self.http.as_ref()
    }

    /// Returns how many requests wait for the head of their response.
    #[cfg(feature = "server")]
    pub(crate) fn in_flight(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns whether the server is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub(crate) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Counts one more request in flight. Returns `None` if there is no place and none can be freed.
    ///
    /// HTTP/2 streams start before their handlers run, so a burst of them fills all places at once. Therefore each connection
    /// has at most one request in the reserved part.
    fn admit(&self, connection: &Connection) -> Option<Place> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        if before < self.open_places() {
            return Some(Place::Open);
        }
        let may_have_reserved = before < self.max_requests && connection.has_one_request();
        if may_have_reserved || self.drop_stalled() {
            return Some(Place::Reserved);
        }
        self.requests.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Returns how many requests whose handlers wait may be in flight.
    fn open_places(&self) -> usize {
        self.max_requests - self.max_requests / RESERVED_PART
    }

    /// Returns whether the handler of a request in the reserved part may wait, since other places are free.
    fn may_wait(&self) -> bool {
        self.requests.load(Ordering::Relaxed) <= self.open_places() || self.drop_stalled()
    }

    /// Counts `bytes` as used memory, and frees memory if they exceed the limit. Returns whether they fit in the end; they are
    /// counted in either case.
    fn charge(&self, bytes: usize, size: Size) -> bool {
        let used = self.memory.fetch_add(bytes, Ordering::Relaxed) + bytes;
        used <= size.memory() || self.make_room(size)
    }

    /// Frees memory until the limit is met, by dropping requests and responses and closing connections. Drops nothing if that
    /// would not be enough.
    fn make_room(&self, size: Size) -> bool {
        loop {
            let used = self.memory.load(Ordering::Relaxed);
            let Some(missing) = used
                .checked_sub(size.memory())
                .filter(|missing| *missing > 0)
            else {
                return true;
            };
            let droppable = lock(&self.unread).bytes + self.heads.load(Ordering::Relaxed) + {
                let stalled = lock(&self.stalled);
                match size {
                    Size::Small => stalled.large.bytes + stalled.small.bytes,
                    Size::Large => stalled.large.bytes,
                }
            };
            let has_dropped = droppable >= missing
                && (self.reset_unread(|_| true)
                    || self.drop_large_stalled()
                    || self.close_head()
                    || (size == Size::Small && self.drop_stalled()));
            if !has_dropped {
                return false;
            }
        }
    }

    fn release(&self, bytes: usize) {
        self.memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Sets how many bytes a connection itself holds: those of a partial or a large head.
    pub(crate) fn recharge(&self, connection: &Connection, bytes: usize) {
        let before = connection.charge();
        if bytes == before {
            return;
        }
        // The sums come first: another thread may subtract the charge from them as soon as the connection has it.
        self.heads.fetch_add(bytes, Ordering::Relaxed);
        let used = self.memory.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let freed = connection.replace_charge(bytes);
        self.heads.fetch_sub(freed, Ordering::Relaxed);
        self.release(freed);
        if bytes > before && used - before > MEMORY && !self.make_room(Size::Large) {
            connection.tell(Command::Close, Closed::Memory);
        }
    }

    /// Closes a connection that holds a partial or large head.
    fn close_head(&self) -> bool {
        let closed = self.connections.close_first(Need::Memory, &self.clock);
        if let Some(connection) = &closed {
            // Counted as free at once, so that no more connections than needed are closed.
            self.recharge(connection, 0);
        }
        closed.is_some()
    }

    /// Drops the request whose body is furthest behind.
    fn drop_stalled(&self) -> bool {
        let first = {
            let mut stalled = lock(&self.stalled);
            match (stalled.small.first(), stalled.large.first()) {
                (Some(small), Some(large)) if large < small => stalled.large.pop(),
                (None, _) => stalled.large.pop(),
                (Some(_), _) => stalled.small.pop(),
            }
        };
        let Some(exchange) = first else {
            return false;
        };
        exchange.drop_body();
        true
    }

    /// Drops the request whose body is furthest behind among those that hold more than a small request.
    fn drop_large_stalled(&self) -> bool {
        let first = lock(&self.stalled).large.pop();
        let Some(exchange) = first else {
            return false;
        };
        exchange.drop_body();
        true
    }

    /// Adds a request to those that wait for their body, and returns its key.
    fn add_stalled(&self, exchange: &Arc<Exchange>, began_at: u64, bytes: usize) -> Behind {
        let mut stalled = lock(&self.stalled);
        stalled.last += 1;
        let key = (began_at, stalled.last);
        let bodies = match Size::of(bytes) {
            Size::Small => &mut stalled.small,
            Size::Large => &mut stalled.large,
        };
        bodies.insert(key, Arc::clone(exchange), bytes);
        key
    }

    fn remove_stalled(&self, key: Behind) {
        let mut stalled = lock(&self.stalled);
        stalled.small.remove(key);
        stalled.large.remove(key);
    }

    /// Adds a response that its client does not read, and returns its place. If there are too many, resets the one that has
    /// made no progress for longest.
    fn add_unread(&self, exchange: &Arc<Exchange>, bytes: usize) -> u64 {
        let since = self.clock.monotonic();
        let (place, is_full) = {
            let mut unread = lock(&self.unread);
            unread.last += 1;
            unread.bytes += bytes;
            let place = unread.last;
            let exchange = Arc::clone(exchange);
            let response = UnreadResponse {
                exchange,
                since,
                bytes,
            };
            unread.responses.insert(place, response);
            (place, unread.responses.len() > MAX_UNREAD)
        };
        if is_full {
            self.reset_unread(|_| true);
        }
        place
    }

    fn remove_unread(&self, place: u64) {
        let mut unread = lock(&self.unread);
        if let Some(response) = unread.responses.remove(&place) {
            unread.bytes -= response.bytes;
        }
    }

    /// Resets the first unread response if it meets the condition.
    fn reset_unread(&self, condition: impl FnOnce(&UnreadResponse) -> bool) -> bool {
        let first = lock(&self.unread).pop_if(condition);
        let Some(exchange) = first else {
            return false;
        };
        exchange.reset();
        true
    }

    /// Closes connections and resets responses that have reached a timeout, until this future is dropped.
    pub(crate) async fn sweep(&self) {
        loop {
            self.clock.sleep(SWEEP_INTERVAL).await;
            let now = self.clock.monotonic();
            self.connections.close_late(now);
            while self.reset_unread(|response| response.since + UNREAD_TIMEOUT <= now) {}
        }
    }
}

/// The size of a request. It decides how much memory the request may use, and for which others it may be dropped: a large
/// one for any, a small one for small ones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

impl Size {
    const fn of(bytes: usize) -> Self {
        if bytes <= SMALL_REQUEST {
            Self::Small
        } else {
            Self::Large
        }
    }

    /// Returns how much memory all requests may occupy together when one of this size needs more.
    const fn memory(self) -> usize {
        match self {
            Self::Small => MEMORY + SMALL_MEMORY,
            Self::Large => MEMORY,
        }
    }
}
