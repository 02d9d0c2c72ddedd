//! Revocations shared by all replicas, in Redis, Redis Cluster, or any server with their protocol.
//!
//! Every replica mirrors all revocations, so a request never waits for Redis. A revocation is written with its end as the
//! expiry, and published. A replica subscribes before it scans, so it misses none in between. It writes revocations back
//! that Redis has lost, for example in a restart without persistence.
//!
//! The key contains the whole revocation, so no write can undo another: two revocations of one target are two keys, and a
//! reader of both uses the longer one.

mod entry;
mod failure;
mod servers;

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
pub use failure::RedisStoreError;
use redis::RedisResult;
use tokio::{
    runtime::Handle,
    sync::{Notify, broadcast, watch},
    task::AbortHandle,
};

use self::{
    failure::Failure,
    servers::{Servers, Subscriptions, Writer},
};
use super::{Mirror, Revocation, RevocationStore, Revoking, StoreStatus, StoreUnavailable};
use crate::{
    clock::Clock,
    hanko::{SessionId, UserId},
    jose::NumericDate,
    trace::Span,
};

/// Pause before a failed write is repeated.
const REWRITE_PAUSE: Duration = Duration::from_millis(500);
/// Pause after the first failure to mirror Redis; it doubles with each further failure.
const MIN_RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause during an outage. Until it ends, this replica does not know new revocations of the others.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(5);
/// Pauses are shortened by at most this share, so that replicas do not all reconnect at the same time.
const JITTER: f64 = 0.5;
/// Interval of the pings on an idle subscription. Without them, a broken network may go unnoticed.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Number of pings after which Redis is compared with the mirror, because it may have evicted keys.
const PINGS_BETWEEN_FILLS: u32 = 12;

/// Revocations shared through Redis or Redis Cluster.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use poem_hanko::{Hanko, HankoUrl, RedisStore, SystemClock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisStore::start("redis://127.0.0.1", Arc::new(SystemClock::new()))?;
/// store.check().await?;
/// let url: HankoUrl = "https://hanko.example.com".parse()?;
/// let hanko = Hanko::builder(url).revocation_store(Arc::new(store)).build()?;
/// # Ok(())
/// # }
/// ```
pub struct RedisStore {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    /// The server of the URL.
    configured: Servers,
    writer: ArcSwap<Writer>,
    mirror: Mirror,
    /// Whether the mirror has been filled at least once.
    is_ready: AtomicBool,
    /// Whether new revocations are received from every server.
    is_mirroring: AtomicBool,
    /// Signals that the mirror holds a revocation that Redis does not.
    write_failed: Notify,
    /// The outcome of the first attempt to use Redis: `None` until it has ended, `Ok` also if Redis was unavailable.
    first_attempt: watch::Sender<Option<Result<(), RedisStoreError>>>,
    clock: Arc<dyn Clock>,
    /// In seconds since 1970-01-01T00:00:00Z; zero: never.
    last_sync: AtomicU64,
}

impl Shared {
    async fn write(&self, revocations: &[Revocation]) -> RedisResult<()> {
        let writer = self.writer.load_full();
        self.in_span("SET", writer.write(revocations)).await
    }

    /// Runs an operation in its own span.
    async fn in_span<T, E>(
        &self,
        operation: &'static str,
        outcome: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let span = Span::redis(operation, self.configured.address());
        let outcome = span.enclose(outcome).await;
        if outcome.is_err() {
            // The log has the reason.
            span.failed("failed");
        }
        outcome
    }

    /// Records that the mirror has all revocations in Redis now.
    fn synced(&self) {
        let now = self.clock.unix_time().as_secs();
        self.last_sync.store(now, Ordering::Relaxed);
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedisStore")
            .field("is_ready", &self.is_ready())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RedisStore {
    /// Starts to connect to the Redis at `url`, or to the cluster that it is a node of, without waiting for it.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use poem_hanko::{RedisStore, RevocationStore, SystemClock};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = RedisStore::start("redis://localhost:6379", Arc::new(SystemClock::new()))?;
    /// // Until Redis has responded, no session is accepted.
    /// assert!(!store.is_ready());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RedisStoreError`] if `url` is not a Redis URL, or if this is called outside of a tokio runtime. An unavailable Redis
    /// is not an error: the store is not ready until Redis is available.
    pub fn start(url: &str, clock: Arc<dyn Clock>) -> Result<Self, RedisStoreError> {
        let runtime = Handle::try_current().map_err(|_| RedisStoreError::NoRuntime)?;
        let hide = |_: redis::RedisError| RedisStoreError::Url;
        let configured = Servers::of_url(url).map_err(hide)?;
        let writer = configured.lazy_writer().map_err(hide)?;
        let shared = Arc::new(Shared {
            configured,
            writer: ArcSwap::from_pointee(writer),
            mirror: Mirror::default(),
            is_ready: AtomicBool::new(false),
            is_mirroring: AtomicBool::new(false),
            write_failed: Notify::new(),
            first_attempt: watch::Sender::new(None),
            clock,
            last_sync: AtomicU64::new(0),
        });
        let task = runtime
            .spawn(keep_mirroring(Arc::clone(&shared)))
            .abort_handle();
        Ok(Self { shared, task })
    }

    /// Waits for the first attempt to use Redis, and checks that the store can work with it.
    ///
    /// An unavailable Redis is not an error, because the store keeps trying. Call it at startup, so that a wrong password
    /// stops the deployment.
    ///
    /// ```no_run
    /// use std::{process::ExitCode, sync::Arc};
    ///
    /// use poem_hanko::{RedisStore, SystemClock};
    ///
    /// # async fn example() -> Result<ExitCode, poem_hanko::RedisStoreError> {
    /// let store = RedisStore::start("redis://localhost:6379", Arc::new(SystemClock::new()))?;
    /// if let Err(error) = store.check().await {
    ///     eprintln!("the Redis cannot be used: it is {error}");
    ///     return Ok(ExitCode::FAILURE);
    /// }
    /// # Ok(ExitCode::SUCCESS)
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RedisStoreError`] if the store cannot work with Redis as it is configured, such as [`RedisStoreError::Credentials`] or
    /// [`RedisStoreError::ReadOnly`].
    pub async fn check(&self) -> Result<(), RedisStoreError> {
        let mut first_attempt = self.shared.first_attempt.subscribe();
        // This cannot fail, since `shared` owns the sender.
        match first_attempt.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }
}

impl RevocationStore for RedisStore {
    fn is_revoked(&self, session: SessionId, user: UserId, issued_at: Option<NumericDate>) -> bool {
        self.shared.mirror.is_revoked(session, user, issued_at)
    }

    /// Adds the revocation to the mirror first, so that this replica rejects the session even if Redis then fails. A failed
    /// write is repeated until it succeeds, whether or not the caller tries again.
    fn revoke(&self, revocation: Revocation) -> Revoking<'_> {
        let shared = &self.shared;
        shared
            .mirror
            .insert(revocation, shared.clock.unix_time().into());
        Box::pin(async move {
            shared.write(&[revocation]).await.map_err(|error| {
                shared.write_failed.notify_one();
                StoreUnavailable(error.to_string())
            })
        })
    }

    fn is_ready(&self) -> bool {
        self.shared.is_ready.load(Ordering::Acquire)
    }

    fn subscribe(&self) -> broadcast::Receiver<Revocation> {
        self.shared.mirror.subscribe()
    }

    fn status(&self) -> StoreStatus {
        match (
            self.is_ready(),
            self.shared.is_mirroring.load(Ordering::Relaxed),
        ) {
            (false, _) => StoreStatus::Unavailable,
            (true, false) => StoreStatus::Degraded,
            (true, true) => StoreStatus::Ok,
        }
    }

    fn last_sync(&self) -> Option<Duration> {
        let seconds = self.shared.last_sync.load(Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    fn len(&self) -> usize {
        self.shared.mirror.len()
    }
}

/// Receives published revocations, and connects again whenever a connection fails.
async fn keep_mirroring(shared: Arc<Shared>) {
    let mut failures_in_a_row: u32 = 0;
    let mut reported = None;
    let mut servers = None;
    // Kept while connecting again: if one server of a cluster is down, the others still publish.
    let mut subscriptions = Subscriptions::default();
    loop {
        let attempt = async {
            if failures_in_a_row > 0 {
                let pause =
                    reconnect_pause(failures_in_a_row).mul_f64(1.0 - JITTER * fastrand::f64());
                shared.clock.sleep(pause).await;
            }
            connect(&shared, servers.as_ref()).await
        };
        let outcome = match follow_during(&shared, &mut subscriptions, attempt).await {
            Ok((connected, subscribed)) => {
                subscriptions = subscribed;
                let connected = servers.insert(connected);
                failures_in_a_row = 0;
                reported = None;
                follow(&shared, connected, &mut subscriptions).await
            }
            Err(failure) => Err(failure),
        };
        let Err(failure) = outcome else { continue };
        shared.is_mirroring.store(false, Ordering::Relaxed);
        let unusable = match &failure {
            Failure::Unusable(reason) => Some(*reason),
            Failure::Unavailable(_) => None,
        };
        shared.report_first_attempt(unusable.map_or(Ok(()), Err));
        if failures_in_a_row == 0 || unusable.is_some() && unusable != reported {
            tracing::error!(
                event = "store_unavailable",
                error = %failure,
                revocations = shared.mirror.len(),
                "the revocation store is unavailable: known revocations stay in force, and new ones take effect in this process alone until it is back"
            );
        }
        reported = unusable.or(reported);
        failures_in_a_row = failures_in_a_row.saturating_add(1);
    }
}

/// Returns the longest pause after this many failures in a row.
fn reconnect_pause(failures_in_a_row: u32) -> Duration {
    let doublings = failures_in_a_row.saturating_sub(1).min(16);
    (MIN_RECONNECT_PAUSE * 2_u32.pow(doublings)).min(MAX_RECONNECT_PAUSE)
}

impl Shared {
    fn report_first_attempt(&self, outcome: Result<(), RedisStoreError>) {
        self.first_attempt.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(outcome);
            is_first
        });
    }

    /// Adds a published revocation to the mirror.
    fn receive(&self, message: &[u8]) {
        let now: NumericDate = self.clock.unix_time().into();
        match entry::parse(message) {
            // A replica that starts publishes one that is over, to check its permission.
            Some(revocation) if revocation.until <= now => {}
            Some(revocation) => self.mirror.insert(revocation, now),
            None => tracing::error!(
                event = "store_message_unreadable",
                "a message of the revocation store cannot be read"
            ),
        }
    }
}

/// Subscribes to all servers, then fills the mirror.
async fn connect(
    shared: &Shared,
    known: Option<&Servers>,
) -> Result<(Servers, Subscriptions), Failure> {
    let clock = &*shared.clock;
    let servers = shared.configured.discover(known).await?;
    if !shared.is_ready.load(Ordering::Acquire) {
        servers.try_out().await?;
    }
    if let Some(writer) = servers.writer(clock).await? {
        shared.writer.store(Arc::new(writer));
    }
    let subscriptions = shared
        .in_span("SUBSCRIBE", servers.subscribe(clock))
        .await?;
    // Before filling the mirror, which may take a while.
    shared.report_first_attempt(Ok(()));
    fill(shared, &servers).await?;
    shared.is_ready.store(true, Ordering::Release);
    shared.is_mirroring.store(true, Ordering::Relaxed);
    shared.synced();
    tracing::info!(
        event = "store_mirrored",
        revocations = shared.mirror.len(),
        "mirroring the revocation store"
    );
    Ok((servers, subscriptions))
}

/// Receives published revocations until `attempt` completes.
async fn follow_during<T>(
    shared: &Shared,
    subscriptions: &mut Subscriptions,
    attempt: impl Future<Output = T>,
) -> T {
    let mut attempt = pin!(attempt);
    loop {
        tokio::select! {
            outcome = &mut attempt => return outcome,
            message = subscriptions.next() => {
                if let Some(message) = message {
                    shared.receive(&message);
                }
            }
        }
    }
}

/// Receives published revocations until a connection fails. Returns `Ok` if the servers of the cluster have changed.
async fn follow(
    shared: &Shared,
    servers: &Servers,
    subscriptions: &mut Subscriptions,
) -> Result<(), Failure> {
    let mut pings_until_fill = PINGS_BETWEEN_FILLS;
    loop {
        let must_fill = tokio::select! {
            message = subscriptions.next() => {
                let Some(message) = message else {
                    let closed = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    return Err(Failure::Unavailable(closed.into()));
                };
                shared.receive(&message);
                false
            }
            () = shared.write_failed.notified() => {
                shared.clock.sleep(REWRITE_PAUSE).await;
                true
            }
            () = shared.clock.sleep(PING_INTERVAL) => {
                subscriptions.ping(&*shared.clock).await?;
                shared.synced();
                pings_until_fill -= 1;
                pings_until_fill == 0
            }
        };
        if must_fill {
            pings_until_fill = PINGS_BETWEEN_FILLS;
            if shared.configured.discover(Some(servers)).await? != *servers {
                return Ok(());
            }
            fill(shared, servers).await?;
        }
    }
}

/// Adds all revocations in Redis to the mirror, and writes those to Redis that only the mirror has.
async fn fill(shared: &Shared, servers: &Servers) -> Result<(), Failure> {
    let now = shared.clock.unix_time().into();
    let known_before = shared.mirror.all();
    let stored = Mirror::default();
    let mut found = |key: &[u8]| match entry::parse(key) {
        Some(revocation) => {
            shared.mirror.insert(revocation, now);
            stored.insert(revocation, now);
        }
        None => tracing::error!(
            event = "store_entry_unreadable",
            "an entry of the revocation store cannot be read"
        ),
    };
    shared.in_span("SCAN", servers.scan(&mut found)).await?;
    let lost: Vec<Revocation> = known_before
        .into_iter()
        .filter(|revocation| revocation.until > now && !stored.covers(revocation))
        .collect();
    if !lost.is_empty() {
        shared.write(&lost).await?;
        tracing::warn!(
            event = "store_refilled",
            revocations = lost.len(),
            "wrote revocations back that the store had lost"
        );
    }
    Ok(())
}
