//! Hanko's last answer about one session, and what a request does because of it at a given time.
//!
//! Pure functions of the time: no clock, no lock, no request. `model` checks them in every order of events.

use std::time::Duration;

use super::{SessionMode, SessionPolicy};

/// Each interval is shortened by at most this share, so that sessions and instances do not ask Hanko at the same time.
const JITTER: f64 = 0.1;

/// The pause between a failed validation request and the next one in the background is a third of the cache TTL, within
/// these bounds.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(500);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Time on the monotonic clock, in nanoseconds, so that a record takes 40 bytes.
pub(super) type Nanos = u64;

pub(super) const NEVER: Nanos = Nanos::MAX;

pub(super) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

/// Hanko's answer about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) is_alive: bool,
    /// When the request was sent. Hanko may have decided that early, so the age of an answer counts from here.
    pub(super) asked_at: Nanos,
    /// When the session ends, as Hanko says: at the latest when its token expires.
    pub(super) ends_at: Nanos,
    /// When Hanko ends the session unless its idle timeout is renewed before.
    pub(super) idle_ends_at: Nanos,
    /// Whether this answer renewed the idle timeout: POST does, GET does not.
    pub(super) is_renewal: bool,
}

/// What a request of a session must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Accept,
    /// Accept, and ask Hanko again in the background.
    AcceptAndRefresh,
    Reject,
    /// Reject, and ask Hanko again in the background.
    RejectAndRefresh,
    /// Ask Hanko, and wait for the answer.
    Wait,
}

/// Hanko's last answer about a session, and until when it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Record {
    asked_at: Nanos,
    /// From then on, a request causes a validation request in the background.
    refresh_at: Nanos,
    /// From then on, a request waits, unless a validation request is open in the background.
    wait_at: Nanos,
    /// From then on, the answer is not used.
    until: Nanos,
    is_alive: bool,
    /// A validation request is open in the background.
    is_refreshing: bool,
}

impl Record {
    /// Returns what a request does if its session has no record.
    pub(super) fn decide_without(mode: SessionMode) -> Decision {
        match mode {
            SessionMode::Stateless => Decision::Accept,
            SessionMode::Hybrid | SessionMode::Stateful => Decision::Wait,
        }
    }

    /// Returns what a request does at `now`.
    pub(super) fn decide(&self, now: Nanos) -> Decision {
        let is_due = now >= self.refresh_at && !self.is_refreshing;
        if now >= self.until || (now >= self.wait_at && !self.is_refreshing) {
            return Decision::Wait;
        }
        match (self.is_alive, is_due) {
            (true, false) => Decision::Accept,
            (true, true) => Decision::AcceptAndRefresh,
            (false, false) => Decision::Reject,
            (false, true) => Decision::RejectAndRefresh,
        }
    }

    /// Returns the record for a validation request that starts in the background; `None` if one is already open, or not due.
    pub(super) fn refreshing(&self, now: Nanos) -> Option<Self> {
        match self.decide(now) {
            Decision::AcceptAndRefresh | Decision::RejectAndRefresh => Some(Self {
                is_refreshing: true,
                ..*self
            }),
            Decision::Accept | Decision::Reject | Decision::Wait => None,
        }
    }

    /// Returns the record after an answer. `jitter` is a number from 0 to 1.
    pub(super) fn answered(
        previous: Option<&Self>,
        answer: &Answer,
        policy: &SessionPolicy,
        jitter: f64,
    ) -> Self {
        let ttl = nanos(policy.cache_ttl);
        let after = |age: Nanos| answer.asked_at.saturating_add(age);
        let record = Self {
            asked_at: answer.asked_at,
            refresh_at: NEVER,
            wait_at: NEVER,
            until: NEVER,
            is_alive: answer.is_alive,
            is_refreshing: false,
        };
        if !answer.is_alive {
            return match policy.mode {
                // No request waits in this mode. The session stays rejected until Hanko says otherwise.
                SessionMode::Stateless => Self {
                    refresh_at: after(ttl),
                    ..record
                },
                SessionMode::Hybrid | SessionMode::Stateful => Self {
                    wait_at: after(ttl),
                    until: after(ttl),
                    ..record
                },
            };
        }
        // Leaves half of the idle timeout for the next renewal.
        let idle = answer.idle_ends_at.saturating_sub(answer.asked_at) / 2;
        let end = answer.ends_at.min(answer.idle_ends_at);
        match policy.mode {
            SessionMode::Stateless => record,
            SessionMode::Stateful => {
                let until = after(ttl.min(idle)).min(end);
                // This answer did not renew the idle timeout, so the next renewal stays due when it was due before.
                let until = match previous {
                    _ if answer.is_renewal => until,
                    Some(previous) if previous.is_alive => until.min(previous.until),
                    _ => answer.asked_at,
                };
                Self {
                    wait_at: until,
                    until,
                    ..record
                }
            }
            SessionMode::Hybrid => Self {
                refresh_at: if answer.is_renewal {
                    after(shortened(ttl.min(idle), jitter))
                } else {
                    // This answer did not renew the idle timeout, so the next renewal stays due when it was due before.
                    previous
                        .filter(|previous| previous.is_alive)
                        .map_or(answer.asked_at, |previous| previous.refresh_at)
                },
                wait_at: after(ttl.saturating_mul(2)).min(end),
                until: after(nanos(policy.max_stale)).min(end),
                ..record
            },
        }
    }

    /// Returns the record after a validation request that was requested at `asked_at` has failed at `now`.
    ///
    /// Until twice the cache TTL after `asked_at`, and at least until another attempt has had time, requests use an older
    /// positive answer without waiting. The guarantees of the modes are kept, because they hold only while Hanko answers.
    pub(super) fn failed(
        &self,
        asked_at: Nanos,
        now: Nanos,
        policy: &SessionPolicy,
        jitter: f64,
    ) -> Self {
        let pause = nanos(retry_pause(policy));
        let ttl = nanos(policy.cache_ttl);
        let grace = asked_at
            .saturating_add(ttl.saturating_mul(2))
            .max(now.saturating_add(pause).saturating_add(ttl));
        Self {
            refresh_at: match (policy.mode, self.is_alive) {
                (SessionMode::Hybrid, true) | (SessionMode::Stateless, false) => {
                    now.saturating_add(shortened(pause, jitter))
                }
                _ => self.refresh_at,
            },
            wait_at: self.wait_at.max(grace.min(self.until)),
            is_refreshing: false,
            ..*self
        }
    }

    /// Returns whether an older positive answer may be used at `now`, after a request has waited for a newer one in vain.
    pub(super) fn is_usable_after_failure(&self, now: Nanos) -> bool {
        self.is_alive && now < self.until
    }

    pub(super) fn is_alive(&self) -> bool {
        self.is_alive
    }

    /// Returns when the request for this answer was sent.
    pub(super) fn asked_at(&self) -> Nanos {
        self.asked_at
    }
}

/// Returns the pause between two attempts in the background.
pub(super) fn retry_pause(policy: &SessionPolicy) -> Duration {
    (policy.cache_ttl / 3).clamp(MIN_RETRY_PAUSE, MAX_RETRY_PAUSE)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "jitter need not be exact to the nanosecond"
)]
fn shortened(interval: Nanos, jitter: f64) -> Nanos {
    interval - (interval as f64 * JITTER * jitter.clamp(0.0, 1.0)) as Nanos
}
