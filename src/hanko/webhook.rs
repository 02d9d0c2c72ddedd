//! Receives Hanko's webhooks: verifies them, applies what they report, and passes them to the application.
//!
//! Hanko sends each webhook only once, whatever the response (Hanko `backend/webhooks/worker.go`). So a webhook that cannot
//! be verified yet is held, and verified when the keys can be fetched.

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

/// The longest token of a webhook, in bytes. It may contain a whole user, or an e-mail with its rendered body.
const MAX_WEBHOOK_TOKEN_BYTES: usize = 256 * 1024;
/// How long a webhook waits for a fetch of the keys before it is held. Hanko gives up after 10 s.
const MAX_WAIT: Duration = Duration::from_secs(8);
/// The bytes that webhooks too large to be held may occupy together while they wait for a fetch.
const MAX_LARGE_WAITING_BYTES: usize = 2 * 1024 * 1024;
/// Hanko's webhook tokens live for five minutes. A token with a longer lifetime than this is not Hanko's.
const MAX_PLAUSIBLE_LIFETIME: Duration = Duration::from_hours(1);

/// Why a webhook was not accepted. Nothing was changed.
///
/// ```
/// use poem_hanko::{TokenError, WebhookError};
///
/// fn log(error: &WebhookError) {
///     match error {
///         WebhookError::Token(TokenError::Expired) => println!("sent too late"),
///         WebhookError::Token(_) | WebhookError::Malformed => println!("not from Hanko: {error}"),
///         other => println!("lost: {other}"),
///     }
/// }
/// # log(&WebhookError::Malformed);
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// The body is not a JSON object `{"token": …, "event": …}`.
    #[error("the body is not that of a Hanko webhook")]
    Malformed,
    /// The token is not a valid webhook token for this event.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token cannot be verified now, and the webhook is not held: it is larger than 16 KiB, is not plausible, or its
    /// client already holds most of the space for held webhooks.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

impl WebhookError {
    /// Returns the time after which a retry may succeed, or `None` if a retry does not help.
    ///
    /// ```
    /// use poem_hanko::{TokenError, WebhookError};
    ///
    /// fn status(error: &WebhookError) -> u16 {
    ///     if error.retry_after().is_some() { 503 } else { 400 }
    /// }
    ///
    /// assert_eq!(status(&WebhookError::Token(TokenError::InvalidSignature)), 400);
    /// ```
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

/// The result of receiving a webhook that was not rejected.
///
/// ```
/// use poem_hanko::Receipt;
///
/// fn status(receipt: &Receipt) -> u16 {
///     match receipt {
///         Receipt::Verified(_) => 204,
///         Receipt::Held => 202,
///     }
/// }
///
/// assert_eq!(status(&Receipt::Held), 202);
/// ```
#[derive(Clone, Debug)]
pub enum Receipt {
    /// It was verified, and its event was applied.
    Verified(Event),
    /// It cannot be verified yet. It is held, and verified after the next successful fetch of the keys.
    Held,
}

/// The counts of the webhooks so far, for logs and metrics.
///
/// ```
/// use poem_hanko::{Hanko, WebhookStatus};
///
/// fn report(hanko: &Hanko) {
///     let WebhookStatus { accepted, rejected, held, .. } = hanko.webhook_status();
///     println!("webhooks: {accepted} accepted, {rejected} rejected, {held} held");
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebhookStatus {
    /// Verified and applied.
    pub accepted: u64,
    /// Rejected as invalid.
    pub rejected: u64,
    /// Held, then dropped to make room for others.
    pub dropped: u64,
    /// Verified events given up because a listener failed or its queue was full.
    pub given_up: u64,
    /// Webhooks held now.
    pub held: usize,
}

#[derive(Clone, Copy, Debug)]
enum Counter {
    Accepted,
    Rejected,
    Dropped,
    GivenUp,
}

/// The number of counters by event: one for each event with a name, and one for all others.
const EVENTS: usize = EventKind::NAMES.len() + 1;

/// The webhooks by event and outcome.
#[derive(Debug, Default)]
pub(crate) struct WebhookCounts {
    so_far: Counters<4>,
    /// The verified webhooks, by the index of their event.
    accepted: Counters<EVENTS>,
    given_up: Counters<EVENTS>,
    /// In seconds since 1970-01-01T00:00:00Z; zero if there was none.
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

    /// Returns the number of revocations that could not be written to the store at once.
    #[cfg(feature = "server")]
    pub(crate) fn unstored_revocations(&self) -> u64 {
        self.unstored_revocations.load(Ordering::Relaxed)
    }

    /// Returns the counts by event and outcome. Each webhook is counted once, when its outcome is final. The event of a
    /// webhook that was not verified is `unverified`.
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

/// Counts a verified event when this is dropped: after each listener has handled it or given it up.
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

/// The state of the webhooks of one [`Hanko`](super::Hanko).
#[derive(Debug)]
pub(super) struct Webhooks {
    rules: ClaimsRules,
    queues: Vec<Queue>,
    held: HeldWebhooks,
    waiting: Semaphore,
    /// The number of webhooks that may wait for a fetch at the same time. Further ones are held at once, so that a flood of
    /// forged webhooks does not occupy the places of other requests.
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

    /// Logs, at most once, how many webhooks are lost if the process ends now: webhooks that wait to be verified, and events
    /// that a listener has not handled.
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
                "webhooks are lost as the process ends, because Hanko does not send them again"
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

    /// Counts and logs a webhook that was not accepted. The reason is one of a fixed set.
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
                .log(Line::DroppedWebhook, &"the space for held webhooks is full");
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
        // In its own task, so that a waiting webhook is not lost if its client closes the connection.
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
    // Only a webhook that would be accepted if its signature were valid may cause a fetch or be held.
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

/// Waits for a fetch of the keys that starts after this call, and returns whether it succeeds in time. Returns `false` at
/// once if too many webhooks, or too many bytes of large ones, already wait.
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

/// The outcome of verifying a webhook with the current keys.
enum Verification {
    Verified(Event),
    /// Its key is not known yet. Contains the error to return if the webhook does not wait for the key.
    Pending(WebhookError),
}

impl Verification {
    /// Returns the event, or the error of a webhook that does not wait for its key.
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

/// Returns whether a webhook would be accepted if its signature were valid.
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

/// Applies a verified event: the sessions that it ends are rejected from now on.
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
        // Accepted: Hanko signed it, and a rejection would change nothing.
        Err(()) => {
            tracing::error!(event = "webhook_unusable", kind = %event.kind(), "a webhook does not name the session or user that it is about");
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
        // Not kept during the fetch, which may take long: the `Hanko` may be dropped meanwhile.
        let weak = Arc::downgrade(&inner);
        drop(inner);
        let has_succeeded = if has_failed {
            // During an outage, the fetches follow their own schedule.
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
                // Verifying a signature takes long, and other tasks wait for this thread.
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
