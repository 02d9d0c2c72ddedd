//! Limits how many lines a client can cause in the log.

use std::{
    collections::HashMap,
    fmt::{self, Display},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use crate::clock::Clock;

/// How many lines of most kinds are logged per [`INTERVAL`] and reason.
const LINES_PER_INTERVAL: u64 = 10;
/// How many kinds and reasons are counted separately at the same time. The code has far fewer: the limit bounds the memory
/// even if a reason varies with what a client sends.
const MAX_WINDOWS: usize = 256;
/// How long lines are counted before the count is logged.
const INTERVAL: Duration = Duration::from_mins(1);

/// A line that a client can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Line {
    /// A request without valid credentials.
    RejectedRequest,
    /// A webhook that was not accepted.
    RejectedWebhook,
    /// A webhook that cannot be verified yet.
    HeldWebhook,
    /// A webhook that was held, and dropped before it could be verified.
    DroppedWebhook,
    /// A revocation that the store has not accepted, and that is enforced in this process alone.
    UnstoredRevocation,
    /// An event that a listener has not accepted.
    UndeliveredEvent,
    /// A handler that ended with a status of 500 or above.
    FailedHandler,
    /// A panic anywhere.
    #[cfg(feature = "server")]
    Panic,
    /// Spans that the collector did not accept.
    #[cfg(feature = "otlp")]
    UnexportedSpans,
    /// A proxy that is configured with requirements that are not understood.
    ForwardAuthQuery,
    /// An application that is not set up as the crate requires.
    Misconfigured,
}

impl Line {
    /// Returns whether the lines are counted by their reason as well as their kind, since the reason is one of a fixed set.
    fn has_fixed_reasons(self) -> bool {
        match self {
            Self::RejectedRequest | Self::RejectedWebhook | Self::Misconfigured => true,
            Self::HeldWebhook
            | Self::DroppedWebhook
            | Self::UnstoredRevocation
            | Self::UndeliveredEvent
            | Self::FailedHandler
            | Self::ForwardAuthQuery => false,
            #[cfg(feature = "server")]
            Self::Panic => false,
            #[cfg(feature = "otlp")]
            Self::UnexportedSpans => false,
        }
    }

    /// Returns how many lines of one kind and reason are logged per interval; the rest is counted.
    fn lines_per_interval(self) -> u64 {
        match self {
            // Every request repeats the same error in the configuration.
            Self::ForwardAuthQuery => 1,
            // Every batch repeats that the collector is unavailable.
            #[cfg(feature = "otlp")]
            Self::UnexportedSpans => 1,
            _ => LINES_PER_INTERVAL,
        }
    }

    fn log(self, summary: &dyn Display, reason: &dyn Display) {
        match self {
            Self::RejectedRequest => {
                tracing::info!(event = "request_rejected", reason = %summary, detail = %reason, "rejected a request");
            }
            Self::RejectedWebhook => {
                tracing::warn!(event = "webhook_rejected", reason = %summary, detail = %reason, "rejected a webhook");
            }
            Self::HeldWebhook => {
                tracing::warn!(event = "webhook_held", %reason, "holding a webhook that cannot be verified yet");
            }
            Self::DroppedWebhook => {
                tracing::warn!(event = "webhook_dropped", %reason, "dropped a held webhook");
            }
            Self::UnstoredRevocation => tracing::error!(
                event = "revocation_unstored", error = %reason,
                "a revocation is enforced in this process alone until the store takes it"
            ),
            Self::UndeliveredEvent => {
                tracing::warn!(event = "event_undelivered", %reason, "gave up passing on an event");
            }
            Self::FailedHandler => {
                tracing::error!(event = "handler_failed", error = %reason, "a handler failed");
            }
            #[cfg(feature = "server")]
            Self::Panic => tracing::error!(event = "panic", "{reason}"),
            #[cfg(feature = "otlp")]
            Self::UnexportedSpans => tracing::warn!(
                event = "traces_not_exported", error = %reason,
                "spans were not exported"
            ),
            Self::ForwardAuthQuery => {
                tracing::error!(event = "forward_auth_query_malformed", "{reason}");
            }
            Self::Misconfigured => tracing::error!(event = "misconfigured", "{reason}"),
        }
    }

    fn log_suppressed(self, reason: &str, count: u64) {
        match self {
            Self::RejectedRequest => {
                tracing::info!(
                    event = "request_rejected",
                    reason,
                    count,
                    "rejected more requests, not logged one by one"
                );
            }
            Self::RejectedWebhook => {
                tracing::warn!(
                    event = "webhook_rejected",
                    reason,
                    count,
                    "rejected more webhooks, not logged one by one"
                );
            }
            Self::HeldWebhook => {
                tracing::warn!(
                    event = "webhook_held",
                    count,
                    "holding more webhooks, not logged one by one"
                );
            }
            Self::DroppedWebhook => {
                tracing::warn!(
                    event = "webhook_dropped",
                    count,
                    "dropped more held webhooks, not logged one by one"
                );
            }
            Self::UnstoredRevocation => {
                tracing::error!(
                    event = "revocation_unstored",
                    count,
                    "more revocations are enforced in this process alone, not logged one by one"
                );
            }
            Self::UndeliveredEvent => {
                tracing::warn!(
                    event = "event_undelivered",
                    count,
                    "gave up passing on more events, not logged one by one"
                );
            }
            Self::FailedHandler => {
                tracing::error!(
                    event = "handler_failed",
                    count,
                    "more handlers failed, not logged one by one"
                );
            }
            #[cfg(feature = "server")]
            Self::Panic => {
                tracing::error!(event = "panic", count, "more panics, not logged one by one");
            }
            #[cfg(feature = "otlp")]
            Self::UnexportedSpans => tracing::warn!(
                event = "traces_not_exported",
                count,
                "more batches of spans were not exported, not logged one by one"
            ),
            Self::ForwardAuthQuery => tracing::error!(
                event = "forward_auth_query_malformed",
                count,
                "more queries of forward-auth are malformed, not logged one by one"
            ),
            Self::Misconfigured => tracing::error!(
                event = "misconfigured",
                count,
                "{reason} (not logged one by one)"
            ),
        }
    }
}

/// Logs the first lines of each kind and reason in an interval, and the count of the others at its end.
#[derive(Clone)]
pub(crate) struct Sampler(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    windows: Mutex<HashMap<(Line, String), Window>>,
}

/// The lines of one kind and reason in the current interval.
struct Window {
    started: Duration,
    logged: u64,
    suppressed: u64,
}

impl Window {
    fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.started) >= INTERVAL
    }
}

impl fmt::Debug for Sampler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sampler").finish_non_exhaustive()
    }
}

impl Sampler {
    /// Creates a sampler whose intervals are measured by `clock`.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared {
            clock,
            windows: Mutex::default(),
        }))
    }

    /// Logs a line, or counts it.
    pub(crate) fn log(&self, line: Line, reason: &dyn Display) {
        self.log_as(line, reason, reason);
    }

    /// Logs a line, or counts it by `summary`, one of a fixed set of names. Otherwise a client could fill the log by causing
    /// reasons that vary, for example with an address.
    pub(crate) fn log_as(&self, line: Line, summary: &dyn Display, reason: &dyn Display) {
        self.sample(line, summary, || line.log(summary, reason));
    }

    /// Calls `log` unless too many such lines were logged in the interval; then counts the line.
    pub(crate) fn sample(&self, line: Line, summary: &dyn Display, log: impl FnOnce()) {
        let now = self.0.clock.monotonic();
        let summary = if line.has_fixed_reasons() {
            summary.to_string()
        } else {
            String::new()
        };
        let mut key = (line, summary);
        let mut windows = self
            .0
            .windows
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !windows.contains_key(&key) {
            windows.retain(|_, window| !window.is_over(now) || window.suppressed > 0);
            if windows.len() >= MAX_WINDOWS {
                key.1 = String::new();
            }
        }
        let window = windows.entry(key.clone()).or_insert(Window {
            started: now,
            logged: 0,
            suppressed: 0,
        });
        let mut suppressed_before = 0;
        if window.is_over(now) {
            suppressed_before = window.suppressed;
            *window = Window {
                started: now,
                logged: 0,
                suppressed: 0,
            };
        }
        let is_logged = window.logged < line.lines_per_interval();
        if is_logged {
            window.logged += 1;
        } else {
            window.suppressed += 1;
        }
        let is_first_suppressed = !is_logged && window.suppressed == 1;
        let window_ends = window.started + INTERVAL;
        // Do not hold the lock while writing to the log.
        drop(windows);

        if suppressed_before > 0 {
            line.log_suppressed(&key.1, suppressed_before);
        }
        if is_logged {
            log();
        } else if is_first_suppressed {
            self.log_count_at(window_ends.saturating_sub(now), key);
        }
    }

    /// Logs the count when the interval ends. Outside of a runtime, the next line of the kind causes that instead.
    fn log_count_at(&self, delay: Duration, key: (Line, String)) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let shared = Arc::downgrade(&self.0);
        let sleep = self.0.clock.sleep(delay);
        runtime.spawn(async move {
            sleep.await;
            let count = Weak::upgrade(&shared).map_or(0, |shared| shared.take_suppressed(&key));
            if count > 0 {
                key.0.log_suppressed(&key.1, count);
            }
        });
    }
}

impl Shared {
    /// Ends the interval and returns how many lines were suppressed in it.
    fn take_suppressed(&self, key: &(Line, String)) -> u64 {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        if !windows.get(key).is_some_and(|window| window.is_over(now)) {
            return 0;
        }
        windows.remove(key).map_or(0, |window| window.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn windows(sampler: &Sampler) -> usize {
        sampler.0.windows.lock().unwrap().len()
    }

    #[tokio::test]
    async fn windows_that_are_over_are_dropped() {
        let clock = ManualClock::new(Duration::ZERO);
        let sampler = Sampler::new(Arc::new(clock.clone()));
        for minute in 0..3 {
            for reason in 0..50 {
                let reason = format!("reason {reason} of minute {minute}");
                sampler.log(Line::RejectedRequest, &reason);
            }
            clock.advance(INTERVAL);
        }
        assert_eq!(windows(&sampler), 50);
        sampler.log(Line::RejectedRequest, &"another reason");
        assert_eq!(windows(&sampler), 1);
    }

    #[tokio::test]
    async fn reasons_that_vary_do_not_grow_the_map() {
        let sampler = Sampler::new(Arc::new(ManualClock::new(Duration::ZERO)));
        for reason in 0..10 * MAX_WINDOWS {
            sampler.log(Line::RejectedWebhook, &reason);
        }
        // One more than the limit: it counts all further reasons.
        assert_eq!(windows(&sampler), MAX_WINDOWS + 1);
        let windows = sampler.0.windows.lock().unwrap();
        let further = &windows[&(Line::RejectedWebhook, String::new())];
        assert_eq!(further.logged, LINES_PER_INTERVAL);
        let further = further.logged + further.suppressed;
        assert_eq!(further, 9 * MAX_WINDOWS as u64);
    }
}
