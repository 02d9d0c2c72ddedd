//! Bounds what untrusted clients can use, over all connections together: connections, requests in flight, memory, time.
//!
//! | resource | bound | when it is reached |
//! |---|---|---|
//! | connections | a maximum, of which at most [`MAX_HTTP2_CONNECTIONS`] use HTTP/2 | one is closed: see [`Connections`] |
//! | streaming responses and upgraded connections | half of that | the new one gets 503 |
//! | requests whose response has not begun | a maximum, the last eighth of it for those whose handler does not wait | the request whose body is most behind gets 408; if no body is incomplete, the new request gets 503 |
//! | HTTP/2 responses that their clients do not read | [`MAX_UNREAD`], and [`UNREAD_TIMEOUT`] without progress | the stream of the one without progress for longest is reset |
//! | memory for bodies, unread responses, and heads beyond what each connection has | [`MEMORY`] | unread responses are reset, large bodies that are most behind get 408; if that would not help, the new one gets 503. Small bodies have [`SMALL_MEMORY`] of their own |

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

/// The most fields of a request head, trailers aside. hyper checks it for HTTP/1; h2 knows no such limit.
pub(crate) const MAX_FIELDS: usize = 100;

/// The most connections that use HTTP/2. Each has about 40 KiB of buffers and up to 100 streams, so that clients and
/// proxies need few of them.
pub(crate) const MAX_HTTP2_CONNECTIONS: usize = 64;

/// Bytes that bodies, unread responses and large heads may occupy together.
///
/// With the defaults, the process stays below 15 KB per connection and 96 MB beyond that:
///
/// | what | MB |
/// |---|---:|
/// | this and [`SMALL_MEMORY`] | 19 |
/// | 4096 requests in flight of 8 KB | 33 |
/// | webhooks that are held: 16 MiB | 17 |
/// | webhooks that wait for keys: 256 of up to 16 KiB, and 2 MiB of large ones | 6 |
/// | HTTP/2: 64 connections, each with buffers of 25 KB more, [`MAX_UNWRITTEN`], and 100 streams that are ending | 8 |
/// | [`MAX_UNREAD`] HTTP/2 responses of 4 KB | 2 |
/// | what the allocator cannot give back | 11 |
const MEMORY: usize = 10 * 1024 * 1024;

/// Bytes beyond [`MEMORY`] for requests with small bodies.
const SMALL_MEMORY: usize = 8 * 1024 * 1024;

/// A body up to this size has room whatever large bodies and unread responses occupy, and other incomplete ones give way
/// to it. Hanko's webhooks are smaller, and Hanko does not send them again. Only what running handlers hold of small
/// bodies can take its room.
pub(crate) const SMALL_BODY: usize = 16 * 1024;

/// What a request with a small body occupies at most: its head may be as large.
const SMALL_REQUEST: usize = 2 * SMALL_BODY;

/// This part of the requests in flight is for requests whose handler does not wait for anything but their body, and for
/// [urgent](RequestLimits::urgent) ones.
///
/// Handlers that wait, for Hanko or a database, are what fills the places: the others end before the next begins. So
/// probes, sessions that are known, and webhooks are served however many wait. A share for each client address would not
/// help behind a proxy, from which all requests come.
const RESERVED_PART: usize = 8;

/// The most HTTP/2 responses whose handler has ended and which their clients do not read. Those of HTTP/1 are bounded by
/// the connections.
const MAX_UNREAD: usize = 512;

/// How long the client of an HTTP/2 response may read nothing of it: as long as a socket may have unread bytes.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The rate at which a body is expected to arrive. The one that is most behind is the first to be dropped, so that bodies
/// of one byte a second do not outlast those that have just begun.
const EXPECTED_BYTES_PER_SECOND: u64 = 16 * 1024;

/// How often connections and responses whose time is over are looked for.
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

/// What all connections of a server share.
pub(crate) struct Limits {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) connections: Connections,
    max_requests: usize,
    max_body: usize,
    request_timeout: Duration,
    requests: AtomicUsize,
    memory: AtomicUsize,
    /// Of `memory`, what connections hold for partial and large heads.
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
    /// In the part that handlers may not wait in.
    Reserved,
}

/// When a body would have begun if it had arrived at the expected rate, in nanoseconds of the clock; and a number of its
/// own.
type Behind = (u64, u64);

/// The requests that wait for bytes of their body, the one that is most behind first.
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

/// The HTTP/2 responses whose client does not read them, the one without progress for longest first.
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
    /// Returns limits as configured, for at most `max_connections`, which the descriptors allow.
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

    /// Counts the requests, for these routes.
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

    /// Whether the server has been told to shut down.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub(crate) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Counts one more request in flight. Returns `None` if there is no place and none can be made.
    ///
    /// Streams of HTTP/2 begin before their handlers run, so a burst of them fills all places at once. Hence each
    /// connection has at most one request in the reserved part.
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

    /// How many requests may be in flight whose handlers wait.
    fn open_places(&self) -> usize {
        self.max_requests - self.max_requests / RESERVED_PART
    }

    /// Whether a request whose place is reserved may wait after all.
    fn may_wait(&self) -> bool {
        self.requests.load(Ordering::Relaxed) <= self.open_places() || self.drop_stalled()
    }

    /// Accounts for `bytes` more. Returns whether they fit, after whatever had to be dropped for them; the bytes are
    /// accounted for in either case.
    fn charge(&self, bytes: usize, size: Size) -> bool {
        let used = self.memory.fetch_add(bytes, Ordering::Relaxed) + bytes;
        used <= size.memory() || self.make_room(size)
    }

    /// Drops what can be dropped until the memory suffices. Drops nothing if that would not be enough.
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

    /// Changes what a connection itself holds: a partial head, or the bytes of a large one.
    pub(crate) fn recharge(&self, connection: &Connection, bytes: usize) {
        let before = connection.charge();
        if bytes == before {
            return;
        }
        // First in the sums, from which another thread may subtract it as soon as the connection has it.
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
            // At once, so that no more than needed are closed.
            self.recharge(connection, 0);
        }
        closed.is_some()
    }

    /// Drops the request whose body is most behind.
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

    /// The same among those that hold more than a small request.
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

    /// Adds a response that its client does not read, and returns its place. If there are too many, the one without
    /// progress for longest is reset.
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

    /// Closes connections and resets responses whose time is over, until it is dropped.
    pub(crate) async fn sweep(&self) {
        loop {
            self.clock.sleep(SWEEP_INTERVAL).await;
            let now = self.clock.monotonic();
            self.connections.close_late(now);
            while self.reset_unread(|response| response.since + UNREAD_TIMEOUT <= now) {}
        }
    }
}

/// Whether a request may be dropped to make room for any other, or for small ones only; and what it has room in.
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

    /// What all requests may occupy together when one of this size needs more.
    const fn memory(self) -> usize {
        match self {
            Self::Small => MEMORY + SMALL_MEMORY,
            Self::Large => MEMORY,
        }
    }
}
