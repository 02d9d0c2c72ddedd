//! A key set that lives at a URL: fetched, kept fresh, and held through outages.
//!
//! One task does all the fetching, one fetch at a time. So a fetch is shared by all who wait for it, outlives the caller
//! that asked for it, and an older answer can never replace a newer one. Readers take the current set without a lock.

mod error;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use headers::{CacheControl, HeaderMapExt};
use reqwest::StatusCode;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, watch},
    task::AbortHandle,
};
use url::Url;

pub use error::{FetchError, KeySetError};

use crate::{
    clock::Clock,
    jose::{KeySet, KeySetDocument, KeyThumbprint, SkippedKey},
    metrics::{FetchCounts, FetchOutcome, UnknownKid},
    trace::{Callers, Span},
};

/// The largest JWK Set that is read, in bytes. A Hanko with ten 4096-bit keys answers 8 KiB.
const MAX_KEY_SET_BYTES: usize = 1024 * 1024;

/// More bad keys than these in one set are counted and not named.
const MAX_WARNINGS: usize = 20;

/// The first pause after a failed fetch; it doubles with every further failure. No pause is shorter, whatever the policy.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// The longest pause between two attempts during an outage, so that recovery is noticed within it.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// So many requests wait for a fetch at the same time. A token that names an unknown key costs its sender nothing, so
/// without a bound, forged ones would occupy every place for requests while the issuer is slow. Far more than the genuine
/// tokens of a new key that arrive during a fetch. Webhooks have as many places of their own.
pub(crate) const MAX_WAITING: usize = 256;

/// Why a fetch is requested that is not due. Each reason has a budget of its own, so that none can use up another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FetchReason {
    /// To find out whether the issuer is able to answer, after it has said elsewhere that a session is not valid.
    Confirmation,
    /// A webhook names an unknown `kid`, and is not sent again.
    Webhook,
}

impl FetchReason {
    /// At most one fetch begins in this time for this reason.
    fn interval(self) -> Duration {
        match self {
            Self::Confirmation => Duration::from_secs(1),
            Self::Webhook => Duration::from_secs(2),
        }
    }
}

/// A refresh begins when this share of the freshness lifetime has passed, so that it is done, with a retry or two,
/// before the set goes stale.
const REFRESH_AT: f64 = 0.8;
/// Instances that were started together drift apart by at most this share of each interval.
const JITTER: f64 = 0.05;

/// How often, how long and how patiently a key set is fetched.
///
/// ```
/// use std::time::Duration;
///
/// use poem_hanko::FetchPolicy;
///
/// let mut policy = FetchPolicy::default();
/// policy.max_stale = Duration::from_secs(6 * 60 * 60);
/// ```
#[derive(Clone, Debug)]
pub struct FetchPolicy {
    /// One fetch, from connecting to the last byte.
    pub timeout: Duration,
    /// The freshness lifetime where the answer has no `Cache-Control: max-age`, and its upper bound.
    pub max_age: Duration,
    /// At most one fetch is caused by unknown `kid`s in this time. Also the lower bound of the freshness lifetime, as
    /// far as `max_age` allows.
    pub cooldown: Duration,
    /// How long after the last successful fetch its keys go on being used while fetches fail.
    pub max_stale: Duration,
}

impl Default for FetchPolicy {
    /// 5 s, 10 min, 30 s and 24 h.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            max_age: Duration::from_mins(10),
            cooldown: Duration::from_secs(30),
            max_stale: Duration::from_hours(24),
        }
    }
}

/// The state of the key set, for readiness, logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeySetStatus {
    /// How many keys tokens are being verified with. 0: none are held, or they are older than
    /// [`FetchPolicy::max_stale`].
    pub usable_keys: usize,
    /// The time since the last successful fetch.
    pub age: Option<Duration>,
    /// Whether the held set has outlived its freshness lifetime.
    pub is_stale: bool,
    /// How many fetches have ended, well or badly.
    pub fetches: u64,
    /// Why the last fetch failed; `None` if it did not.
    pub last_error: Option<FetchError>,
}

/// A JWK Set at a URL, kept up to date by a task that ends when this is dropped.
pub(crate) struct RemoteKeySet {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    url: Url,
    client: reqwest::Client,
    policy: FetchPolicy,
    clock: Arc<dyn Clock>,
    held: ArcSwapOption<HeldKeySet>,
    progress: Mutex<Progress>,
    fetches_ended: watch::Receiver<u64>,
    fetch_requested: Notify,
    /// Places for requests that wait in [`RemoteKeySet::with_key`].
    waiting: Semaphore,
    counts: FetchCounts,
    /// Whether fetches may follow each other as fast as they are requested.
    #[cfg(feature = "testing")]
    is_unlimited: std::sync::atomic::AtomicBool,
}

/// The last set that was fetched well.
struct HeldKeySet {
    key_set: Arc<KeySet>,
    fetched_at: Duration,
    lifetime: Duration,
}

impl HeldKeySet {
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.fetched_at)
    }
}

#[derive(Default)]
struct Progress {
    fetches_begun: u64,
    fetches_ended: u64,
    /// A fetch was asked for that has not begun.
    is_requested: bool,
    /// When an unknown `kid` last caused a fetch.
    last_unknown_kid_fetch: Option<Duration>,
    /// When a fetch was last requested for each [`FetchReason`].
    last_requests: [Option<Duration>; 2],
    last_error: Option<FetchError>,
    /// When the next fetch is due without anybody asking for it.
    next_fetch_at: Duration,
    /// Those who wait for the fetch that has been requested.
    callers: Callers,
    /// Of the fetch that is under way.
    span: Span,
}

impl Progress {
    /// Notes in the traces that whoever calls this waits for a fetch.
    fn join(&mut self, fetch: u64) {
        if fetch <= self.fetches_begun {
            self.span.join_current();
        } else {
            self.callers.add_current(true);
        }
    }

    /// The number of the fetch that is under way or asked for, if there is one.
    fn pending_fetch(&self) -> Option<u64> {
        if self.fetches_begun > self.fetches_ended {
            Some(self.fetches_begun)
        } else if self.is_requested {
            Some(self.fetches_begun + 1)
        } else {
            None
        }
    }
}

impl fmt::Debug for RemoteKeySet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RemoteKeySet")
            .field("url", &self.shared.url.as_str())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Drop for RemoteKeySet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RemoteKeySet {
    /// Starts to fetch the set at `url` without waiting for it. Must be called within a tokio runtime.
    ///
    /// `client` must not follow redirects: an issuer that redirects its keys away is answered like any other error.
    pub(crate) fn start(
        url: Url,
        client: reqwest::Client,
        policy: FetchPolicy,
        max_waiting: usize,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (fetch_has_ended, fetches_ended) = watch::channel(0);
        let shared = Arc::new(Shared {
            url,
            client,
            policy,
            held: ArcSwapOption::empty(),
            progress: Mutex::new(Progress {
                is_requested: true,
                next_fetch_at: clock.monotonic(),
                ..Progress::default()
            }),
            clock,
            fetches_ended,
            fetch_requested: Notify::new(),
            waiting: Semaphore::new(max_waiting),
            counts: FetchCounts::default(),
            #[cfg(feature = "testing")]
            is_unlimited: std::sync::atomic::AtomicBool::new(false),
        });
        let task = tokio::spawn(keep_fresh(Arc::clone(&shared), fetch_has_ended)).abort_handle();
        Self { shared, task }
    }

    /// The current set, if usable keys are held.
    ///
    /// # Errors
    /// [`KeySetError`] where none were fetched yet, or those held are older than [`FetchPolicy::max_stale`].
    pub(crate) fn current(&self) -> Result<Arc<KeySet>, KeySetError> {
        self.shared.current()
    }

    /// The current set, after making sure as far as that is allowed that a key of this `kid` is in it.
    ///
    /// Waits only while the very first fetch is under way, or where `kid` is unknown. An unknown `kid` causes a fetch
    /// that is shared by all who wait for it, and no further one within [`FetchPolicy::cooldown`], whatever comes of it.
    ///
    /// # Errors
    /// [`KeySetError`] where there are no keys, or where `kid` is unknown and the last fetch failed, or too many requests
    /// wait for one already: then the token may well be good. Where the issuer does not know the key either, the set comes
    /// back without it.
    pub(crate) async fn with_key(&self, kid: Option<&str>) -> Result<Arc<KeySet>, KeySetError> {
        let shared = &self.shared;
        if shared.held.load().is_none() {
            shared.wait_for_first_fetch().await?;
        }
        let key_set = shared.current()?;
        if key_set.has_candidate(kid) {
            return Ok(key_set);
        }
        shared.refresh_for_unknown_kid(kid).await?;
        let key_set = shared.current()?;
        let last_fetch_failed = shared.progress().last_error.is_some();
        if last_fetch_failed && !key_set.has_candidate(kid) {
            return Err(shared.unavailable());
        }
        Ok(key_set)
    }

    /// Waits for a fetch that begins after this call and returns whether it succeeded. Callers that wait at the same time
    /// share one fetch, and each reason causes at most one in its interval.
    pub(crate) async fn fetch_again(&self, reason: FetchReason) -> bool {
        self.shared.fetch_again(reason).await
    }

    /// Whether the last fetch has failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.shared.progress().last_error.is_some()
    }

    /// The error of whoever needs keys and has none.
    pub(crate) fn unavailable(&self) -> KeySetError {
        self.shared.unavailable()
    }

    /// Waits for the next fetch that begins after this call, without requesting one, and returns whether it succeeded.
    pub(crate) async fn next_fetch(&self) -> bool {
        let next = self.shared.progress().fetches_begun + 1;
        self.shared.wait_for_fetches(next).await && self.shared.progress().last_error.is_none()
    }

    /// Lets fetches follow each other as fast as they are requested, for tests: on a clock that stands still, a wait for
    /// the next one that is allowed never ends.
    #[cfg(feature = "testing")]
    pub(crate) fn lift_limits(&self) {
        let is_unlimited = &self.shared.is_unlimited;
        is_unlimited.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Returns whether a fetch is in progress, requested or due.
    #[cfg(feature = "testing")]
    pub(crate) fn is_busy(&self) -> bool {
        let now = self.shared.clock.monotonic();
        let progress = self.shared.progress();
        progress.pending_fetch().is_some() || progress.next_fetch_at <= now
    }

    /// Returns a counter of the fetches that have ended, which changes with each of them.
    pub(crate) fn fetches_ended(&self) -> watch::Receiver<u64> {
        self.shared.fetches_ended.clone()
    }

    /// Whether this key is among those that may be used at `now`, by the monotonic clock.
    pub(crate) fn holds(&self, thumbprint: KeyThumbprint, now: Duration) -> bool {
        let held = self.shared.held.load();
        held.as_ref().is_some_and(|held| {
            self.shared.is_usable(held, now) && held.key_set.contains(thumbprint)
        })
    }

    /// How things stand.
    pub(crate) fn status(&self) -> KeySetStatus {
        let shared = &self.shared;
        let now = shared.clock.monotonic();
        let usable_keys = shared.usable_keys();
        let held = shared.held.load();
        let progress = shared.progress();
        KeySetStatus {
            usable_keys,
            age: held.as_ref().map(|held| held.age(now)),
            is_stale: held
                .as_ref()
                .is_some_and(|held| held.age(now) > held.lifetime),
            fetches: progress.fetches_ended,
            last_error: progress.last_error.clone(),
        }
    }

    #[cfg(feature = "server")]
    pub(crate) fn counts(&self) -> &FetchCounts {
        &self.shared.counts
    }

    /// Returns the freshness lifetime of the held set.
    #[cfg(feature = "server")]
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        let held = self.shared.held.load();
        held.as_ref().map(|held| held.lifetime)
    }

    /// Waits until `fetches` fetches have ended since the start.
    pub(crate) async fn wait_for_fetches(&self, fetches: u64) {
        self.shared.wait_for_fetches(fetches).await;
    }
}

impl Shared {
    /// Returns `interval`, or zero if a test has [lifted the limits](RemoteKeySet::lift_limits).
    fn limit(&self, interval: Duration) -> Duration {
        #[cfg(feature = "testing")]
        if self.is_unlimited.load(std::sync::atomic::Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let _ = self;
        interval
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // No code panics while it holds the lock, and every state of `Progress` is a valid one.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self, held: &HeldKeySet, now: Duration) -> bool {
        held.age(now) <= self.policy.max_stale
    }

    /// The held keys, unless they are too old. Takes no lock.
    fn usable(&self) -> Option<Arc<KeySet>> {
        let held = self.held.load();
        held.as_ref()
            .filter(|held| self.is_usable(held, self.clock.monotonic()))
            .map(|held| Arc::clone(&held.key_set))
    }

    fn usable_keys(&self) -> usize {
        self.usable().map_or(0, |key_set| key_set.len())
    }

    fn current(&self) -> Result<Arc<KeySet>, KeySetError> {
        self.usable().ok_or_else(|| self.unavailable())
    }

    fn unavailable(&self) -> KeySetError {
        let progress = self.progress();
        KeySetError {
            reason: progress.last_error.clone(),
            retry_after: progress
                .next_fetch_at
                .saturating_sub(self.clock.monotonic()),
        }
    }

    /// Returns whether so many have ended.
    async fn wait_for_fetches(&self, fetches: u64) -> bool {
        // The task has the sender: if it ever died, nobody would wait for it.
        self.fetches_ended
            .clone()
            .wait_for(|ended| *ended >= fetches)
            .await
            .is_ok()
    }

    /// Waits for the first fetch while it is under way. In an outage nobody waits for the attempts that follow.
    async fn wait_for_first_fetch(&self) -> Result<(), KeySetError> {
        if self.progress().fetches_ended == 0 {
            let _place = self.place_to_wait()?;
            self.progress().join(1);
            self.wait_for_fetches(1).await;
        }
        Ok(())
    }

    /// Takes one of the places for requests that wait for a fetch.
    fn place_to_wait(&self) -> Result<SemaphorePermit<'_>, KeySetError> {
        self.waiting.try_acquire().map_err(|_| KeySetError {
            reason: Some(FetchError::Overloaded),
            // By then the fetch that the others wait for has ended.
            retry_after: self.policy.timeout,
        })
    }

    async fn refresh_for_unknown_kid(&self, kid: Option<&str>) -> Result<(), KeySetError> {
        // Held for a moment if nothing is to be waited for. All places are taken only while a fetch is pending.
        let _place = self
            .place_to_wait()
            .inspect_err(|_| self.counts.unknown_kid(UnknownKid::Overloaded))?;
        // A fetch that is under way may have been answered before the key was published. So there is a second round.
        let pending = self.progress().pending_fetch();
        if let Some(fetch) = pending {
            self.progress().join(fetch);
            self.wait_for_fetches(fetch).await;
            if self
                .current()
                .is_ok_and(|key_set| key_set.has_candidate(kid))
            {
                self.counts.unknown_kid(UnknownKid::Shared);
                return Ok(());
            }
        }
        let fetch = {
            let now = self.clock.monotonic();
            let mut progress = self.progress();
            match progress.pending_fetch() {
                Some(fetch) => {
                    self.counts.unknown_kid(UnknownKid::Shared);
                    progress.join(fetch);
                    fetch
                }
                None if progress.last_unknown_kid_fetch.is_some_and(|last| {
                    now.saturating_sub(last) < self.limit(self.policy.cooldown)
                }) =>
                {
                    let shares = pending.is_some();
                    self.counts.unknown_kid(if shares {
                        UnknownKid::Shared
                    } else {
                        UnknownKid::Cooldown
                    });
                    return Ok(());
                }
                None => {
                    self.counts.unknown_kid(UnknownKid::Fetched);
                    progress.last_unknown_kid_fetch = Some(now);
                    progress.is_requested = true;
                    self.fetch_requested.notify_one();
                    let fetch = progress.fetches_begun + 1;
                    progress.join(fetch);
                    fetch
                }
            }
        };
        self.wait_for_fetches(fetch).await;
        Ok(())
    }

    async fn fetch_again(&self, reason: FetchReason) -> bool {
        // The next one to begin, whoever requests it.
        let fetch = self.progress().fetches_begun + 1;
        loop {
            let wait = {
                let now = self.clock.monotonic();
                let mut progress = self.progress();
                // It may have begun, and even ended, while this waited for its turn to request it.
                if progress.is_requested || progress.fetches_begun >= fetch {
                    progress.join(fetch);
                    break;
                }
                let last = &mut progress.last_requests[reason as usize];
                let next = last.map_or(Duration::ZERO, |last| last + self.limit(reason.interval()));
                if next <= now {
                    *last = Some(now);
                    progress.is_requested = true;
                    progress.join(fetch);
                    self.fetch_requested.notify_one();
                    break;
                }
                next.saturating_sub(now)
            };
            self.clock.sleep(wait).await;
        }
        // If another fetch has ended since, it began later still.
        self.wait_for_fetches(fetch).await && self.progress().last_error.is_none()
    }

    async fn fetch(&self, span: &Span) -> Result<Fetched, FetchError> {
        tokio::select! {
            fetched = self.fetch_untimed(span) => fetched,
            () = self.clock.sleep(self.policy.timeout) => Err(FetchError::Timeout(self.policy.timeout)),
        }
    }

    async fn fetch_untimed(&self, span: &Span) -> Result<Fetched, FetchError> {
        let transport = |error: reqwest::Error| FetchError::Transport(describe(&error));
        let request = self
            .client
            .get(self.url.clone())
            .header("accept", "application/jwk-set+json, application/json")
            // A cache on the way would hide a withdrawn key, and an outage that a fetch is to notice.
            .header("cache-control", "no-cache");
        let mut response = span.inject(request).send().await.map_err(transport)?;
        span.responded(response.status());
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let max_age = response
            .headers()
            .typed_get::<CacheControl>()
            .and_then(|cache_control| cache_control.max_age());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            if body.len() + chunk.len() > MAX_KEY_SET_BYTES {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let document = KeySetDocument::parse(&body).ok_or(FetchError::Malformed)?;
        Ok(Fetched {
            document,
            digest: digest::digest(&digest::SHA256, &body),
            max_age,
        })
    }

    /// Takes a fetched set into use and returns its freshness lifetime. `is_new` unless the last answer was the same.
    fn hold(&self, fetched: Fetched, is_new: bool) -> Result<Duration, FetchError> {
        let KeySetDocument { key_set, skipped } = fetched.document;
        if is_new {
            warn_of(&skipped);
        }
        // An empty set never replaces held keys: `current` lets go of them after `max_stale`.
        if key_set.is_empty() {
            return Err(FetchError::NoUsableKey);
        }
        if is_new {
            tracing::info!(
                event = "keys_replaced",
                keys = key_set.len(),
                "holding a new JWK Set"
            );
        }
        let lifetime = fetched
            .max_age
            .unwrap_or(self.policy.max_age)
            .max(self.policy.cooldown)
            .min(self.policy.max_age)
            .min(self.policy.max_stale);
        self.held.store(Some(Arc::new(HeldKeySet {
            key_set: Arc::new(key_set),
            fetched_at: self.clock.monotonic(),
            lifetime,
        })));
        Ok(lifetime)
    }
}

struct Fetched {
    document: KeySetDocument,
    digest: digest::Digest,
    max_age: Option<Duration>,
}

/// Fetches the set whenever it is due or asked for, for ever.
async fn keep_fresh(shared: Arc<Shared>, fetch_has_ended: watch::Sender<u64>) {
    let mut failures_in_a_row: u32 = 0;
    // Of the last JWK Set that came, whether it was taken or not: its bad keys have been warned of.
    let mut last_digest: Option<digest::Digest> = None;
    loop {
        let span = {
            let mut progress = shared.progress();
            progress.is_requested = false;
            progress.fetches_begun += 1;
            let callers = std::mem::take(&mut progress.callers);
            progress.span = Span::key_set(&shared.url, &callers);
            progress.span.clone()
        };
        let began_at = shared.clock.monotonic();
        let outcome = shared.fetch(&span).await;
        let duration = shared.clock.monotonic().saturating_sub(began_at);
        let outcome = match outcome {
            Ok(fetched) => {
                let is_new = last_digest
                    .replace(fetched.digest)
                    .is_none_or(|last| last.as_ref() != fetched.digest.as_ref());
                shared.hold(fetched, is_new)
            }
            Err(error) => Err(error),
        };
        let counted_as = outcome
            .as_ref()
            .map_or_else(FetchError::counted_as, |_| FetchOutcome::Success);
        shared.counts.fetched(counted_as, duration);
        if outcome.is_err() {
            span.failed(counted_as.name());
        }
        drop(span);
        let (pause, last_error) = match outcome {
            Ok(lifetime) => {
                if failures_in_a_row > 0 {
                    tracing::info!(
                        event = "keys_fetch_recovered",
                        failures_in_a_row,
                        "the JWK Set can be fetched again"
                    );
                }
                failures_in_a_row = 0;
                (lifetime.mul_f64(REFRESH_AT).max(MIN_BACKOFF), None)
            }
            Err(error) => {
                failures_in_a_row = failures_in_a_row.saturating_add(1);
                let pause = backoff(failures_in_a_row);
                tracing::warn!(
                    event = "keys_fetch_failed", %error,
                    failures_in_a_row,
                    retry_in = ?pause,
                    usable_keys = shared.usable_keys(),
                    "fetching the JWK Set failed"
                );
                (pause, Some(error))
            }
        };
        let pause = pause.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0));
        let fetches_ended = {
            let mut progress = shared.progress();
            progress.next_fetch_at = shared.clock.monotonic() + pause;
            progress.last_error = last_error;
            progress.fetches_ended += 1;
            progress.span = Span::default();
            progress.fetches_ended
        };
        let mut due = shared.clock.sleep(pause);
        fetch_has_ended.send_replace(fetches_ended);
        loop {
            tokio::select! {
                () = &mut due => break,
                () = shared.fetch_requested.notified() => {
                    // The request may have been answered by a fetch that was due at the same moment.
                    if shared.progress().is_requested {
                        break;
                    }
                }
            }
        }
    }
}

fn warn_of(skipped: &[SkippedKey]) {
    for key in skipped.iter().take(MAX_WARNINGS) {
        tracing::warn!(
            event = "key_skipped", index = key.index,
            kid = key.kid.as_deref().map(loggable),
            reason = %key.reason,
            "passed over a key of the JWK Set"
        );
    }
    let unnamed = skipped.len().saturating_sub(MAX_WARNINGS);
    if unnamed > 0 {
        tracing::warn!(
            event = "keys_skipped",
            keys = unnamed,
            "passed over further keys of the JWK Set"
        );
    }
}

/// The pause after so many failures in a row.
fn backoff(failures_in_a_row: u32) -> Duration {
    let doublings = failures_in_a_row.saturating_sub(1).min(16);
    (MIN_BACKOFF * 2_u32.pow(doublings)).min(MAX_BACKOFF)
}

/// The error and its causes in one line, without the URL, which the start-up log names once.
fn describe(error: &reqwest::Error) -> String {
    let mut description = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        if !description.is_empty() {
            description.push_str(": ");
        }
        description.push_str(&error.to_string());
        cause = error.source();
    }
    if description.is_empty() {
        "the connection failed".clone_into(&mut description);
    }
    description
}

/// A `kid` comes from outside and may be of any length.
fn loggable(kid: &str) -> String {
    kid.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn those_who_wait_for_a_turn_share_one_fetch() {
        let clock = ManualClock::new(Duration::from_hours(498_732));
        let keys = RemoteKeySet::start(
            // Nobody listens there. A fetch that fails is one, too.
            "http://127.0.0.1:1/".parse().unwrap(),
            reqwest::Client::builder().no_proxy().build().unwrap(),
            FetchPolicy::default(),
            MAX_WAITING,
            Arc::new(clock.clone()),
        );
        keys.wait_for_fetches(1).await;
        // Uses up the budget of this second.
        keys.fetch_again(FetchReason::Confirmation).await;
        let mut first = pin!(keys.fetch_again(FetchReason::Confirmation));
        let mut second = pin!(keys.fetch_again(FetchReason::Confirmation));
        let mut context = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        clock.advance(FetchReason::Confirmation.interval());
        // Its fetch has ended before the other one is polled.
        first.await;
        assert!(second.as_mut().poll(&mut context).is_ready());
    }
}
