//! Receives Hanko's webhooks: verifies them, applies what they report, and passes them to the application.
//!
//! Hanko sends each webhook once and never again, whatever the response (Hanko `backend/webhooks/worker.go`). So a webhook
//! that cannot be verified yet is held, and verified when the keys can be fetched.

mod event;
mod held;
mod listener;

use std::{
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Semaphore;

pub use self::event::{Event, EventKind};
pub(super) use self::listener::{Listener, Queue};
use self::{
    event::{WebhookBody, WebhookClaims},
    held::{HeldWebhook, HeldWebhooks, Holding, MAX_HELD_BODY_BYTES},
};
use super::{authenticate::Inner, error::AuthenticateError};
#[cfg(feature = "server")]
use crate::metrics::WebhookOutcome;
use crate::{
    jose::{ClaimsRules, NumericDate, TokenError, UnverifiedToken, Verified},
    keys::{FetchReason, KeySetError},
    metrics::{Authentication, Counters},
    sampling::{Line, Sampler},
    trace,
};

/// The longest token of a webhook, in bytes. Hanko signs whole users and e-mails, with the bodies that it has rendered.
const MAX_WEBHOOK_TOKEN_BYTES: usize = 256 * 1024;
/// How long a webhook waits for a fetch of the keys before it is held. Hanko gives up after 10 s.
const MAX_WAIT: Duration = Duration::from_secs(8);
/// What the larger ones among them, which cannot be held, may occupy together while they wait.
const MAX_LARGE_WAITING_BYTES: usize = 2 * 1024 * 1024;
/// Hanko's webhook tokens live for five minutes. One that claims to live longer than this is not Hanko's.
const MAX_PLAUSIBLE_LIFETIME: Duration = Duration::from_hours(1);

/// Why a webhook was not accepted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// Not a JSON object `{"token": …, "event": …}`.
    #[error("the body is not that of a Hanko webhook")]
    Malformed,
    /// The token is not that of this event.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token cannot be verified now, and the webhook is not held: it is larger than 16 KiB, is not plausible, or there
    /// is no room.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

impl WebhookError {
    /// After which time it may be worth trying again; `None` if trying again will not help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Malformed | Self::Token(_) => None,
            Self::KeySet(error) => Some(error.retry_after),
        }
    }

    /// Returns the name of the reason for the log: one of a fixed set, as for session tokens.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Token(error) => AuthenticateError::Token(*error).counted_as().name(),
            Self::KeySet(_) => Authentication::Keys.name(),
        }
    }
}

/// What became of a webhook.
#[derive(Clone, Debug)]
pub enum Receipt {
    /// It was verified, and what it reports was applied.
    Verified(Event),
    /// It cannot be verified yet. It is held, and verified after the next successful fetch of the keys.
    Held,
}

/// How the webhooks so far have gone, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebhookStatus {
    /// Verified and applied.
    pub accepted: u64,
    /// Not valid.
    pub rejected: u64,
    /// Held, and dropped to make room for others.
    pub dropped: u64,
    /// Verified events that a listener did not take.
    pub given_up: u64,
    /// Held now.
    pub held: usize,
}

#[derive(Clone, Copy, Debug)]
enum Counter {
    Accepted,
    Rejected,
    Dropped,
    GivenUp,
}

/// How many events have names, and one for all others.
const EVENTS: usize = EventKind::NAMES.len() + 1;

/// The webhooks by event and outcome.
#[derive(Debug, Default)]
pub(crate) struct WebhookCounts {
    so_far: Counters<4>,
    /// The verified ones, by the number of their event.
    accepted: Counters<EVENTS>,
    given_up: Counters<EVENTS>,
    /// In seconds since 1970-01-01T00:00:00Z; zero: there was none.
    last_verified_at: AtomicU64,
    unstored_revocations: AtomicU64,
}

impl WebhookCounts {
    fn add(&self, counter: Counter) {
        self.so_far.add(counter as usize);
    }

    fn get(&self, counter: Counter) -> u64 {
        self.so_far.get(counter as usize)
    }

    fn verified_at(&self, time: Duration) {
        self.last_verified_at
            .fetch_max(time.as_secs(), Ordering::Relaxed);
    }

    /// Returns when a webhook was last verified, since 1970-01-01T00:00:00Z.
    #[cfg(feature = "server")]
    pub(crate) fn last_verified_at(&self) -> Option<Duration> {
        let seconds = self.last_verified_at.load(Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// Returns how many revocations the store has not taken at once.
    #[cfg(feature = "server")]
    pub(crate) fn unstored_revocations(&self) -> u64 {
        self.unstored_revocations.load(Ordering::Relaxed)
    }

    /// Returns the count of each event and outcome that there can be. Each webhook is counted once, when its outcome is
    /// final. Until it is verified, its event is `unverified`.
    #[cfg(feature = "server")]
    pub(crate) fn by_event(&self) -> Vec<(&'static str, WebhookOutcome, u64)> {
        let names = EventKind::NAMES.iter().copied().chain(["other"]);
        let verified = names.enumerate().flat_map(|(number, name)| {
            let (accepted, given_up) = (self.accepted.get(number), self.given_up.get(number));
            [
                (name, WebhookOutcome::Accepted, accepted),
                (name, WebhookOutcome::GivenUp, given_up),
            ]
        });
        let (rejected, dropped) = (self.get(Counter::Rejected), self.get(Counter::Dropped));
        let unverified = [
            ("unverified", WebhookOutcome::Rejected, rejected),
            ("unverified", WebhookOutcome::Dropped, dropped),
        ];
        verified.chain(unverified).collect()
    }
}

/// Counts a verified event once all listeners have taken it or given it up, when it is dropped.
#[derive(Debug)]
pub(super) struct PendingOutcome {
    counts: Arc<WebhookCounts>,
    number: usize,
    is_given_up: AtomicBool,
}

impl PendingOutcome {
    fn new(kind: &EventKind, counts: &Arc<WebhookCounts>) -> Self {
        let mut names = EventKind::NAMES.iter();
        let number = names.position(|name| *name == kind.name());
        Self {
            counts: Arc::clone(counts),
            number: number.unwrap_or(EventKind::NAMES.len()),
            is_given_up: AtomicBool::new(false),
        }
    }

    fn give_up(&self) {
        self.counts.add(Counter::GivenUp);
        self.is_given_up.store(true, Ordering::Relaxed);
    }
}

impl Drop for PendingOutcome {
    fn drop(&mut self) {
        let counters = if *self.is_given_up.get_mut() {
            &self.counts.given_up
        } else {
            &self.counts.accepted
        };
        counters.add(self.number);
    }
}

/// What receives the webhooks of one [`Hanko`](super::Hanko).
#[derive(Debug)]
pub(super) struct Webhooks {
    rules: ClaimsRules,
    queues: Vec<Queue>,
    held: HeldWebhooks,
    waiting: Semaphore,
    /// So many webhooks wait for a fetch at the same time. Further ones are held at once, so that a flood of forged ones
    /// does not take the place of other requests.
    max_waiting: usize,
    large_waiting: Semaphore,
    counts: Arc<WebhookCounts>,
    sampler: Sampler,
    has_reported_lost: AtomicBool,
}

impl Webhooks {
    pub(super) fn new(
        rules: ClaimsRules,
        queues: Vec<Queue>,
        counts: Arc<WebhookCounts>,
        max_waiting: usize,
        sampler: Sampler,
    ) -> Self {
        Self {
            rules,
            queues,
            held: HeldWebhooks::default(),
            max_waiting,
            waiting: Semaphore::new(max_waiting),
            large_waiting: Semaphore::new(MAX_LARGE_WAITING_BYTES),
            counts,
            sampler,
            has_reported_lost: AtomicBool::new(false),
        }
    }

    /// Logs, at most once, how many webhooks are lost if the process ends now: those that wait to be verified, and events
    /// that a listener has not taken.
    pub(super) fn report_lost(&self) {
        let waiting = self
            .max_waiting
            .saturating_sub(self.waiting.available_permits());
        let unverified = self.held.len() + waiting;
        let undelivered: usize = self.queues.iter().map(Queue::len).sum();
        let has_lost = unverified + undelivered > 0;
        if has_lost && !self.has_reported_lost.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                event = "webhooks_lost",
                unverified,
                undelivered,
                "webhooks are lost with the end of the process, because Hanko does not send them again"
            );
        }
    }

    #[cfg(feature = "server")]
    pub(super) fn counts(&self) -> &WebhookCounts {
        &self.counts
    }

    pub(super) fn status(&self) -> WebhookStatus {
        WebhookStatus {
            accepted: self.counts.get(Counter::Accepted),
            rejected: self.counts.get(Counter::Rejected),
            dropped: self.counts.get(Counter::Dropped),
            given_up: self.counts.get(Counter::GivenUp),
            held: self.held.len(),
        }
    }

    /// Counts and logs a webhook that was not accepted for a reason that is one of a fixed set.
    pub(super) fn reject(&self, reason: &'static str, detail: &'static str) {
        self.counts.add(Counter::Rejected);
        self.sampler.log_as(Line::RejectedWebhook, &reason, &detail);
    }

    fn reject_for(&self, error: &WebhookError) {
        self.counts.add(Counter::Rejected);
        self.sampler
            .log_as(Line::RejectedWebhook, &error.reason(), error);
    }

    fn drop_held(&self, count: usize) {
        for _ in 0..count {
            self.counts.add(Counter::Dropped);
            self.sampler
                .log(Line::DroppedWebhook, &"there is no room to hold more");
        }
    }
}

/// Receives the body of a webhook request from `client`.
pub(super) async fn receive(
    inner: &Arc<Inner>,
    body: Bytes,
    client: Option<IpAddr>,
) -> Result<Receipt, WebhookError> {
    let outcome = if body.len() > MAX_HELD_BODY_BYTES {
        try_receive(inner, &body, client).await
    } else {
        // In a task of its own, so that a webhook that waits is not lost when its client gives up.
        let task_inner = Arc::clone(inner);
        tokio::spawn(trace::inherit(async move {
            try_receive(&task_inner, &body, client).await
        }))
        .await
        .unwrap_or_else(|_| Err(inner.keys.unavailable().into()))
    };
    if let Err(error) = &outcome {
        inner.webhooks.reject_for(error);
    }
    outcome
}

async fn try_receive(
    inner: &Arc<Inner>,
    body: &[u8],
    client: Option<IpAddr>,
) -> Result<Receipt, WebhookError> {
    let arrived_at = inner.now();
    let pending = match verify(inner, body, arrived_at)? {
        Verification::Verified(event) => return Ok(Receipt::Verified(accept(inner, event).await)),
        Verification::Pending(error) => error,
    };
    // Only what would be accepted if its signature were valid may cause a fetch, or be held.
    if !is_plausible(&inner.webhooks.rules, body, arrived_at) {
        return Err(pending);
    }
    if has_fetched(inner, body.len()).await {
        // The key is known now, or the current set lacks it.
        let event = verify(inner, body, arrived_at)?.verified()?;
        return Ok(Receipt::Verified(accept(inner, event).await));
    }
    if body.len() > MAX_HELD_BODY_BYTES {
        return Err(inner.keys.unavailable().into());
    }
    match inner.webhooks.held.hold(body, arrived_at, client) {
        Holding::Held => {}
        Holding::HeldInstead(others) => inner.webhooks.drop_held(others),
        Holding::NoRoom => return Err(inner.keys.unavailable().into()),
    }
    if inner.webhooks.held.begin_task() {
        tokio::spawn(verify_held(Arc::downgrade(inner)));
    }
    inner
        .webhooks
        .sampler
        .log(Line::HeldWebhook, &"its key is not available");
    Ok(Receipt::Held)
}

/// Waits for a fetch of the keys that begins now, with a body of so many bytes, and returns whether it has succeeded in
/// time.
async fn has_fetched(inner: &Inner, body_bytes: usize) -> bool {
    let large = if body_bytes > MAX_HELD_BODY_BYTES {
        u32::try_from(body_bytes).unwrap_or(u32::MAX)
    } else {
        0
    };
    let (Ok(_place), Ok(_bytes)) = (
        inner.webhooks.waiting.try_acquire(),
        inner.webhooks.large_waiting.try_acquire_many(large),
    ) else {
        return false;
    };
    tokio::select! {
        has_succeeded = inner.keys.fetch_again(FetchReason::Webhook) => has_succeeded,
        () = inner.clock.sleep(MAX_WAIT) => false,
    }
}

/// What the current keys say of a webhook.
enum Verification {
    Verified(Event),
    /// Its key is not known, which may change. With the error of a webhook that does not wait.
    Pending(WebhookError),
}

impl Verification {
    /// Returns the event of a webhook that does not wait for other keys.
    fn verified(self) -> Result<Event, WebhookError> {
        match self {
            Self::Verified(event) => Ok(event),
            Self::Pending(error) => Err(error),
        }
    }
}

/// Verifies a webhook with the current keys.
fn verify(
    inner: &Inner,
    body: &[u8],
    arrived_at: NumericDate,
) -> Result<Verification, WebhookError> {
    let body = WebhookBody::parse(body).ok_or(WebhookError::Malformed)?;
    let token = UnverifiedToken::parse_within(&body.token, MAX_WEBHOOK_TOKEN_BYTES)?;
    let keys = match inner.keys.current() {
        Ok(keys) => keys,
        Err(error) => return Ok(Verification::Pending(error.into())),
    };
    if !keys.has_candidate(token.kid()) {
        return Ok(Verification::Pending(TokenError::UnknownKey.into()));
    }
    let payload = token.verify_signature(&keys)?;
    let verified: Verified<WebhookClaims> = payload.validate(&inner.webhooks.rules, arrived_at)?;
    Ok(Verification::Verified(Event::from_verified(
        &verified, &body,
    )?))
}

/// Whether a webhook would be accepted if its signature were valid.
fn is_plausible(rules: &ClaimsRules, body: &[u8], arrived_at: NumericDate) -> bool {
    let Some(body) = WebhookBody::parse(body) else {
        return false;
    };
    UnverifiedToken::parse_within(&body.token, MAX_WEBHOOK_TOKEN_BYTES)
        .and_then(|token| token.check_unverified_claims::<WebhookClaims>(rules, arrived_at))
        .is_ok_and(|unverified| {
            let latest = arrived_at.since_epoch() + MAX_PLAUSIBLE_LIFETIME;
            unverified.claims.is_about(&body.event)
                && unverified.registered.issued_at.is_some()
                && unverified.registered.expires_at.since_epoch() <= latest
        })
}

/// Applies a verified event: what it ends is rejected from now on.
async fn accept(inner: &Inner, event: Event) -> Event {
    match event.revocation(inner.session_rules.leeway) {
        Ok(Some(revocation)) => {
            // The store enforces it here at once, and writes it when it can.
            if let Err(error) = inner.revocations.revoke(revocation).await {
                let unstored = &inner.webhooks.counts.unstored_revocations;
                unstored.fetch_add(1, Ordering::Relaxed);
                inner.webhooks.sampler.log(Line::UnstoredRevocation, &error);
            }
        }
        Ok(None) => {}
        // Hanko has signed it and would send the same again.
        Err(()) => {
            tracing::error!(event = "webhook_unusable", kind = %event.kind(), "a webhook does not say what has ended");
        }
    }
    tracing::info!(
        event = "webhook_received",
        kind = %event.kind(),
        id = event.subject_id().map(tracing::field::display),
        "received a webhook"
    );
    let counts = &inner.webhooks.counts;
    counts.add(Counter::Accepted);
    counts.verified_at(inner.clock.unix_time());
    let outcome = Arc::new(PendingOutcome::new(event.kind(), counts));
    for queue in &inner.webhooks.queues {
        queue.push(event.clone(), Arc::clone(&outcome));
    }
    event
}

/// Verifies the held webhooks after each successful fetch, until none is left.
async fn verify_held(inner: Weak<Inner>) {
    let mut has_failed = false;
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let last = inner.webhooks.held.last_number();
        let keys = Arc::clone(&inner.keys);
        // The fetch may take long, and nobody else may be left by then.
        let weak = Arc::downgrade(&inner);
        drop(inner);
        let has_succeeded = if has_failed {
            // During an outage the fetches follow their own schedule.
            keys.next_fetch().await
        } else {
            keys.fetch_again(FetchReason::Webhook).await
        };
        drop(keys);
        has_failed = !has_succeeded;
        let Some(inner) = weak.upgrade() else { return };
        if has_succeeded {
            while let Some(webhook) = inner.webhooks.held.take(last) {
                conclude(&inner, &webhook).await;
                // A signature takes long, and others wait for this thread.
                tokio::task::yield_now().await;
            }
        }
        if inner.webhooks.held.end_task() {
            return;
        }
    }
}

/// Accepts or rejects a held webhook with the keys that were fetched since it arrived.
async fn conclude(inner: &Inner, webhook: &HeldWebhook) {
    let verification = verify(inner, &webhook.body, webhook.arrived_at);
    match verification.and_then(Verification::verified) {
        Ok(event) => {
            accept(inner, event).await;
        }
        Err(error) => inner.webhooks.reject_for(&error),
    }
}
