//! Ends streams when their session ends, for [`Session::ended`].
//!
//! One task watches all streams. It validates their sessions at Hanko, because an open stream causes no requests that would
//! do so.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast::error::RecvError},
    task::AbortHandle,
};

use super::{
    authenticate::Inner,
    id::SessionId,
    liveness::SessionMode,
    revocation::{Revocation, Target},
    session::Session,
};

/// The interval at which the session of a stream is validated if [`SessionPolicy::cache_ttl`](super::SessionPolicy) is
/// shorter.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Why a session ended while a stream was open.
///
/// ```
/// use poem_hanko::{EndReason, Session};
///
/// async fn last_message(session: Session) -> &'static str {
///     match session.ended().await {
///         EndReason::Revoked | EndReason::FoundEnded => "You have signed out.",
///         EndReason::Expired => "Sign in again.",
///         _ => "Connect again.",
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// Hanko reported the end by webhook, to this replica or another.
    Revoked,
    /// Hanko was asked, and said that the session is no longer valid.
    FoundEnded,
    /// The key that signed the token has left the JWK Set.
    KeyWithdrawn,
    /// The token has expired, including the leeway.
    Expired,
    /// It is not known whether the session is still active: Hanko has not confirmed it for
    /// [`SessionPolicy::max_stale`](super::SessionPolicy::max_stale), or the keys are too old to be used.
    Unverifiable,
}

impl fmt::Display for EndReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Revoked => "the session was revoked",
            Self::FoundEnded => "the session has ended at Hanko",
            Self::KeyWithdrawn => "the key of the session token was withdrawn",
            Self::Expired => "the session token has expired",
            Self::Unverifiable => "the session cannot be verified",
        })
    }
}

/// The sessions that streams wait for.
#[derive(Debug, Default)]
pub(super) struct Streams {
    registry: Mutex<Registry>,
    /// Tells the task to read the registry again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    sessions: HashMap<SessionId, Watched>,
    /// When each session must be checked, on the monotonic clock.
    due: BTreeSet<(Duration, SessionId)>,
    task: Option<AbortHandle>,
}

#[derive(Debug)]
struct Watched {
    /// With its token, which is sent to Hanko to validate it.
    session: Session,
    end: Arc<End>,
    streams: usize,
    due: Duration,
    /// When the request was sent, on the monotonic clock, in whose response Hanko last confirmed the session.
    confirmed_at: Duration,
}

#[derive(Debug, Default)]
struct End {
    reason: OnceLock<EndReason>,
    reached: Notify,
}

impl Registry {
    fn schedule(&mut self, session: SessionId, due: Duration) {
        if let Some(watched) = self.sessions.get_mut(&session) {
            self.due.remove(&(watched.due, session));
            watched.due = due;
            self.due.insert((due, session));
        }
    }

    fn remove(&mut self, session: SessionId) -> Option<Watched> {
        let watched = self.sessions.remove(&session)?;
        self.due.remove(&(watched.due, session));
        Some(watched)
    }
}

impl Streams {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes the streams of a session.
    pub(super) fn finish(&self, session: SessionId, reason: EndReason) {
        let watched = self.registry().remove(session);
        if let Some(watched) = watched {
            watched.end.reach(reason);
        }
    }

    /// Completes all streams, since no task will watch them any more.
    pub(super) fn abandon(&self) {
        let mut registry = self.registry();
        if let Some(task) = registry.task.take() {
            task.abort();
        }
        registry.due.clear();
        for (_, watched) in registry.sessions.drain() {
            watched.end.reach(EndReason::Unverifiable);
        }
    }

    /// Notes that Hanko has confirmed the session in response to a request sent at `asked_at`.
    pub(super) fn confirmed(&self, session: SessionId, asked_at: Duration) {
        if let Some(watched) = self.registry().sessions.get_mut(&session) {
            watched.confirmed_at = watched.confirmed_at.max(asked_at);
        }
    }

    fn join(self: &Arc<Self>, inner: &Arc<Inner>, session: &Session) -> Waiting {
        let now = inner.clock.monotonic();
        let id = session.id();
        let mut registry = self.registry();
        if registry.task.as_ref().is_none_or(AbortHandle::is_finished) {
            registry.task = Some(tokio::spawn(watch_streams(inner)).abort_handle());
        }
        let watched = registry.sessions.entry(id).or_insert_with(|| Watched {
            session: session.clone(),
            end: Arc::default(),
            streams: 0,
            due: now,
            // An older answer keeps its age.
            confirmed_at: inner.liveness.last_confirmed(id).unwrap_or(now),
        });
        watched.streams += 1;
        let is_first = watched.streams == 1;
        let end = Arc::clone(&watched.end);
        if is_first {
            registry.schedule(id, now);
            self.changed.notify_one();
        }
        Waiting {
            streams: Arc::clone(self),
            session: id,
            end,
        }
    }
}

impl End {
    fn reach(&self, reason: EndReason) {
        // The first reason counts.
        let _ = self.reason.set(reason);
        self.reached.notify_waiters();
    }
}

/// A stream that waits. When the last one of a session is dropped, the session is no longer watched.
struct Waiting {
    streams: Arc<Streams>,
    session: SessionId,
    end: Arc<End>,
}

impl Waiting {
    async fn end(&self) -> EndReason {
        loop {
            let reached = self.end.reached.notified();
            if let Some(reason) = self.end.reason.get() {
                return *reason;
            }
            reached.await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut registry = self.streams.registry();
        let is_last = registry
            .sessions
            .get_mut(&self.session)
            // A later stream of the same session may be watched by a new entry.
            .filter(|watched| Arc::ptr_eq(&watched.end, &self.end))
            .is_some_and(|watched| {
                watched.streams -= 1;
                watched.streams == 0
            });
        if is_last {
            registry.remove(self.session);
        }
    }
}

/// Waits until the session ends.
pub(super) async fn ended(session: Session) -> EndReason {
    let waiting = {
        let Some(inner) = session.hanko() else {
            return EndReason::Unverifiable;
        };
        let waiting = inner.streams.join(&inner, &session);
        // Joined before this check, so that no end is missed between the two.
        if let Some(reason) = inner.end_of(&session) {
            return reason;
        }
        waiting
    };
    // The registry keeps the session, with its token, as long as this stream waits.
    drop(session);
    waiting.end().await
}

/// Watches all streams until the [`Inner`] is dropped.
fn watch_streams(inner: &Arc<Inner>) -> impl Future<Output = ()> + Send + use<> {
    // Subscribes before the first stream joins.
    let mut revocations = inner.revocations.subscribe();
    let mut key_sets = inner.keys.fetches_ended();
    let clock = Arc::clone(&inner.clock);
    let streams = Arc::clone(&inner.streams);
    let inner = Arc::downgrade(inner);
    async move {
        let mut is_subscribed = true;
        loop {
            let next = streams.registry().due.first().map(|(due, _)| *due);
            let is_due = async {
                match next {
                    Some(due) => clock.sleep(due.saturating_sub(clock.monotonic())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                revocation = revocations.recv(), if is_subscribed => {
                    let Some(inner) = inner.upgrade() else { return };
                    match revocation {
                        Ok(revocation) => apply(&inner, &revocation),
                        Err(RecvError::Lagged(_)) => finish_ended(&inner),
                        Err(RecvError::Closed) => is_subscribed = false,
                    }
                }
                changed = key_sets.changed() => {
                    let Some(inner) = inner.upgrade() else { return };
                    if changed.is_err() {
                        return;
                    }
                    finish_ended(&inner);
                }
                () = streams.changed.notified() => {}
                () = is_due => check_due(&inner),
            }
        }
    }
}

/// Ends the streams whose session was revoked.
fn apply(inner: &Inner, revocation: &Revocation) {
    match revocation.target {
        Target::Session(session) => inner.streams.finish(session, EndReason::Revoked),
        Target::User { .. } => finish_ended(inner),
    }
}

/// Checks all sessions, and ends the streams of those that have ended.
fn finish_ended(inner: &Inner) {
    let sessions: Vec<Session> = inner
        .streams
        .registry()
        .sessions
        .values()
        .map(|watched| watched.session.clone())
        .collect();
    for session in sessions {
        if let Some(reason) = inner.end_of(&session) {
            inner.streams.finish(session.id(), reason);
        }
    }
}

/// Checks the sessions that are due: validates them, and ends their streams if that has failed for too long.
fn check_due(inner: &Weak<Inner>) {
    let Some(inner) = inner.upgrade() else { return };
    let now = inner.clock.monotonic();
    loop {
        let (session, confirmed_at) = {
            let mut registry = inner.streams.registry();
            let Some((due, id)) = registry.due.first().copied().filter(|(due, _)| *due <= now)
            else {
                return;
            };
            let Some(watched) = registry.sessions.get(&id) else {
                registry.due.remove(&(due, id));
                continue;
            };
            (watched.session.clone(), watched.confirmed_at)
        };
        match next_check(&inner, &session, confirmed_at, now) {
            Ok(due) => inner.streams.registry().schedule(session.id(), due),
            Err(reason) => inner.streams.finish(session.id(), reason),
        }
    }
}

/// Checks a session, and returns when to check it again, or why its streams end.
fn next_check(
    inner: &Inner,
    session: &Session,
    confirmed_at: Duration,
    now: Duration,
) -> Result<Duration, EndReason> {
    if let Some(reason) = inner.end_of(session) {
        return Err(reason);
    }
    let expires_in = (session.expires_at().since_epoch() + inner.session_rules.leeway)
        .saturating_sub(inner.clock.unix_time());
    // At least 1 ms later, so that the task does not spin if the clock was set back.
    let expires_at = now.saturating_add(expires_in.max(Duration::from_millis(1)));
    let policy = inner.liveness.policy();
    // From `exp` on, Hanko says that the session is invalid, without the leeway that is allowed here.
    let has_expired_at_hanko = inner.clock.unix_time() >= session.expires_at().since_epoch();
    if policy.mode == SessionMode::Stateless || has_expired_at_hanko {
        return Ok(expires_at);
    }
    let confirmed_at = inner
        .liveness
        .last_confirmed(session.id())
        .map_or(confirmed_at, |at| at.max(confirmed_at));
    let validate_at = confirmed_at.saturating_add(policy.cache_ttl.max(MIN_INTERVAL));
    let gives_up_at = confirmed_at
        .saturating_add(policy.max_stale)
        // Not before a validation request has had enough time.
        .max(validate_at.saturating_add(inner.liveness.longest_validation()));
    if now >= gives_up_at {
        return Err(EndReason::Unverifiable);
    }
    let next = if now >= validate_at {
        inner.liveness.observe(session);
        now + inner.liveness.retry_pause()
    } else {
        validate_at
    };
    Ok(next.min(gives_up_at).min(expires_at))
}
