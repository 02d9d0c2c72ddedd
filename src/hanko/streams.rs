//! Streams that end with their session: what [`Session::ended`] waits for.
//!
//! One task watches over all of them. It validates each session at Hanko while it is awaited, since an open stream causes
//! no requests that would.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// Hanko reported its end by webhook, to this replica or another.
    Revoked,
    /// Hanko said that it is not valid any more when it was asked.
    FoundEnded,
    /// The key that signed the token has left the JWK Set.
    KeyWithdrawn,
    /// The token has expired, the leeway included.
    Expired,
    /// It is not known whether the session is still active: Hanko has not confirmed it for
    /// [`SessionPolicy::max_stale`](super::SessionPolicy::max_stale), or its keys are too old to be used.
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
    /// The task has to look at the registry again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    sessions: HashMap<SessionId, Watched>,
    /// When each session is to be looked at, on the monotonic clock.
    due: BTreeSet<(Duration, SessionId)>,
    task: Option<AbortHandle>,
}

#[derive(Debug)]
struct Watched {
    /// With its token, by which Hanko is asked.
    session: Session,
    end: Arc<End>,
    streams: usize,
    due: Duration,
    /// When the request was sent, on the monotonic clock, by which Hanko last confirmed the session.
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

    /// Completes all streams, since nobody is left to watch over them.
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

    /// Hanko has confirmed the session in response to a request sent at `asked_at`.
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
            registry.task = Some(tokio::spawn(watch_over(inner)).abort_handle());
        }
        let watched = registry.sessions.entry(id).or_insert_with(|| Watched {
            session: session.clone(),
            end: Arc::default(),
            streams: 0,
            due: now,
            // The age of the answer goes on.
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
        // The first reason stands.
        let _ = self.reason.set(reason);
        self.reached.notify_waiters();
    }
}

/// One stream that waits. The session is not watched any more when the last one is dropped.
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
        // Joined first, so that an end is noticed here or reported there.
        if let Some(reason) = inner.end_of(&session) {
            return reason;
        }
        waiting
    };
    // The registry has it, with its token, for as long as this stream waits.
    drop(session);
    waiting.end().await
}

/// Watches over all streams until the [`Inner`] is dropped.
fn watch_over(inner: &Arc<Inner>) -> impl Future<Output = ()> + Send + use<> {
    // Subscribed before the first stream has joined.
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
                () = is_due => look_at_due(&inner),
            }
        }
    }
}

/// Ends the streams that a revocation is about.
fn apply(inner: &Inner, revocation: &Revocation) {
    match revocation.target {
        Target::Session(session) => inner.streams.finish(session, EndReason::Revoked),
        Target::User { .. } => finish_ended(inner),
    }
}

/// Looks at all sessions, and ends the streams of those that have ended.
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

/// Looks at the sessions that are due: has them validated, and ends their streams if that has not worked for too long.
fn look_at_due(inner: &Weak<Inner>) {
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
        match next_look(&inner, &session, confirmed_at, now) {
            Ok(due) => inner.streams.registry().schedule(session.id(), due),
            Err(reason) => inner.streams.finish(session.id(), reason),
        }
    }
}

/// When a session that was looked at is to be looked at again, or why its streams end.
fn next_look(
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
    // At least a moment later, so that a clock that was set back does not make this loop spin.
    let expires_at = now.saturating_add(expires_in.max(Duration::from_millis(1)));
    let policy = inner.liveness.policy();
    // From `exp` on Hanko calls the session invalid, without the leeway that is allowed here.
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
        // Not before a validation request has had its time.
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
