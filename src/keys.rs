//! Fetches the JWK Set at a URL, keeps it fresh, and keeps it in use during outages.
//!
//! One task does all fetches, one at a time. So all callers that wait share one fetch, it goes on if the caller that
//! requested it is dropped, and an older response never replaces a newer one. Readers take no lock.

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

/// The largest JWK Set that is read, in bytes. That of a Hanko with ten 4096-bit keys has 8 KiB.
const MAX_KEY_SET_BYTES: usize = 1024 * 1024;

/// The number of skipped keys of one set that are logged one by one. Further ones are only counted.
const MAX_WARNINGS: usize = 20;

/// The pause after a first failed fetch; it doubles with each further failure. No pause is shorter, whatever the policy.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// The longest pause between two attempts during an outage, so that recovery is noticed within it.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The number of requests that may wait for a fetch at the same time. Without this limit, forged tokens with an unknown
/// `kid`, which cost nothing to make, could occupy every place for requests while the issuer is slow. It is far more than
/// the genuine tokens of a new key that arrive during a fetch. Webhooks have a separate limit of the same size.
pub(crate) const MAX_WAITING: usize = 256;

/// Why a fetch is requested before it is due. Each reason has its own budget, so it cannot use up another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FetchReason {
    /// To find out whether the issuer works, after it has responded that a session is not valid.
    Confirmation,
    /// A webhook has an unknown `kid`, and it is not sent again.
    Webhook,
}

impl FetchReason {
    /// The least time between two fetches for this reason.
    fn interval(self) -> Duration {
        match self {
            Self::Confirmation => Duration::from_secs(1),
            Self::Webhook => Duration::from_secs(2),
        }
    }
}

/// The share of the freshness lifetime after which the set is refreshed. It leaves time for one or two retries before the
/// set is stale.
const REFRESH_AT: f64 = 0.8;
/// Each interval varies by at most this share, so that instances started together do not fetch together.
const JITTER: f64 = 0.05;

/// How often the JWK Set is fetched, and how long it is used.
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
    /// The timeout of one fetch, from connecting to the last byte.
    pub timeout: Duration,
    /// The freshness lifetime if the response has no `Cache-Control: max-age`, and its upper bound.
    pub max_age: Duration,
    /// At most one fetch is caused by unknown `kid`s in this time. Also the lower bound of the freshness lifetime, as
    /// far as `max_age` allows.
    pub cooldown: Duration,
    /// How long after the last successful fetch its keys are used while fetches fail.
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
///
/// ```
/// use poem_hanko::{Hanko, KeySetStatus};
///
/// fn report(hanko: &Hanko) {
///     let KeySetStatus { usable_keys, is_stale, last_error, .. } = hanko.key_set_status();
///     println!("{usable_keys} keys, stale: {is_stale}");
///     if let Some(error) = last_error {
///         println!("the last fetch failed: {error}");
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeySetStatus {
    /// The number of keys that tokens are verified with: 0 if there are none, or if they are older than
    /// [`FetchPolicy::max_stale`].
    pub usable_keys: usize,
    /// The time since the last successful fetch.
    pub age: Option<Duration>,
    /// Whether the set is older than its freshness lifetime.
    pub is_stale: bool,
    /// The number of fetches that have ended, successfully or not.
    pub fetches: u64,
    /// Why the last fetch failed; `None` if it succeeded.
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
    /// Whether fetches have no minimum interval.
    #[cfg(feature = "testing")]
    is_unlimited: std::sync::atomic::AtomicBool,
}

/// The last set that was fetched successfully.
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
    fetches_started: u64,
    fetches_ended: u64,
    /// Whether a fetch has been requested that has not started.
    is_requested: bool,
    /// When an unknown `kid` last caused a fetch.
    last_unknown_kid_fetch: Option<Duration>,
    /// When a fetch was last requested for each [`FetchReason`].
    last_requests: [Option<Duration>; 2],
    last_error: Option<FetchError>,
    /// When the next fetch is due without a request for it.
    next_fetch_at: Duration,
    /// The callers that wait for the requested fetch.
    callers: Callers,
    /// The span of the fetch that is in progress.
    span: Span,
}

impl Progress {
    /// Records in the traces that the caller waits for a fetch.
    fn join(&mut self, fetch: u64) {
        if fetch <= self.fetches_started {
            self.span.join_current();
        } else {
            self.callers.add_current(true);
        }
    }

    /// Returns the number of the fetch that is in progress or requested, if any.
    fn pending_fetch(&self) -> Option<u64> {
        if self.fetches_started > self.fetches_ended {
            Some(self.fetches_started)
        } else if self.is_requested {
            Some(self.fetches_started + 1)
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
    /// `client` must not follow redirects: a redirect counts as a failed fetch.
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

    /// Returns the current set.
    ///
    /// # Errors
    /// [`KeySetError`] if no set has been fetched yet, or if it is older than [`FetchPolicy::max_stale`].
    pub(crate) fn current(&self) -> Result<Arc<KeySet>, KeySetError> {
        self.shared.current()
    }

    /// Returns the current set, and fetches it again first if it has no key with this `kid`.
    ///
    /// Waits only while the first fetch is in progress, or if `kid` is unknown. An unknown `kid` causes one fetch, which all
    /// callers that wait share, and no further one within [`FetchPolicy::cooldown`], whatever its outcome. If the issuer does
    /// not know the key either, returns the set without it.
    ///
    /// # Errors
    /// [`KeySetError`] if there are no keys, or if `kid` is unknown and either the last fetch failed or too many requests
    /// already wait for one. The token may be valid then.
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

    /// Waits for a fetch that starts after this call, and returns whether it succeeded. Callers that wait at the same time
    /// share one fetch, and each reason causes at most one fetch per interval.
    pub(crate) async fn fetch_again(&self, reason: FetchReason) -> bool {
        self.shared.fetch_again(reason).await
    }

    /// Returns whether the last fetch failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.shared.progress().last_error.is_some()
    }

    /// Returns the error for a caller that needs keys while there are none.
    pub(crate) fn unavailable(&self) -> KeySetError {
        self.shared.unavailable()
    }

    /// Waits for the next fetch that starts after this call, without requesting one, and returns whether it succeeded.
    pub(crate) async fn next_fetch(&self) -> bool {
        let next = self.shared.progress().fetches_started + 1;
        self.shared.wait_for_fetches(next).await && self.shared.progress().last_error.is_none()
    }

    /// Removes the minimum intervals between fetches, for tests: on a clock that stands still, such an interval never
    /// ends.
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

    /// Returns a receiver of the number of fetches that have ended.
    pub(crate) fn fetches_ended(&self) -> watch::Receiver<u64> {
        self.shared.fetches_ended.clone()
    }

    /// Returns whether this key may be used at `now`, by the monotonic clock.
    pub(crate) fn holds(&self, thumbprint: KeyThumbprint, now: Duration) -> bool {
        let held = self.shared.held.load();
        held.as_ref().is_some_and(|held| {
            self.shared.is_usable(held, now) && held.key_set.contains(thumbprint)
        })
    }

    /// Returns the state of the key set.
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
        // No code panics while it holds the lock, and every state of `Progress` is valid.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_usable(&self, held: &HeldKeySet, now: Duration) -> bool {
        held.age(now) <= self.policy.max_stale
    }

    /// Returns the keys, unless they are too old. Takes no lock.
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

    /// Waits until this many fetches have ended. Returns `false` if the task has ended before.
    async fn wait_for_fetches(&self, fetches: u64) -> bool {
        // The task owns the sender, so this does not wait forever if the task has ended.
        self.fetches_ended
            .clone()
            .wait_for(|ended| *ended >= fetches)
            .await
            .is_ok()
    }

    /// Waits for the first fetch while it is in progress. If it fails, no request waits for the retries.
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
            // The fetch that the others wait for has ended by then.
            retry_after: self.policy.timeout,
        })
    }

    async fn refresh_for_unknown_kid(&self, kid: Option<&str>) -> Result<(), KeySetError> {
        // Also taken if there is no need to wait, for a moment. All places are taken only while a fetch is pending.
        let _place = self
            .place_to_wait()
            .inspect_err(|_| self.counts.unknown_kid(UnknownKid::Overloaded))?;
        // The issuer may have responded to a fetch in progress before the key was published. So there may be a second fetch.
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
                    let fetch = progress.fetches_started + 1;
                    progress.join(fetch);
                    fetch
                }
            }
        };
        self.wait_for_fetches(fetch).await;
        Ok(())
    }

    async fn fetch_again(&self, reason: FetchReason) -> bool {
        // The next fetch to start, even if another caller requests it.
        let fetch = self.progress().fetches_started + 1;
        loop {
            let wait = {
                let now = self.clock.monotonic();
                let mut progress = self.progress();
                // That fetch may have started or ended during the sleep below.
                if progress.is_requested || progress.fetches_started >= fetch {
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
        // If another fetch has ended since, it started even later.
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
            // A cache in between would hide that a key was withdrawn, or that the issuer is down.
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

    /// Replaces the current set and returns its freshness lifetime. `is_new` says whether it differs from the last response.
    fn hold(&self, fetched: Fetched, is_new: bool) -> Result<Duration, FetchError> {
        let KeySetDocument { key_set, skipped } = fetched.document;
        if is_new {
            log_skipped(&skipped);
        }
        // An empty set never replaces the current one, which is used until `max_stale`.
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

/// Fetches the set whenever it is due or requested, until the task is aborted.
async fn keep_fresh(shared: Arc<Shared>, fetch_has_ended: watch::Sender<u64>) {
    let mut failures_in_a_row: u32 = 0;
    // The digest of the last JWK Set received, used or not. Its skipped keys have been logged.
    let mut last_digest: Option<digest::Digest> = None;
    loop {
        let span = {
            let mut progress = shared.progress();
            progress.is_requested = false;
            progress.fetches_started += 1;
            let callers = std::mem::take(&mut progress.callers);
            progress.span = Span::key_set(&shared.url, &callers);
            progress.span.clone()
        };
        let started_at = shared.clock.monotonic();
        let outcome = shared.fetch(&span).await;
        let duration = shared.clock.monotonic().saturating_sub(started_at);
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
                    // A fetch that was due at the same time may already have met the request.
                    if shared.progress().is_requested {
                        break;
                    }
                }
            }
        }
    }
}

fn log_skipped(skipped: &[SkippedKey]) {
    for key in skipped.iter().take(MAX_WARNINGS) {
        tracing::warn!(
            event = "key_skipped", index = key.index,
            kid = key.kid.as_deref().map(loggable),
            reason = %key.reason,
            "skipped a key of the JWK Set"
        );
    }
    let unnamed = skipped.len().saturating_sub(MAX_WARNINGS);
    if unnamed > 0 {
        tracing::warn!(
            event = "keys_skipped",
            keys = unnamed,
            "skipped further keys of the JWK Set"
        );
    }
}

/// Returns the pause after this many failures in a row.
fn backoff(failures_in_a_row: u32) -> Duration {
    let doublings = failures_in_a_row.saturating_sub(1).min(16);
    (MIN_BACKOFF * 2_u32.pow(doublings)).min(MAX_BACKOFF)
}

/// Returns the error and its causes in one line, without the URL, which the startup log contains.
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

/// Shortens a `kid` for the log, because it may be of any length.
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
    async fn callers_that_wait_for_the_interval_share_one_fetch() {
        let clock = ManualClock::new(Duration::from_hours(498_732));
        let keys = RemoteKeySet::start(
            // Nothing listens there, and a failed fetch counts too.
            "http://127.0.0.1:1/".parse().unwrap(),
            reqwest::Client::builder().no_proxy().build().unwrap(),
            FetchPolicy::default(),
            MAX_WAITING,
            Arc::new(clock.clone()),
        );
        keys.wait_for_fetches(1).await;
        // Uses the one fetch that is allowed in this second.
        keys.fetch_again(FetchReason::Confirmation).await;
        let mut first = pin!(keys.fetch_again(FetchReason::Confirmation));
        let mut second = pin!(keys.fetch_again(FetchReason::Confirmation));
        let mut context = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        clock.advance(FetchReason::Confirmation.interval());
        // Its fetch ends before `second` is polled.
        first.await;
        assert!(second.as_mut().poll(&mut context).is_ready());
    }
}
