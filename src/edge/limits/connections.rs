//! The open connections, and which of them is closed to make room for another.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::{Limits, MAX_HTTP2_CONNECTIONS, lock, nanoseconds};
use crate::{
    clock::Clock,
    metrics::{Closed, Counters},
};

/// The longest pause between two requests of a connection: longer than the 60 s after which common proxies close an idle
/// connection. So a proxy never sends a request on a connection that is being closed here.
const PAUSE: Duration = Duration::from_secs(75);

/// How long to wait for a connection that was told to close, before another is told.
const CLOSE_PATIENCE: Duration = Duration::from_millis(50);

/// How many connections one scan selects, to be closed one after the other. A scan of 16,384 connections takes about a
/// millisecond, which is too long for each new connection.
const CANDIDATES: usize = 64;

/// How many bytes of responses an HTTP/2 connection accepts before it has written them: h2 holds these bytes, whether or not
/// the client reads. The rest of a response waits in its stream, where it can be reset.
pub(crate) const MAX_UNWRITTEN: usize = 32 * 1024;

/// The initial window of an HTTP/2 stream (RFC 9113 section 6.9.2).
const DEFAULT_WINDOW: u32 = 65_535;

/// A command to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Command {
    /// Finish the requests in flight and accept no more.
    Drain = 1,
    /// Close at once.
    Close = 2,
}

/// The order in which connections are closed to make room. One whose handler is running has no rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Between two requests.
    Idle,
    /// A head or a body is incomplete.
    Incomplete,
    /// A response is finished, and the client does not read it.
    Unread,
}

/// The open connections.
pub(crate) struct Connections {
    max: usize,
    head_timeout: Duration,
    permits: Arc<Semaphore>,
    table: Mutex<Table>,
    /// Streaming responses and upgraded connections.
    streaming: AtomicUsize,
    http2: AtomicUsize,
    closed: Notify,
    closed_for: Counters<{ Closed::COUNT }>,
}

#[derive(Default)]
struct Table {
    open: Vec<Arc<Connection>>,
    /// For each need, the connections that the last scan selected, the first to be closed at the end.
    candidates: [Vec<(Rank, u64, Arc<Connection>)>; 3],
}

/// The resource that closing a connection frees.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// A place for another connection.
    Place,
    /// A place for another connection that uses HTTP/2.
    Http2Place,
    /// Memory, which incomplete heads occupy.
    Memory,
}

impl Need {
    fn reason(self) -> Closed {
        match self {
            Self::Place => Closed::Room,
            Self::Http2Place => Closed::Http2,
            Self::Memory => Closed::Memory,
        }
    }

    /// Whether closing the connection helps.
    fn is_met_by(self, connection: &Connection) -> bool {
        match self {
            Self::Place => true,
            Self::Http2Place => connection.is_http2(),
            Self::Memory => connection.charge.load(Ordering::Relaxed) > 0,
        }
    }
}

/// One open connection, and what it is doing.
pub(crate) struct Connection {
    /// Its index in the table.
    place: AtomicUsize,
    /// When it last received a byte or finished a response, in nanoseconds of the clock.
    active_at: AtomicU64,
    /// When the first byte of the current head arrived; if none has, when the connection was accepted.
    head_began_at: AtomicU64,
    /// Whether its task has not tried to read yet. Until then it is not closed to make room: otherwise a burst of connections
    /// would close one whose request has already arrived.
    is_new: AtomicBool,
    /// Whether any byte has arrived.
    has_received: AtomicBool,
    /// Whether a head is incomplete, as it is on a new connection.
    is_receiving: AtomicBool,
    /// Requests whose response is not finished.
    requests: AtomicU32,
    /// Of these, those that wait for bytes of their body.
    waiting: AtomicU32,
    /// Of these, those whose response is being written.
    responding: AtomicU32,
    /// Of these, the streaming ones; one more if the connection was upgraded.
    streaming: AtomicU32,
    /// Whether the last write was incomplete, since the peer does not read.
    is_blocked: AtomicBool,
    is_http2: AtomicBool,
    is_upgraded: AtomicBool,
    /// Bytes of the shared memory that it holds.
    charge: AtomicUsize,
    /// The deadline that had passed at the last sweep, in nanoseconds; zero: none.
    missed_deadline: AtomicU64,
    command: AtomicU8,
    /// The number of a [`Closed`]: the reason why it was first told to close, or `Ended`.
    closed_for: AtomicU8,
    waker: AtomicWaker,
    /// The smallest window that the client has set for streams of HTTP/2.
    window: AtomicU32,
    /// Bytes of HTTP/2 responses that were passed on since everything was last written.
    unwritten: AtomicUsize,
    /// The streams that wait until everything is written.
    writers: Mutex<Vec<Waker>>,
}

/// Holds a place in the table until it is dropped. The transport owns it, so it also covers an upgraded connection.
pub(crate) struct Ticket {
    pub(crate) limits: Arc<Limits>,
    pub(crate) connection: Arc<Connection>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.limits.recharge(&self.connection, 0);
        self.limits.connections.remove(&self.connection);
    }
}

impl Connections {
    pub(super) fn new(max: usize, head_timeout: Duration) -> Self {
        Self {
            max,
            head_timeout,
            permits: Arc::new(Semaphore::new(max)),
            table: Mutex::default(),
            streaming: AtomicUsize::new(0),
            http2: AtomicUsize::new(0),
            closed: Notify::new(),
            closed_for: Counters::default(),
        }
    }

    /// Waits for a place, closing other connections if there is none, and adds a connection.
    pub(crate) async fn admit(&self, limits: &Arc<Limits>) -> Ticket {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                break permit;
            }
            self.close_first(Need::Place, &limits.clock);
            tokio::select! {
                permit = Arc::clone(&self.permits).acquire_owned() => {
                    if let Ok(permit) = permit {
                        break permit;
                    }
                }
                () = limits.clock.sleep(CLOSE_PATIENCE) => {}
            }
        };
        let now = nanoseconds(limits.clock.monotonic());
        let connection = Arc::new(Connection::new(now));
        let mut table = self.lock();
        connection.place.store(table.open.len(), Ordering::Relaxed);
        table.open.push(Arc::clone(&connection));
        drop(table);
        Ticket {
            limits: Arc::clone(limits),
            connection,
            _permit: permit,
        }
    }

    fn remove(&self, connection: &Connection) {
        {
            let mut table = self.lock();
            let place = connection.place.load(Ordering::Relaxed);
            table.open.swap_remove(place);
            if let Some(moved) = table.open.get(place) {
                moved.place.store(place, Ordering::Relaxed);
            }
        }
        if connection.is_http2.load(Ordering::Relaxed) {
            self.http2.fetch_sub(1, Ordering::Relaxed);
        }
        let streaming = connection.streaming.swap(0, Ordering::Relaxed);
        self.streaming
            .fetch_sub(streaming as usize, Ordering::Relaxed);
        let reason = connection.closed_for.load(Ordering::Relaxed);
        self.closed_for.add(usize::from(reason));
        self.closed.notify_waiters();
    }

    /// Returns how many connections were closed for this reason.
    #[cfg(feature = "server")]
    pub(crate) fn closed_for(&self, reason: Closed) -> u64 {
        self.closed_for.get(reason as usize)
    }

    /// Returns how many connections may be open.
    #[cfg(feature = "server")]
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Returns whether more than a quarter of the places are taken.
    #[cfg(feature = "server")]
    pub(crate) fn are_many(&self) -> bool {
        self.permits.available_permits() < self.max - self.max / 4
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Returns how many connections are open.
    pub(crate) fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// Waits until no connection is open.
    pub(crate) async fn all_closed(&self) {
        loop {
            let closed = self.closed.notified();
            if self.count() == 0 {
                return;
            }
            closed.await;
        }
    }

    pub(crate) fn tell_all(&self, command: Command) {
        for connection in &self.lock().open {
            connection.tell(command, Closed::Shutdown);
        }
    }

    /// Takes a place for an HTTP/2 connection. Returns `false` if there is none and none can be freed.
    pub(crate) fn admit_http2(&self, connection: &Connection, clock: &Arc<dyn Clock>) -> bool {
        let max = MAX_HTTP2_CONNECTIONS.min(self.max.div_ceil(2));
        if self.http2.fetch_add(1, Ordering::Relaxed) >= max
            && self.close_first(Need::Http2Place, clock).is_none()
        {
            self.http2.fetch_sub(1, Ordering::Relaxed);
            connection.closes_for(Closed::Http2);
            return false;
        }
        connection.is_http2.store(true, Ordering::Relaxed);
        true
    }

    /// Counts one more streaming response or upgraded connection. Returns `false` if they already use half of the connections.
    pub(super) fn admit_streaming(&self, connection: &Connection) -> bool {
        if self.streaming.fetch_add(1, Ordering::Relaxed) >= self.max.div_ceil(2) {
            self.streaming.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        connection.streaming.fetch_add(1, Ordering::Relaxed);
        true
    }

    pub(super) fn end_streaming(&self, connection: &Connection) {
        connection.streaming.fetch_sub(1, Ordering::Relaxed);
        self.streaming.fetch_sub(1, Ordering::Relaxed);
    }

    /// Closes the first connection, in the order of [`Rank`], that frees what is needed. Returns it, or `None` if there is none.
    pub(crate) fn close_first(
        &self,
        need: Need,
        clock: &Arc<dyn Clock>,
    ) -> Option<Arc<Connection>> {
        let mut table = self.lock();
        let Table { open, candidates } = &mut *table;
        let candidates = &mut candidates[need as usize];
        for is_second_try in [false, true] {
            if is_second_try {
                candidates.clear();
                candidates.extend(open.iter().filter_map(|connection| {
                    let (rank, since) = connection.rank()?;
                    let is_candidate = need.is_met_by(connection) && !connection.is_told_to_close();
                    is_candidate.then(|| (rank, since, Arc::clone(connection)))
                }));
                let key = |candidate: &(Rank, u64, _)| (candidate.0, candidate.1);
                if candidates.len() > CANDIDATES {
                    candidates.select_nth_unstable_by_key(CANDIDATES, key);
                    candidates.truncate(CANDIDATES);
                }
                candidates.sort_unstable_by_key(|candidate| std::cmp::Reverse(key(candidate)));
            }
            while let Some((rank, since, connection)) = candidates.pop() {
                // It may have been active since the scan.
                if connection.rank() == Some((rank, since))
                    && need.is_met_by(&connection)
                    && connection.tell(Command::Close, need.reason())
                {
                    let now = clock.monotonic();
                    let quiet = now.saturating_sub(Duration::from_nanos(since));
                    tracing::debug!(
                        event = "connection_closed_for_room",
                        ?need,
                        ?rank,
                        ?quiet,
                        "closed a connection to make room"
                    );
                    return Some(connection);
                }
            }
        }
        None
    }

    /// Closes connections whose head or pause takes too long. A connection is closed by the second sweep that finds it late: if
    /// the process was suspended, the bytes that arrived meanwhile are read first.
    ///
    /// One task does this for all connections: hyper's own timer takes an allocation and a registration for each request, does
    /// not cover HTTP/2, and has one limit for the pause and the head together.
    pub(super) fn close_late(&self, now: Duration) {
        for connection in &self.lock().open {
            let deadline = connection
                .deadline(self.head_timeout)
                .filter(|deadline| *deadline <= now)
                .map_or(0, nanoseconds);
            let missed = connection.missed_deadline.swap(deadline, Ordering::Relaxed);
            if deadline == 0 || missed != deadline {
                continue;
            }
            let is_idle = !connection.is_receiving.load(Ordering::Relaxed);
            // The client of an idle HTTP/2 connection gets a GOAWAY.
            let reason = if is_idle {
                Closed::Idle
            } else {
                Closed::HeadTimeout
            };
            if connection.is_http2() && is_idle && connection.tell(Command::Drain, reason) {
                continue;
            }
            connection.tell(Command::Close, reason);
        }
    }
}

impl Connection {
    /// Returns a stand-in for the connection of a request that another server has accepted.
    pub(crate) fn unknown(limits: &Limits) -> Self {
        let connection = Self::new(nanoseconds(limits.clock.monotonic()));
        connection.is_receiving.store(false, Ordering::Relaxed);
        connection
    }

    fn new(now: u64) -> Self {
        Self {
            place: AtomicUsize::new(0),
            active_at: AtomicU64::new(now),
            head_began_at: AtomicU64::new(now),
            is_new: AtomicBool::new(true),
            has_received: AtomicBool::new(false),
            is_receiving: AtomicBool::new(true),
            requests: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            responding: AtomicU32::new(0),
            streaming: AtomicU32::new(0),
            is_blocked: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            is_upgraded: AtomicBool::new(false),
            charge: AtomicUsize::new(0),
            missed_deadline: AtomicU64::new(0),
            command: AtomicU8::new(0),
            closed_for: AtomicU8::new(Closed::Ended as u8),
            waker: AtomicWaker::new(),
            window: AtomicU32::new(DEFAULT_WINDOW),
            unwritten: AtomicUsize::new(0),
            writers: Mutex::default(),
        }
    }

    /// Notes that its task has tried to read.
    pub(crate) fn note_read_attempt(&self) {
        if self.is_new.load(Ordering::Relaxed) {
            self.is_new.store(false, Ordering::Relaxed);
        }
    }

    /// Returns its rank, and when it was last active. `None` if a handler is running, and for new, streaming and upgraded ones.
    fn rank(&self) -> Option<(Rank, u64)> {
        if self.streaming.load(Ordering::Relaxed) > 0 || self.is_new.load(Ordering::Relaxed) {
            return None;
        }
        let requests = self.requests.load(Ordering::Relaxed);
        let waiting = self.waiting.load(Ordering::Relaxed);
        let responding = self.responding.load(Ordering::Relaxed);
        if requests > waiting + responding {
            return None;
        }
        let rank = if responding > 0 || self.is_blocked.load(Ordering::Relaxed) {
            Rank::Unread
        } else if waiting > 0 || self.is_receiving.load(Ordering::Relaxed) {
            Rank::Incomplete
        } else {
            Rank::Idle
        };
        Some((rank, self.active_at.load(Ordering::Relaxed)))
    }

    /// Returns when it must be closed if no request comes; `None` while it has a request.
    fn deadline(&self, head_timeout: Duration) -> Option<Duration> {
        if self.requests.load(Ordering::Relaxed) > 0 || self.streaming.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let (since, limit) = if self.is_receiving.load(Ordering::Relaxed) {
            (&self.head_began_at, head_timeout)
        } else {
            (&self.active_at, PAUSE)
        };
        Some(Duration::from_nanos(since.load(Ordering::Relaxed)) + limit)
    }

    /// Tells the connection what to do, and why. Returns `false` if it has been told already.
    pub(crate) fn tell(&self, command: Command, reason: Closed) -> bool {
        let before = self.command.fetch_max(command as u8, Ordering::Release);
        if before >= command as u8 {
            return false;
        }
        self.closes_for(reason);
        self.waker.wake();
        true
    }

    /// Notes why it is closed, unless a reason has been noted.
    fn closes_for(&self, reason: Closed) {
        let ended = Closed::Ended as u8;
        let (set, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self
            .closed_for
            .compare_exchange(ended, reason as u8, set, failed);
    }

    /// Returns when the head of a request that is about to start was complete.
    pub(super) fn head_complete_at(&self, clock: &Arc<dyn Clock>) -> Duration {
        // An idle HTTP/2 connection does not note when bytes arrive.
        if self.is_http2() {
            return clock.monotonic();
        }
        Duration::from_nanos(self.active_at.load(Ordering::Relaxed))
    }

    fn is_told(&self, command: Command) -> bool {
        self.command.load(Ordering::Acquire) >= command as u8
    }

    pub(crate) fn is_told_to_close(&self) -> bool {
        self.is_told(Command::Close)
    }

    /// Returns the command to the connection, if any, and wakes the task when there is another.
    pub(crate) fn poll_command(&self, context: &mut Context<'_>) -> Option<Command> {
        self.waker.register(context.waker());
        match self.command.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Command::Drain),
            _ => Some(Command::Close),
        }
    }

    /// Ready when there is a command to the connection.
    pub(crate) fn poll_told(&self, context: &mut Context<'_>) -> Poll<Command> {
        self.poll_command(context)
            .map_or(Poll::Pending, Poll::Ready)
    }

    /// Notes that bytes have arrived. Returns whether they start an HTTP/1 head.
    pub(crate) fn received(&self, clock: &Arc<dyn Clock>) -> bool {
        let has_request = self.requests.load(Ordering::Relaxed) > 0;
        let is_receiving = self.is_receiving.load(Ordering::Relaxed);
        // A PING ACK does not make an idle HTTP/2 connection active.
        if self.is_http2.load(Ordering::Relaxed) && !has_request && !is_receiving {
            return false;
        }
        let now = nanoseconds(clock.monotonic());
        self.active_at.store(now, Ordering::Relaxed);
        if !self.has_received.load(Ordering::Relaxed) {
            // The timeout of the first request starts with its first byte.
            self.has_received.store(true, Ordering::Relaxed);
            self.head_began_at.store(now, Ordering::Relaxed);
        }
        if !has_request && !is_receiving {
            self.head_began_at.store(now, Ordering::Relaxed);
            self.is_receiving.store(true, Ordering::Relaxed);
            return true;
        }
        false
    }

    /// Returns whether bytes that arrive now belong to an HTTP/1 head.
    pub(crate) fn is_between_heads(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn set_blocked(&self, is_blocked: bool) {
        if self.is_blocked.load(Ordering::Relaxed) != is_blocked {
            self.is_blocked.store(is_blocked, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// Returns whether a streaming HTTP/1 response is being written.
    pub(crate) fn is_streaming(&self) -> bool {
        self.streaming.load(Ordering::Relaxed) > 0 && !self.is_http2() && !self.is_upgraded()
    }

    pub(super) fn set_upgraded(&self) {
        self.is_upgraded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.is_upgraded.load(Ordering::Relaxed)
    }

    /// Returns how many bytes of the shared memory it holds.
    pub(super) fn charge(&self) -> usize {
        self.charge.load(Ordering::Relaxed)
    }

    pub(super) fn replace_charge(&self, bytes: usize) -> usize {
        self.charge.swap(bytes, Ordering::Relaxed)
    }

    pub(super) fn has_one_request(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 1
    }

    /// Notes that a head is complete. Returns when its first byte arrived, if that is known.
    pub(super) fn begin_request(&self) -> Option<Duration> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let was_receiving = self.is_receiving.load(Ordering::Relaxed);
        if !was_receiving {
            return None;
        }
        self.is_receiving.store(false, Ordering::Relaxed);
        Some(Duration::from_nanos(
            self.head_began_at.load(Ordering::Relaxed),
        ))
    }

    /// Notes that a response has been written, at `now`; `None` if no time has passed since the request arrived.
    pub(super) fn end_request(&self, now: Option<Duration>) {
        if let Some(now) = now {
            self.active_at.store(nanoseconds(now), Ordering::Relaxed);
        }
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn begin_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn begin_responding(&self) {
        self.responding.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_responding(&self) {
        self.responding.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes a window that the client has set for streams of HTTP/2.
    pub(crate) fn set_window(&self, bytes: u32) {
        self.window.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Returns whether a response of this size may exceed the window of its stream. The client can then read a part of it
    /// while h2 holds the rest.
    pub(super) fn may_read_in_parts(&self, bytes: u64) -> bool {
        bytes > self.window.load(Ordering::Relaxed).into()
    }

    /// Ready when the connection accepts more bytes of HTTP/2 responses.
    pub(super) fn poll_takes(&self, context: &Context<'_>) -> Poll<()> {
        let takes = || self.unwritten.load(Ordering::Acquire) < MAX_UNWRITTEN;
        if takes() {
            return Poll::Ready(());
        }
        let mut writers = lock(&self.writers);
        // It may have written everything meanwhile.
        if takes() {
            return Poll::Ready(());
        }
        writers.push(context.waker().clone());
        Poll::Pending
    }

    /// Notes that bytes of an HTTP/2 response were passed on.
    pub(super) fn take(&self, bytes: usize) {
        self.unwritten.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that everything that can be sent was written.
    pub(crate) fn has_written(&self) {
        if self.unwritten.swap(0, Ordering::AcqRel) < MAX_UNWRITTEN {
            return;
        }
        let writers = std::mem::take(&mut *lock(&self.writers));
        for writer in writers {
            writer.wake();
        }
    }
}
