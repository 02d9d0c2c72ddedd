//! One request and its response, as far as limits concern them.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;

use super::{
    Behind, Command, Connection, EXPECTED_BYTES_PER_SECOND, Limits, Place, Size, nanoseconds,
};
use crate::{
    clock::Sleep,
    metrics::{Closed, UNMATCHED},
    problem::ProblemType,
};
#[cfg(feature = "server")]
use {crate::metrics::Method, poem::http::StatusCode};

/// Why a request does not get the response of its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum LimitError {
    /// The body is larger than allowed.
    BodyTooLarge = 1,
    /// The body did not arrive in time, or was dropped to make room for others.
    BodyLate,
    /// The handler did not finish in time.
    HandlerLate,
    /// There is no place or memory left for the request.
    Overloaded,
}

impl LimitError {
    pub(crate) const fn problem_type(self) -> ProblemType {
        match self {
            Self::BodyTooLarge => ProblemType::CONTENT_TOO_LARGE,
            Self::BodyLate => ProblemType::REQUEST_TIMEOUT,
            Self::HandlerLate => ProblemType::HANDLER_TIMEOUT,
            Self::Overloaded => ProblemType::OVERLOADED,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::BodyTooLarge),
            2 => Some(Self::BodyLate),
            3 => Some(Self::HandlerLate),
            4 => Some(Self::Overloaded),
            _ => None,
        }
    }
}

/// A request and its response. It counts as in flight until the response starts, and as a request of its connection until the
/// response ends.
pub(crate) struct Exchange {
    limits: Arc<Limits>,
    connection: Arc<Connection>,
    /// When the first byte of its head arrived; `None` stands for the time when the handler first waits.
    began_at: Option<Duration>,
    max_body: AtomicUsize,
    /// In milliseconds.
    timeout: AtomicU64,
    error: AtomicU8,
    is_in_flight: AtomicBool,
    /// Whether its place is in the reserved part, where handlers may not wait.
    is_reserved: AtomicBool,
    /// Whether its handler may wait nevertheless.
    is_urgent: AtomicBool,
    /// Whether its handler or its body had to wait, so that time has passed since its last byte.
    has_waited: AtomicBool,
    /// Its key among the requests that wait for their body; a number of zero: it does not wait.
    stalled_behind: AtomicU64,
    stalled_number: AtomicU64,
    /// When it first waited for its body, in nanoseconds of the clock; zero: it has not.
    body_began_at: AtomicU64,
    /// Its place among the responses that are not read; zero: it has none.
    unread_place: AtomicU64,
    /// What its response occupies while it is not read.
    response_bytes: AtomicUsize,
    /// How many pieces of its response h2 has taken.
    taken: AtomicUsize,
    /// How many it had taken when the response was last found unread.
    unread_since: AtomicUsize,
    /// The number of its route.
    route: AtomicUsize,
    /// When its head was complete.
    head_complete_at: Duration,
    /// Whether its response was dropped to make room.
    is_reset: AtomicBool,
    /// Bytes of the shared memory that it holds.
    charge: AtomicUsize,
    waker: AtomicWaker,
}

/// How many bytes an unread HTTP/2 response occupies in addition to its body: its stream, its task, and its head.
const UNREAD_BYTES: usize = 4 * 1024;

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Exchange {
    /// Begins a request whose head is complete. Fails if there is no room; the exchange exists in either case, since the
    /// rejection is a response, too.
    pub(crate) fn begin(
        limits: &Arc<Limits>,
        connection: &Arc<Connection>,
    ) -> (Arc<Self>, Result<(), LimitError>) {
        let began_at = connection.begin_request();
        let place = limits.admit(connection);
        let exchange = Self {
            limits: Arc::clone(limits),
            connection: Arc::clone(connection),
            began_at,
            max_body: AtomicUsize::new(limits.max_body),
            timeout: AtomicU64::new(milliseconds(limits.request_timeout)),
            error: AtomicU8::new(0),
            is_in_flight: AtomicBool::new(place.is_some()),
            is_reserved: AtomicBool::new(place == Some(Place::Reserved)),
            is_urgent: AtomicBool::new(false),
            has_waited: AtomicBool::new(false),
            stalled_behind: AtomicU64::new(0),
            stalled_number: AtomicU64::new(0),
            body_began_at: AtomicU64::new(0),
            unread_place: AtomicU64::new(0),
            response_bytes: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            unread_since: AtomicUsize::new(0),
            route: AtomicUsize::new(UNMATCHED),
            head_complete_at: match &limits.http {
                Some(_) => connection.head_complete_at(&limits.clock),
                None => Duration::ZERO,
            },
            is_reset: AtomicBool::new(false),
            charge: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
        };
        let outcome = place.map(|_| ()).ok_or(LimitError::Overloaded);
        (Arc::new(exchange), outcome)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.limits.is_draining()
    }

    /// Sets the number of the route that serves the request.
    pub(crate) fn set_route(&self, number: usize) {
        self.route.store(number, Ordering::Relaxed);
    }

    /// Counts the request, whose response begins with this status.
    #[cfg(feature = "server")]
    pub(crate) fn count(&self, method: Method, status: StatusCode) {
        if let Some(http) = &self.limits.http {
            let route = self.route.load(Ordering::Relaxed);
            let now = self.limits.clock.monotonic();
            let duration = now.saturating_sub(self.head_complete_at);
            http.add(method, route, status, duration);
        }
    }

    pub(super) fn set_max_body(&self, bytes: usize) {
        self.max_body.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_timeout(&self, timeout: Duration) {
        self.timeout.store(milliseconds(timeout), Ordering::Relaxed);
    }

    pub(super) fn set_urgent(&self) {
        self.is_urgent.store(true, Ordering::Relaxed);
    }

    pub(super) fn max_body(&self) -> usize {
        self.max_body.load(Ordering::Relaxed)
    }

    /// The limit that the request has run into.
    pub(crate) fn error(&self) -> Option<LimitError> {
        LimitError::from_code(self.error.load(Ordering::Acquire))
    }

    /// Notes the first limit that the request runs into.
    pub(super) fn fail(&self, error: LimitError) {
        let _ = self
            .error
            .compare_exchange(0, error as u8, Ordering::Release, Ordering::Relaxed);
    }

    /// Accounts for `bytes` more of the request.
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), LimitError> {
        let size = Size::of(self.charge.fetch_add(bytes, Ordering::Relaxed) + bytes);
        if self.limits.charge(bytes, size) {
            return Ok(());
        }
        Err(LimitError::Overloaded)
    }

    /// Notes that the request waits for the next bytes of its body, after `received` ones.
    pub(super) fn wait_for_body(self: &Arc<Self>, received: usize) {
        let now = nanoseconds(self.limits.clock.monotonic()).max(1);
        let began_at = match self.body_began_at.load(Ordering::Relaxed) {
            0 => self.began_at.map_or(now, nanoseconds),
            began_at => began_at,
        };
        self.body_began_at.store(began_at, Ordering::Relaxed);
        let expected = (received as u64).saturating_mul(1_000_000_000) / EXPECTED_BYTES_PER_SECOND;
        let behind = began_at.saturating_add(expected).min(now);
        let charge = self.charge.load(Ordering::Relaxed);
        let before = self.stalled_key();
        let (behind, number) = self.limits.add_stalled(self, behind, charge);
        self.stalled_behind.store(behind, Ordering::Relaxed);
        self.stalled_number.store(number, Ordering::Relaxed);
        match before {
            None => self.connection.begin_waiting(),
            Some(before) => self.limits.remove_stalled(before),
        }
    }

    fn stalled_key(&self) -> Option<Behind> {
        let number = self.stalled_number.load(Ordering::Relaxed);
        (number > 0).then(|| (self.stalled_behind.load(Ordering::Relaxed), number))
    }

    /// Notes that bytes of the body have arrived, or that the handler does not read it any more.
    pub(super) fn stop_waiting(&self) {
        if let Some(key) = self.stalled_key() {
            self.stalled_number.store(0, Ordering::Relaxed);
            self.connection.end_waiting();
            self.limits.remove_stalled(key);
            self.has_waited.store(true, Ordering::Relaxed);
        }
    }

    /// Drops the request to make room. What it holds counts as free from now on.
    pub(super) fn drop_body(&self) {
        self.fail(LimitError::BodyLate);
        self.limits.release(self.charge.swap(0, Ordering::Relaxed));
        self.leave_flight();
        self.waker.wake();
    }

    /// Drops the response to make room. What it holds counts as free from now on.
    pub(super) fn reset(&self) {
        self.limits.release(self.charge.swap(0, Ordering::Relaxed));
        self.is_reset.store(true, Ordering::Release);
        if self.taken.load(Ordering::Relaxed) > 0 {
            // h2 sends the reset behind the piece that it already has, which the client may never read.
            self.connection.tell(Command::Close, Closed::Unread);
        }
        self.waker.wake();
    }

    /// Notes that h2 has taken a piece of the response.
    pub(super) fn note_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the stream of the response waits until its client reads. Ready if it was reset.
    pub(crate) fn poll_unread(self: &Arc<Self>, context: &Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.is_reset.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let taken = self.taken.load(Ordering::Relaxed);
        let has_progressed = self.unread_since.swap(taken, Ordering::Relaxed) != taken;
        let place = self.unread_place.load(Ordering::Relaxed);
        if place > 0 && !has_progressed {
            return Poll::Pending;
        }
        if place > 0 {
            self.limits.remove_unread(place);
        } else {
            // Others are reset for it, if there is no room.
            let response = self.response_bytes.load(Ordering::Relaxed);
            self.limits.charge(response, Size::Large);
            self.charge.fetch_add(response, Ordering::Relaxed);
            self.note_waiting();
        }
        let charge = self.charge.load(Ordering::Relaxed);
        let place = self.limits.add_unread(self, charge);
        self.unread_place.store(place, Ordering::Relaxed);
        Poll::Pending
    }

    fn leave_flight(&self) {
        if self.is_in_flight.swap(false, Ordering::Relaxed) {
            self.limits.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Notes that the response starts, with a body of `bytes`. Returns `false` if it is a streaming one, or an upgrade, and there
    /// are too many of those.
    pub(super) fn begin_response(self: &Arc<Self>, kind: ResponseKind, bytes: u64) -> bool {
        let streams = kind != ResponseKind::Finite;
        if streams && !self.limits.connections.admit_streaming(&self.connection) {
            return false;
        }
        if kind == ResponseKind::Upgrade {
            self.connection.set_upgraded();
        }
        self.leave_flight();
        self.connection.begin_responding();
        if !streams && self.connection.is_http2() {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            let bytes = bytes.saturating_add(UNREAD_BYTES);
            self.response_bytes.store(bytes, Ordering::Relaxed);
            BEGUN.set(Some(Arc::clone(self)));
        }
        true
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Notes that the response has ended. An upgraded connection goes on until its transport is dropped.
    pub(super) fn end_response(&self, kind: ResponseKind) {
        let place = self.unread_place.swap(0, Ordering::Relaxed);
        if place > 0 {
            self.limits.remove_unread(place);
        }
        self.connection.end_responding();
        if kind == ResponseKind::Streaming {
            self.limits.connections.end_streaming(&self.connection);
        }
    }

    pub(super) fn note_waiting(&self) {
        self.has_waited.store(true, Ordering::Relaxed);
    }

    /// Polls `handler` within the limits of the request.
    pub(crate) fn limit<F: Future>(self: &Arc<Self>, handler: F) -> Limited<F> {
        Limited {
            handler: Some(handler),
            exchange: Arc::clone(self),
            deadline: None,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.leave_flight();
        let charge = self.charge.swap(0, Ordering::Relaxed);
        if charge > 0 {
            self.limits.release(charge);
        }
        if !self.connection.is_http2() {
            // The bytes of a large head were held by the request.
            self.limits.recharge(&self.connection, 0);
        }
        let now = self
            .has_waited
            .load(Ordering::Relaxed)
            .then(|| self.limits.clock.monotonic());
        self.connection.end_request(now);
    }
}

/// How a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseKind {
    /// After a length that is known.
    Finite,
    /// When its handler ends it.
    Streaming,
    /// The connection is something other than HTTP from now on.
    Upgrade,
}

thread_local! {
    /// The HTTP/2 exchange whose response has begun in the current poll of its stream.
    static BEGUN: RefCell<Option<Arc<Exchange>>> = const { RefCell::new(None) };

    /// The exchange whose handler is being polled. It is not in the data of the request: that map would have to grow for one
    /// more entry, which costs 3% of the instructions of a small request.
    static CURRENT: RefCell<Option<Arc<Exchange>>> = const { RefCell::new(None) };
}

/// Calls `change` with the exchange whose handler is being polled, if there is one.
pub(in crate::edge) fn with_current(change: impl FnOnce(&Exchange)) {
    CURRENT.with_borrow(|current| current.as_deref().map(change));
}

/// Returns the exchange of an HTTP/2 stream if its response has begun in this poll of it.
pub(crate) fn take_begun() -> Option<Arc<Exchange>> {
    BEGUN.take()
}

/// A handler that is dropped when a limit of its request is reached.
pub(crate) struct Limited<F> {
    handler: Option<F>,
    exchange: Arc<Exchange>,
    /// The timer, and when the time that it measures began. Most handlers are ready at once and need none.
    deadline: Option<(Sleep, Duration)>,
}

impl<F: Future + Unpin> Future for Limited<F> {
    type Output = Result<F::Output, LimitError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(handler) = &mut this.handler else {
            return Poll::Pending;
        };
        let outer = CURRENT.replace(Some(Arc::clone(&this.exchange)));
        let outcome = Pin::new(handler).poll(context);
        CURRENT.set(outer);
        if let Poll::Ready(output) = outcome {
            this.handler = None;
            return Poll::Ready(Ok(output));
        }
        let outcome = this.poll_limits(context);
        if outcome.is_ready() {
            this.handler = None;
        }
        outcome.map(Err)
    }
}

impl<F> Limited<F> {
    fn poll_limits(&mut self, context: &mut Context<'_>) -> Poll<LimitError> {
        let exchange = &self.exchange;
        exchange.waker.register(context.waker());
        if let Some(error) = exchange.error() {
            return Poll::Ready(error);
        }
        exchange.note_waiting();
        let is_stalled = exchange.stalled_key().is_some();
        if exchange.is_reserved.load(Ordering::Relaxed)
            && !is_stalled
            && !exchange.is_urgent.load(Ordering::Relaxed)
        {
            if !exchange.limits.may_wait() {
                exchange.fail(LimitError::Overloaded);
                return Poll::Ready(LimitError::Overloaded);
            }
            exchange.is_reserved.store(false, Ordering::Relaxed);
        }
        let clock = &exchange.limits.clock;
        loop {
            let timeout = Duration::from_millis(exchange.timeout.load(Ordering::Relaxed));
            let (sleep, began_at) = self.deadline.get_or_insert_with(|| {
                let now = clock.monotonic();
                let began_at = exchange.began_at.unwrap_or(now);
                let rest = (began_at + timeout).saturating_sub(now);
                (clock.sleep(rest), began_at)
            });
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            // The operation may have set a longer time since the timer was started.
            let rest = (*began_at + timeout).saturating_sub(clock.monotonic());
            if rest.is_zero() {
                break;
            }
            *sleep = clock.sleep(rest);
        }
        let error = if is_stalled {
            LimitError::BodyLate
        } else {
            LimitError::HandlerLate
        };
        exchange.fail(error);
        Poll::Ready(error)
    }
}
