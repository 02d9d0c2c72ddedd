//! Decides whether a session is still active at Hanko, in each of the session modes.
//!
//! All modes share one kind of validation request ([`request`]), one store of answers ([`store`]), one set of rules for what
//! an answer decides and for how long ([`record`]), and one queue for the requests ([`slots`]).

#[cfg(test)]
mod model;
mod record;
mod request;
mod slots;
mod store;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use url::Url;

pub use self::request::ValidationError;
use self::{
    record::{Answer, Decision, Nanos, Record, nanos},
    request::{Renewal, Requester},
    slots::{Slot, Slots, Ticket},
    store::Store,
};
use super::{
    id::{SessionId, UserId},
    revocation::RevocationStore,
    session::Session,
    streams::{EndReason, Streams},
};
use crate::{
    clock::Clock,
    keys::{FetchReason, RemoteKeySet},
    metrics::{ValidationCounts, ValidationOutcome},
    trace::{Callers, Span},
};

/// How many validation requests may be open at the same time.
const VALIDATIONS_AT_ONCE: usize = 64;
/// How long a validation request waits for one of these slots.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(15);
/// How many requests of one user may wait for validation requests at the same time, in all of the user's sessions together.
/// Without this limit, one signed-in user could occupy every place for requests while Hanko is slow. The browser or program
/// of one person sends far fewer at once, and all requests of a session share one validation request. There is no limit
/// for all users together: after a restart, every session in use is new here, and each of them waits in turn.
const MAX_WAITING_PER_USER: usize = 4 * VALIDATIONS_AT_ONCE;
/// If it takes longer than this to confirm a negative answer, Hanko's database may have been down meanwhile.
const MAX_CONFIRMATION_TIME: Duration = Duration::from_millis(500);
/// At most one failed validation request is logged above the debug level in this time.
const LOG_INTERVAL: Duration = Duration::from_mins(1);
/// An ended session counts as unreported if no webhook follows within this time.
const WEBHOOK_GRACE: Duration = Duration::from_secs(10);
/// This many unreported ends within [`WARNING_PERIOD`] mean that webhooks do not arrive.
const ENDS_TO_WARN: usize = 3;
const WARNING_PERIOD: Duration = Duration::from_hours(1);

/// How the end of a session is noticed before its token expires.
///
/// ```
/// use poem_hanko::{Hanko, HankoUrl, SessionMode};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url: HankoUrl = "https://hanko.example.com".parse()?;
/// let hanko = Hanko::builder(url).session_mode(SessionMode::Stateless).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionMode {
    /// By webhooks alone. No request waits for Hanko.
    Stateless,
    /// By webhooks, and by asking Hanko about sessions in use, in the background. A request waits for Hanko only if its
    /// session is new here or was out of use.
    #[default]
    Hybrid,
    /// By webhooks, and by asking Hanko whenever its last answer is older than [`SessionPolicy::cache_ttl`]. While Hanko is
    /// unavailable, no session is accepted.
    Stateful,
}

impl SessionMode {
    /// Returns the name of the mode in the configuration.
    ///
    /// ```
    /// use poem_hanko::SessionMode;
    ///
    /// assert_eq!(SessionMode::default().name(), "hybrid");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Self::Stateless => "stateless",
            Self::Hybrid => "hybrid",
            Self::Stateful => "stateful",
        }
    }
}

/// How sessions are validated at Hanko.
///
/// ```
/// use std::time::Duration;
///
/// use poem_hanko::{SessionMode, SessionPolicy};
///
/// let mut policy = SessionPolicy::default();
/// policy.mode = SessionMode::Hybrid;
/// policy.cache_ttl = Duration::from_secs(10);
/// assert!(policy.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPolicy {
    /// How the end of a session is noticed. Default: [`SessionMode::Hybrid`].
    pub mode: SessionMode,
    /// How long Hanko's answer about a session is fresh. With zero, [`SessionMode::Stateful`] asks Hanko for every request;
    /// [`SessionMode::Hybrid`] does not allow it. Default: 30 s.
    pub cache_ttl: Duration,
    /// How long a session that Hanko has confirmed is accepted in [`SessionMode::Hybrid`] while Hanko is unavailable; also
    /// how long [`Session::ended`] waits for Hanko before it gives up. Default: 10 min.
    pub max_stale: Duration,
    /// The timeout of one validation request. Default: 5 s.
    pub validation_timeout: Duration,
    /// The number of sessions for which Hanko's last answer is kept. Default: 100,000.
    pub capacity: usize,
}

impl Default for SessionPolicy {
    fn default() -> Self {
        Self {
            mode: SessionMode::default(),
            cache_ttl: Duration::from_secs(30),
            max_stale: Duration::from_mins(10),
            validation_timeout: Duration::from_secs(5),
            capacity: 100_000,
        }
    }
}

/// A [`SessionPolicy`] that contradicts itself.
///
/// ```
/// use std::time::Duration;
///
/// use poem_hanko::{SessionPolicy, SessionPolicyError};
///
/// let mut policy = SessionPolicy::default();
/// policy.cache_ttl = Duration::from_secs(3600);
/// if let Err(SessionPolicyError::ShortMaxStale) = policy.validate() {
///     policy.max_stale = 2 * policy.cache_ttl;
/// }
/// assert!(policy.validate().is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionPolicyError {
    /// In hybrid mode, the cache TTL must be positive.
    #[error("the cache TTL must be more than zero in hybrid mode")]
    ZeroCacheTtl,
    /// In hybrid mode, an answer is used for up to twice its TTL in any case.
    #[error("the maximum staleness must be at least twice the cache TTL in hybrid mode")]
    ShortMaxStale,
    /// The capacity is zero, so no answer could be kept.
    #[error("the capacity must be more than zero")]
    ZeroCapacity,
}

impl SessionPolicy {
    /// Checks that the values are consistent.
    ///
    /// ```
    /// use poem_hanko::{SessionPolicy, SessionPolicyError};
    ///
    /// let mut policy = SessionPolicy::default();
    /// policy.capacity = 0;
    /// assert_eq!(policy.validate(), Err(SessionPolicyError::ZeroCapacity));
    /// ```
    ///
    /// # Errors
    /// [`SessionPolicyError`]
    pub fn validate(&self) -> Result<(), SessionPolicyError> {
        if self.capacity == 0 {
            return Err(SessionPolicyError::ZeroCapacity);
        }
        if self.mode == SessionMode::Hybrid {
            if self.cache_ttl.is_zero() {
                return Err(SessionPolicyError::ZeroCacheTtl);
            }
            if self.max_stale < self.cache_ttl.saturating_mul(2) {
                return Err(SessionPolicyError::ShortMaxStale);
            }
        }
        Ok(())
    }
}

/// The counts and state of the validation requests, for readiness, logs and metrics.
///
/// ```
/// use poem_hanko::{Hanko, ValidationStatus};
///
/// fn report(hanko: &Hanko) {
///     let ValidationStatus { last_error, found_ended, .. } = hanko.validation_status();
///     if let Some(error) = last_error {
///         println!("sessions cannot be validated: {error}");
///     }
///     println!("{found_ended} ended sessions were not reported by webhook");
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValidationStatus {
    /// How many validation requests have ended, successfully or not.
    pub validations: u64,
    /// How many are open, or wait for a slot.
    pub in_flight: usize,
    /// Why the last one failed; `None` if it succeeded, or if none has ended.
    pub last_error: Option<ValidationError>,
    /// How many sessions were found ended at Hanko that no webhook has reported within 10 s.
    pub found_ended: u64,
    /// The number of sessions for which Hanko's last answer is kept.
    pub known_sessions: usize,
}

/// Whether a session is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Active,
    Ended,
}

type Outcome = Result<Status, ValidationError>;

/// Which validation request a caller may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// Any that is open.
    Open,
    /// One that was sent within this time, or has not been sent yet.
    SentWithin(Duration),
    /// Only one that has not been sent yet: Hanko may have answered an open one before the session ended.
    Unsent,
}

/// The requirements of a caller for a validation request.
#[derive(Clone, Copy, Debug)]
struct Need {
    sharing: Sharing,
    renewal: Renewal,
    /// Whether a caller waits for the response.
    is_urgent: bool,
}

/// Asks Hanko about sessions and keeps its answers.
#[derive(Debug)]
pub(super) struct Liveness(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    policy: SessionPolicy,
    requester: Requester,
    keys: Arc<RemoteKeySet>,
    revocations: Arc<dyn RevocationStore>,
    streams: Arc<Streams>,
    clock: Arc<dyn Clock>,
    /// In seconds since 1970-01-01T00:00:00Z.
    started_at: Duration,
    store: Store,
    slots: Slots,
    in_flight: Mutex<HashMap<SessionId, InFlight>>,
    /// The number of waiting requests of each user.
    waiting: Mutex<HashMap<UserId, usize>>,
    /// On the monotonic clock. Until then, Hanko wants no validation requests in the background.
    postponed_until: AtomicU64,
    progress: Mutex<Progress>,
    counts: ValidationCounts,
}

#[derive(Debug, Default)]
struct Progress {
    validations: u64,
    last_error: Option<ValidationError>,
    /// When a failure was last logged.
    last_log: Option<Duration>,
    /// Whether a failure has been logged whose end has not.
    is_failure_logged: bool,
    found_ended: u64,
    /// Sessions found ended whose webhook may still arrive, oldest first, and when to stop waiting for it.
    awaiting_webhook: VecDeque<(Duration, Session)>,
    /// When the last few unreported ends were counted.
    recent_ends: VecDeque<Duration>,
    has_warned: bool,
}

/// The validation requests about one session: one that is open, and one that follows it.
#[derive(Debug)]
struct InFlight {
    current: Question,
    next: Option<(Question, watch::Sender<Option<Outcome>>, Session)>,
}

#[derive(Debug)]
struct Question {
    ticket: Arc<Ticket>,
    renewal: Renewal,
    /// On the monotonic clock.
    sent_at: Option<Duration>,
    /// Whether its outcome is being stored. It is not shared any more: a caller that asks now needs a newer answer.
    is_concluded: bool,
    /// The callers that asked before the request was sent.
    callers: Callers,
    /// Its span, once the request was sent.
    span: Span,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Question {
    fn new(need: Need, now: Duration) -> (Self, watch::Sender<Option<Outcome>>) {
        let (sender, outcome) = watch::channel(None);
        let mut callers = Callers::default();
        callers.add_current(need.is_urgent);
        let question = Self {
            ticket: Arc::new(Ticket::new(need.is_urgent.then_some(now))),
            renewal: need.renewal,
            sent_at: None,
            is_concluded: false,
            callers,
            span: Span::default(),
            outcome,
        };
        (question, sender)
    }

    /// Shares this request if it meets `need`.
    fn share(
        &mut self,
        need: Need,
        slots: &Slots,
        now: Duration,
    ) -> Option<watch::Receiver<Option<Outcome>>> {
        if self.is_concluded {
            return None;
        }
        match self.sent_at {
            None => {
                if need.renewal == Renewal::Renew {
                    self.renewal = Renewal::Renew;
                }
                self.callers.add_current(need.is_urgent);
            }
            Some(sent_at) => {
                let is_recent = match need.sharing {
                    Sharing::Open => true,
                    Sharing::SentWithin(age) => now.saturating_sub(sent_at) < age,
                    Sharing::Unsent => false,
                };
                // A caller that waits needs an answer now. In the background, there is time for another request that renews.
                let renews_enough = need.is_urgent || self.renewal == Renewal::Renew;
                if !is_recent || !(renews_enough || need.renewal == Renewal::Observe) {
                    return None;
                }
                self.span.join_current();
            }
        }
        if need.is_urgent {
            slots.make_urgent(&self.ticket, now);
        }
        Some(self.outcome.clone())
    }
}

impl Liveness {
    pub(super) fn new(
        policy: SessionPolicy,
        url: Url,
        client: reqwest::Client,
        keys: Arc<RemoteKeySet>,
        revocations: Arc<dyn RevocationStore>,
        streams: Arc<Streams>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let unused_after = policy.max_stale.max(policy.cache_ttl.saturating_mul(2));
        Self(Arc::new(Shared {
            requester: Requester {
                url,
                client,
                timeout: policy.validation_timeout,
            },
            keys,
            revocations,
            streams,
            started_at: clock.unix_time(),
            store: Store::new(policy.capacity, unused_after),
            policy,
            clock,
            slots: Slots::new(VALIDATIONS_AT_ONCE),
            in_flight: Mutex::default(),
            waiting: Mutex::default(),
            postponed_until: AtomicU64::new(0),
            progress: Mutex::default(),
            counts: ValidationCounts::default(),
        }))
    }

    /// Decides from memory whether a session in use is active. Returns `None` if the request must call [`wait`](Self::wait).
    /// `now` is the time of the monotonic clock.
    pub(super) fn recall(&self, session: &Session, now: Duration) -> Option<Status> {
        let shared = &self.0;
        let mode = shared.policy.mode;
        if mode == SessionMode::Stateless && shared.store.is_empty() {
            return Some(Status::Active);
        }
        let decision = shared.store.touch(session.id(), now).map_or_else(
            || Record::decide_without(mode),
            |record| record.decide(nanos(now)),
        );
        match decision {
            Decision::Accept => Some(Status::Active),
            Decision::Reject => Some(Status::Ended),
            Decision::AcceptAndRefresh => {
                shared.refresh(session, now);
                Some(Status::Active)
            }
            Decision::RejectAndRefresh => {
                shared.refresh(session, now);
                Some(Status::Ended)
            }
            Decision::Wait => None,
        }
    }

    /// Asks Hanko whether a session is active, after [`recall`](Self::recall) has returned `None`.
    pub(super) async fn wait(&self, session: &Session) -> Outcome {
        // An older answer is not used here. Otherwise a client that sends many requests at once could avoid the question.
        let _place = self.0.place_to_wait(session.user_id())?;
        let sharing = match self.0.policy.mode {
            SessionMode::Stateful => Sharing::SentWithin(self.0.policy.cache_ttl),
            SessionMode::Hybrid | SessionMode::Stateless => Sharing::Open,
        };
        let outcome = self.ask_and_wait(session, sharing).await;
        if outcome.is_err()
            && self.0.store.peek(session.id()).is_some_and(|record| {
                record.is_usable_after_failure(nanos(self.0.clock.monotonic()))
            })
        {
            return Ok(Status::Active);
        }
        outcome
    }

    /// Asks Hanko whether a session is active, whatever is known already. The request is sent after this call.
    pub(super) async fn ask_now(&self, session: &Session) -> Outcome {
        let _place = self.0.place_to_wait(session.user_id())?;
        self.ask_and_wait(session, Sharing::Unsent).await
    }

    async fn ask_and_wait(&self, session: &Session, sharing: Sharing) -> Outcome {
        let mut outcome = self.0.ask(
            session,
            Need {
                sharing,
                renewal: Renewal::Renew,
                is_urgent: true,
            },
        );
        let outcome = outcome.wait_for(Option::is_some).await;
        // The sender is dropped without a value only if its task was dropped.
        outcome.map_or(Err(ValidationError::Transport), |outcome| {
            outcome.clone().unwrap_or(Err(ValidationError::Transport))
        })
    }

    /// Asks Hanko about a session without renewing its idle timeout, and without waiting.
    pub(super) fn observe(&self, session: &Session) {
        if !self.0.is_postponed() {
            self.0.ask(
                session,
                Need {
                    sharing: Sharing::Open,
                    renewal: Renewal::Observe,
                    is_urgent: false,
                },
            );
        }
    }

    /// Returns when the request was sent, on the monotonic clock, in whose response Hanko last confirmed the session.
    pub(super) fn last_confirmed(&self, session: SessionId) -> Option<Duration> {
        self.0
            .store
            .peek(session)
            .filter(Record::is_alive)
            .map(|record| Duration::from_nanos(record.asked_at()))
    }

    /// Returns whether Hanko's last answer was that the session has ended.
    pub(super) fn is_found_ended(&self, session: SessionId) -> bool {
        self.0
            .store
            .peek(session)
            .is_some_and(|record| !record.is_alive())
    }

    pub(super) fn policy(&self) -> &SessionPolicy {
        &self.0.policy
    }

    /// Returns how long a validation request takes at most, without the confirmation of a negative answer.
    pub(super) fn longest_validation(&self) -> Duration {
        MAX_QUEUE_TIME.saturating_add(self.0.policy.validation_timeout)
    }

    /// Returns the pause before another attempt to validate a session in the background.
    pub(super) fn retry_pause(&self) -> Duration {
        record::retry_pause(&self.0.policy)
    }

    #[cfg(feature = "server")]
    pub(super) fn counts(&self) -> &ValidationCounts {
        &self.0.counts
    }

    pub(super) fn status(&self) -> ValidationStatus {
        let in_flight = self.0.in_flight().len();
        let progress = self.0.progress();
        ValidationStatus {
            validations: progress.validations,
            in_flight,
            last_error: progress.last_error.clone(),
            found_ended: progress.found_ended,
            known_sessions: self.0.store.len(),
        }
    }
}

impl Shared {
    fn in_flight(&self) -> MutexGuard<'_, HashMap<SessionId, InFlight>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<UserId, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of the places for waiting requests of this user.
    fn place_to_wait(&self, user: UserId) -> Result<PlaceToWait<'_>, ValidationError> {
        let mut waiting = self.waiting();
        let count = waiting.entry(user).or_default();
        if *count == MAX_WAITING_PER_USER {
            return Err(ValidationError::Overloaded);
        }
        *count += 1;
        Ok(PlaceToWait { shared: self, user })
    }

    fn is_postponed(&self) -> bool {
        nanos(self.clock.monotonic()) < self.postponed_until.load(Ordering::Relaxed)
    }

    /// Asks Hanko again in the background, unless another request of the session has already done so.
    fn refresh(self: &Arc<Self>, session: &Session, now: Duration) {
        if self.is_postponed() {
            return;
        }
        let is_first = self
            .store
            .change(session.id(), now, |record| {
                record.and_then(|record| record.refreshing(nanos(now)))
            })
            .is_some();
        if is_first {
            self.ask(
                session,
                Need {
                    sharing: Sharing::Open,
                    renewal: Renewal::Renew,
                    is_urgent: false,
                },
            );
        }
    }

    /// Shares the open validation request about this session, or sends one in its own task, so that it goes on if its first
    /// caller is dropped. There is never more than one open request about a session.
    fn ask(self: &Arc<Self>, session: &Session, need: Need) -> watch::Receiver<Option<Outcome>> {
        let now = self.clock.monotonic();
        let mut in_flight = self.in_flight();
        if let Some(of_session) = in_flight.get_mut(&session.id()) {
            if let Some(outcome) = of_session.current.share(need, &self.slots, now) {
                return outcome;
            }
            if let Some((next, ..)) = &mut of_session.next
                && let Some(outcome) = next.share(need, &self.slots, now)
            {
                return outcome;
            }
            let (question, sender) = Question::new(need, now);
            let outcome = question.outcome.clone();
            of_session.next = Some((question, sender, session.clone()));
            return outcome;
        }
        let (question, sender) = Question::new(need, now);
        let outcome = question.outcome.clone();
        let ticket = Arc::clone(&question.ticket);
        in_flight.insert(
            session.id(),
            InFlight {
                current: question,
                next: None,
            },
        );
        drop(in_flight);
        let asking = Asking {
            shared: Arc::clone(self),
            session: session.clone(),
            ticket,
            sender,
            is_open: true,
        };
        tokio::spawn(asking.run());
        outcome
    }

    /// Sends a validation request, and confirms a negative answer by a fetch of the keys.
    ///
    /// While its database is down, Hanko says that every session is invalid, and its keys cannot be fetched. So a negative
    /// answer counts only if a fetch that started after it succeeds. If the database may have come back between the two, the
    /// successful fetch proves nothing about the answer, and Hanko is asked once more.
    async fn validate(
        &self,
        session: &Session,
        ticket: &Arc<Ticket>,
        span: &mut Span,
    ) -> Result<Answer, ValidationError> {
        let mut was_failing = self.keys.is_failing();
        let mut answer = self.send(session, ticket, span).await?;
        for is_last in [false, true] {
            if answer.is_alive {
                return Ok(answer);
            }
            was_failing |= self.keys.is_failing();
            let answered_at = self.clock.monotonic();
            let fetch = self.keys.fetch_again(FetchReason::Confirmation);
            if !span.enclose(fetch).await {
                return Err(ValidationError::Unconfirmed);
            }
            let took = self.clock.monotonic().saturating_sub(answered_at);
            if is_last || !(was_failing || took >= MAX_CONFIRMATION_TIME) {
                break;
            }
            let urgent = Ticket::new(Some(self.clock.monotonic()));
            answer = self.send(session, &Arc::new(urgent), span).await?;
        }
        Ok(answer)
    }

    /// Waits for a slot for at most [`MAX_QUEUE_TIME`]. That time starts again when a caller starts to wait for the response.
    async fn acquire_slot(&self, ticket: &Arc<Ticket>) -> Result<Slot<'_>, ValidationError> {
        let slot = self.slots.acquire(ticket);
        tokio::pin!(slot);
        let mut gives_up_at = self.clock.monotonic() + MAX_QUEUE_TIME;
        loop {
            let rest = gives_up_at.saturating_sub(self.clock.monotonic());
            tokio::select! {
                slot = &mut slot => return Ok(slot),
                () = self.clock.sleep(rest) => match ticket.urgent_since() {
                    Some(since) if since + MAX_QUEUE_TIME > gives_up_at => {
                        gives_up_at = since + MAX_QUEUE_TIME;
                    }
                    _ => return Err(ValidationError::Overloaded),
                },
            }
        }
    }

    /// Waits for a slot and sends one request. The first request about a question starts its span.
    async fn send(
        &self,
        session: &Session,
        ticket: &Arc<Ticket>,
        span: &mut Span,
    ) -> Result<Answer, ValidationError> {
        let _slot = self.acquire_slot(ticket).await?;
        let renewal = {
            let mut in_flight = self.in_flight();
            let Some(of_session) = in_flight.get_mut(&session.id()) else {
                return Err(ValidationError::Transport);
            };
            // Not changed by a second request about the same question: callers may share it no longer than before.
            of_session
                .current
                .sent_at
                .get_or_insert_with(|| self.clock.monotonic());
            if span.is_none() {
                *span = Span::validation(&of_session.current.callers);
                of_session.current.span = span.clone();
            }
            of_session.current.renewal
        };
        if !ticket.is_urgent() && self.is_postponed() {
            return Err(ValidationError::Postponed);
        }
        let sent_at = self.clock.monotonic();
        let sent = self
            .requester
            .send(session.id(), session.token(), renewal, &*self.clock);
        let outcome = span.enclose(sent).await;
        let duration = self.clock.monotonic().saturating_sub(sent_at);
        self.counts.durations.record(duration);
        outcome.map_err(|failure| {
            if let Some(pause) = failure.postponed_for {
                let until = nanos(self.clock.monotonic() + pause);
                self.postponed_until.fetch_max(until, Ordering::Relaxed);
            }
            failure.error
        })
    }

    /// Stores and counts the outcome of a validation request.
    fn conclude(
        self: &Arc<Self>,
        session: &Session,
        asked_at: Nanos,
        outcome: Result<Answer, ValidationError>,
        span: &Span,
    ) -> Outcome {
        let (policy, now) = (&self.policy, self.clock.monotonic());
        let jitter = fastrand::f64();
        let change = |previous: Option<&Record>| match &outcome {
            // Without a record, a stateless request is accepted anyway.
            Ok(answer)
                if policy.mode == SessionMode::Stateless
                    && answer.is_alive
                    && previous.is_none() =>
            {
                None
            }
            Ok(answer) => Some(Record::answered(previous, answer, policy, jitter)),
            Err(_) => previous.map(|record| record.failed(asked_at, nanos(now), policy, jitter)),
        };
        let changed = self.store.change(session.id(), now, change);
        self.count(outcome.as_ref().err(), now);
        let counted_as = match &outcome {
            Ok(answer) if answer.is_alive => ValidationOutcome::Active,
            Ok(_) => ValidationOutcome::Ended,
            Err(error) => error.counted_as(),
        };
        self.counts.validated(counted_as);
        span.outcome(counted_as.name());
        if outcome.is_err() {
            span.failed(counted_as.name());
        }
        match outcome {
            Ok(answer) if answer.is_alive => {
                let asked_at = Duration::from_nanos(answer.asked_at);
                self.streams.confirmed(session.id(), asked_at);
                Ok(Status::Active)
            }
            // Hanko has no leeway, and no webhook reports that a token has expired.
            Ok(_) if self.clock.unix_time() >= session.expires_at().since_epoch() => {
                self.streams.finish(session.id(), EndReason::Expired);
                Ok(Status::Ended)
            }
            Ok(_) => {
                self.streams.finish(session.id(), EndReason::FoundEnded);
                let previous = changed.and_then(|(previous, _)| previous);
                self.found_ended(session, previous.as_ref(), now);
                Ok(Status::Ended)
            }
            Err(error) => Err(error),
        }
    }

    fn count(&self, error: Option<&ValidationError>, now: Duration) {
        if error == Some(&ValidationError::Postponed) {
            return;
        }
        let mut progress = self.progress();
        progress.validations += 1;
        let was_failing = progress.last_error.is_some();
        if progress.last_error.as_ref() != error {
            progress.last_error = error.cloned();
        }
        // An outage is logged when it starts and when it ends, however many sessions notice it. Repeated short outages do not
        // fill the log.
        let is_recent = |last: Duration| now.saturating_sub(last) < LOG_INTERVAL;
        let is_logged = match error {
            Some(_) => !was_failing && !progress.last_log.is_some_and(is_recent),
            None => std::mem::take(&mut progress.is_failure_logged),
        };
        if is_logged && error.is_some() {
            progress.last_log = Some(now);
            progress.is_failure_logged = true;
        }
        drop(progress);
        match error {
            Some(error) if is_logged => {
                tracing::warn!(event = "validation_failed", %error, "validating a session failed");
            }
            Some(error) => {
                tracing::debug!(event = "validation_failed", %error, "validating a session failed");
            }
            None if is_logged => tracing::info!(
                event = "validation_recovered",
                "Hanko validates sessions again"
            ),
            None => {}
        }
    }

    /// Waits for the webhook that should report the end of a session, if this process was running when it ended.
    fn found_ended(self: &Arc<Self>, session: &Session, previous: Option<&Record>, now: Duration) {
        let ended_here = match previous {
            Some(record) => record.is_alive(),
            None => session
                .issued_at()
                .is_some_and(|issued_at| issued_at.since_epoch() >= self.started_at),
        };
        if !ended_here {
            return;
        }
        let mut progress = self.progress();
        let is_first = progress.awaiting_webhook.is_empty();
        progress
            .awaiting_webhook
            .push_back((now + WEBHOOK_GRACE, session.clone()));
        drop(progress);
        if is_first {
            tokio::spawn(Arc::clone(self).await_webhooks());
        }
    }

    /// Counts the ends that no webhook has reported in time, until no session is left to wait for.
    async fn await_webhooks(self: Arc<Self>) {
        loop {
            let Some((deadline, session)) = self.progress().awaiting_webhook.front().cloned()
            else {
                return;
            };
            let wait = deadline.saturating_sub(self.clock.monotonic());
            self.clock.sleep(wait).await;
            let is_reported =
                self.revocations
                    .is_revoked(session.id(), session.user_id(), session.issued_at());
            if !is_reported {
                self.count_unreported_end(session.id(), deadline);
            }
            let mut progress = self.progress();
            progress.awaiting_webhook.pop_front();
            if progress.awaiting_webhook.is_empty() {
                return;
            }
        }
    }

    fn count_unreported_end(&self, session: SessionId, at: Duration) {
        let mut progress = self.progress();
        progress.found_ended += 1;
        progress.recent_ends.push_back(at);
        if progress.recent_ends.len() > ENDS_TO_WARN {
            progress.recent_ends.pop_front();
        }
        let first = progress.recent_ends.front().copied().unwrap_or(at);
        let is_frequent = progress.recent_ends.len() == ENDS_TO_WARN
            && at.saturating_sub(first) <= WARNING_PERIOD;
        let warns = is_frequent && !progress.has_warned;
        progress.has_warned |= warns;
        drop(progress);
        tracing::info!(event = "session_found_ended", session_id = %session, "found that a session has ended at Hanko, and no webhook has reported it");
        if warns {
            tracing::warn!(
                event = "webhooks_missing",
                "webhooks about ended sessions seem not to arrive: check that Hanko has a webhook to /webhooks/hanko with \
                 the event `session`, and look for rejected webhooks in this log. Hanko up to v3.0.4 has no such event; \
                 sessions that end there are found only by validation"
            );
        }
    }
}

/// A place for a waiting request. Dropping it frees the place.
struct PlaceToWait<'a> {
    shared: &'a Shared,
    user: UserId,
}

impl Drop for PlaceToWait<'_> {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        if let Some(count) = waiting.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.user);
            }
        }
    }
}

/// The task that sends validation requests about a session, one after the other, until no more are requested.
struct Asking {
    shared: Arc<Shared>,
    session: Session,
    ticket: Arc<Ticket>,
    sender: watch::Sender<Option<Outcome>>,
    /// Whether the session has an entry in `in_flight`.
    is_open: bool,
}

impl Asking {
    async fn run(mut self) {
        loop {
            let asked_at = nanos(self.shared.clock.monotonic());
            let mut span = Span::default();
            let outcome = self
                .shared
                .validate(&self.session, &self.ticket, &mut span)
                .await;
            // Before the outcome is stored: a request that finds the new record due must not share this question.
            if let Some(of_session) = self.shared.in_flight().get_mut(&self.session.id()) {
                of_session.current.is_concluded = true;
            }
            let outcome = self
                .shared
                .conclude(&self.session, asked_at, outcome, &span);
            // Ended before the callers continue.
            drop(span);
            let next = {
                let mut in_flight = self.shared.in_flight();
                let next = in_flight
                    .get_mut(&self.session.id())
                    .and_then(|of_session| {
                        let (question, sender, session) = of_session.next.take()?;
                        let ticket = Arc::clone(&question.ticket);
                        of_session.current = question;
                        Some((ticket, sender, session))
                    });
                if next.is_none() {
                    in_flight.remove(&self.session.id());
                    self.is_open = false;
                }
                next
            };
            self.sender.send_replace(Some(outcome));
            let Some((ticket, sender, session)) = next else {
                return;
            };
            (self.ticket, self.sender, self.session) = (ticket, sender, session);
        }
    }
}

impl Drop for Asking {
    /// Removes the open question if the task is dropped, even before it has run.
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        self.shared.in_flight().remove(&self.session.id());
        let now = self.shared.clock.monotonic();
        self.shared.store.change(self.session.id(), now, |record| {
            record.map(|record| record.failed(nanos(now), nanos(now), &self.shared.policy, 0.0))
        });
    }
}
