//! Revocations shared by all replicas, in Redis or any server that speaks its protocol.
//!
//! Every replica mirrors all of them, so that a request never waits for Redis. One transaction writes a revocation, with its
//! end as the expiry, and publishes it. A replica subscribes before it scans, so that it misses nothing in between. It writes
//! back what Redis has lost, for example in a restart without persistence.
//!
//! The key holds the whole revocation, so no write can undo another: two revocations of one target are two keys, and a
//! reader of both takes the longer.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use redis::{
    Client, IntoConnectionInfo, RedisResult, SetExpiry, SetOptions,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::{
    runtime::Handle,
    sync::{Notify, broadcast},
    task::AbortHandle,
};
use uuid::Uuid;

use super::{Mirror, Revocation, RevocationStore, Revoking, StoreStatus, StoreUnavailable, Target};
use crate::{
    clock::Clock,
    hanko::{SessionId, UserId},
    jose::NumericDate,
};

/// Prefix of every key, and the name of the channel.
const PREFIX: &str = "poem-hanko:revoked";
/// Bounds the response time of a webhook while Redis hangs: Hanko waits 10 s.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before what the store has not taken is written again.
const REWRITE_PAUSE: Duration = Duration::from_millis(500);
/// Pause after the first failure to mirror the store; it doubles with each further one.
const MIN_RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause during an outage: until it ends, this replica does not know what the others revoke.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(5);
/// Pauses are shortened by at most this share, so that replicas do not all return at the same moment.
const JITTER: f64 = 0.5;
/// Number of keys requested at once.
const SCAN_BATCH: usize = 1000;
/// How often an idle subscription is pinged: a broken network may go unnoticed otherwise.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Number of pings after which Redis is compared with the mirror, because it may have evicted keys.
const PINGS_BETWEEN_FILLS: u32 = 12;

/// Why a [`RedisStore`] cannot be started.
///
/// The message neither contains the URL nor repeats the message of the Redis client, which may contain the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisStoreError {
    /// The URL is not that of a Redis.
    #[error("not a Redis URL such as redis://localhost:6379 or rediss://redis.example:6380/1")]
    Url,
    /// There is no tokio runtime, so the task that mirrors Redis cannot be started.
    #[error("must be started within a tokio runtime, such as in an async fn of #[tokio::main]")]
    NoRuntime,
}

/// Revocations shared through Redis.
pub struct RedisStore {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    client: Client,
    manager: ConnectionManager,
    mirror: Mirror,
    /// Whether the mirror has been filled at least once.
    is_ready: AtomicBool,
    /// Whether new revocations are received.
    is_mirroring: AtomicBool,
    /// Signals that the mirror holds a revocation that Redis does not.
    write_failed: Notify,
    clock: Arc<dyn Clock>,
    /// In seconds since 1970-01-01T00:00:00Z; zero: never.
    last_sync: AtomicU64,
}

impl Shared {
    /// Notes that the mirror holds what Redis does.
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
    /// Starts to connect to the Redis at `url`, without waiting for it.
    ///
    /// # Errors
    /// [`RedisStoreError`] if `url` is not that of a Redis, or if this is called outside of a tokio runtime. An unavailable
    /// Redis is not an error: the store is not ready until Redis is available.
    pub fn start(url: &str, clock: Arc<dyn Clock>) -> Result<Self, RedisStoreError> {
        let runtime = Handle::try_current().map_err(|_| RedisStoreError::NoRuntime)?;
        let hide = |_: redis::RedisError| RedisStoreError::Url;
        let client = Client::open(url.into_connection_info().map_err(hide)?).map_err(hide)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(COMMAND_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT))
            .set_number_of_retries(1);
        let manager =
            ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(hide)?;
        let shared = Arc::new(Shared {
            client,
            manager,
            mirror: Mirror::default(),
            is_ready: AtomicBool::new(false),
            is_mirroring: AtomicBool::new(false),
            write_failed: Notify::new(),
            clock,
            last_sync: AtomicU64::new(0),
        });
        let task = runtime
            .spawn(keep_mirroring(Arc::clone(&shared)))
            .abort_handle();
        Ok(Self { shared, task })
    }
}

impl RevocationStore for RedisStore {
    fn is_revoked(&self, session: SessionId, user: UserId, issued_at: Option<NumericDate>) -> bool {
        self.shared.mirror.is_revoked(session, user, issued_at)
    }

    /// Adds it to the mirror first, so that this replica rejects the session even if Redis then fails. It is written again
    /// until that succeeds, whether or not the caller tries again.
    fn revoke(&self, revocation: Revocation) -> Revoking<'_> {
        let shared = &self.shared;
        shared
            .mirror
            .insert(revocation, shared.clock.unix_time().into());
        Box::pin(async move {
            let mut connection = shared.manager.clone();
            write(&mut connection, &[revocation])
                .await
                .map_err(|error| {
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

/// Writes and publishes revocations in one transaction. Tries a second time if the connection was closed while it was idle,
/// which is noticed only when it is used. Writing a revocation twice does no harm.
async fn write(connection: &mut ConnectionManager, revocations: &[Revocation]) -> RedisResult<()> {
    let mut transaction = redis::pipe();
    transaction.atomic();
    for revocation in revocations {
        let key = key(revocation);
        let expiry =
            SetOptions::default().with_expiration(SetExpiry::EXAT(whole_seconds(revocation.until)));
        transaction.set_options(&key, "", expiry).ignore();
        transaction.publish(PREFIX, &key).ignore();
    }
    let first: RedisResult<()> = transaction.query_async(connection).await;
    match first {
        Err(error)
            if error.is_connection_dropped() || error.is_io_error() && !error.is_timeout() =>
        {
            transaction.query_async(connection).await
        }
        outcome => outcome,
    }
}

/// Subscribes, fills the mirror, and follows what is published; again whenever the connection breaks.
async fn keep_mirroring(shared: Arc<Shared>) {
    let mut failures_in_a_row: u32 = 0;
    loop {
        let error = match mirror(&shared, &mut failures_in_a_row).await {
            Ok(()) => "the connection was closed".to_owned(),
            Err(error) => error.to_string(),
        };
        shared.is_mirroring.store(false, Ordering::Relaxed);
        if failures_in_a_row == 0 {
            tracing::error!(
                event = "store_unavailable",
                error,
                revocations = shared.mirror.len(),
                "the revocation store is unavailable: known revocations stay in force, and new ones take effect in this process alone until it is back"
            );
        }
        failures_in_a_row = failures_in_a_row.saturating_add(1);
        let pause = reconnect_pause(failures_in_a_row).mul_f64(1.0 - JITTER * fastrand::f64());
        shared.clock.sleep(pause).await;
    }
}

/// The longest pause after so many failures in a row.
fn reconnect_pause(failures_in_a_row: u32) -> Duration {
    let doublings = failures_in_a_row.saturating_sub(1).min(16);
    (MIN_RECONNECT_PAUSE * 2_u32.pow(doublings)).min(MAX_RECONNECT_PAUSE)
}

/// Sets `failures_in_a_row` to zero once the store is mirrored.
async fn mirror(shared: &Shared, failures_in_a_row: &mut u32) -> RedisResult<()> {
    let subscribe = async {
        let mut subscription = shared.client.get_async_pubsub().await?;
        subscription.subscribe(PREFIX).await?;
        Ok(subscription)
    };
    let subscription = in_time(shared, subscribe).await?;
    fill(shared).await?;
    shared.is_ready.store(true, Ordering::Release);
    shared.is_mirroring.store(true, Ordering::Relaxed);
    shared.synced();
    tracing::info!(
        event = "store_mirrored",
        revocations = shared.mirror.len(),
        "mirroring the revocation store"
    );
    *failures_in_a_row = 0;

    let (mut sink, mut messages) = subscription.split();
    let mut pings_until_fill = PINGS_BETWEEN_FILLS;
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                match parse(message.get_payload_bytes()) {
                    Some(revocation) => shared.mirror.insert(revocation, shared.clock.unix_time().into()),
                    None => tracing::error!(event = "store_message_unreadable", "a message of the revocation store cannot be read"),
                }
            }
            () = shared.write_failed.notified() => {
                shared.clock.sleep(REWRITE_PAUSE).await;
                fill(shared).await?;
            }
            () = shared.clock.sleep(PING_INTERVAL) => {
                in_time(shared, sink.ping::<redis::Value>()).await?;
                shared.synced();
                pings_until_fill -= 1;
                if pings_until_fill == 0 {
                    pings_until_fill = PINGS_BETWEEN_FILLS;
                    fill(shared).await?;
                }
            }
        }
    }
}

/// Fails if Redis takes longer than [`COMMAND_TIMEOUT`].
async fn in_time<T>(
    shared: &Shared,
    answer: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    tokio::select! {
        answer = answer => answer,
        () = shared.clock.sleep(COMMAND_TIMEOUT) => {
            Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into())
        }
    }
}

/// Adds all revocations in Redis to the mirror, and writes those to Redis that only the mirror holds.
async fn fill(shared: &Shared) -> RedisResult<()> {
    let mut connection = shared.manager.clone();
    let now = shared.clock.unix_time().into();
    let known_before = shared.mirror.all();
    let stored = Mirror::default();
    let mut cursor = 0_u64;
    loop {
        let (next, keys): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{PREFIX}:*"))
            .arg("COUNT")
            .arg(SCAN_BATCH)
            .query_async(&mut connection)
            .await?;
        for key in keys {
            match parse(&key) {
                Some(revocation) => {
                    shared.mirror.insert(revocation, now);
                    stored.insert(revocation, now);
                }
                None => tracing::error!(
                    event = "store_entry_unreadable",
                    "an entry of the revocation store cannot be read"
                ),
            }
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let lost: Vec<Revocation> = known_before
        .into_iter()
        .filter(|revocation| revocation.until > now && !stored.covers(revocation))
        .collect();
    for batch in lost.chunks(SCAN_BATCH) {
        write(&mut connection, batch).await?;
    }
    if !lost.is_empty() {
        tracing::warn!(
            event = "store_refilled",
            revocations = lost.len(),
            "wrote revocations back that the store had lost"
        );
    }
    Ok(())
}

/// Returns the key that holds this revocation.
fn key(revocation: &Revocation) -> String {
    let until = whole_seconds(revocation.until);
    match revocation.target {
        Target::Session(id) => format!("{PREFIX}:session:{id}:{until}"),
        Target::User { id, issued_until } => {
            let issued_until = whole_seconds(issued_until);
            format!("{PREFIX}:user:{id}:{until}:{issued_until}")
        }
    }
}

/// Rounds up, so that no revocation is dropped a fraction of a second early. Redis rejects an expiry far beyond
/// [`NumericDate::LAST`], which is what a later date becomes.
fn whole_seconds(date: NumericDate) -> u64 {
    let since_epoch = date.min(NumericDate::LAST).since_epoch();
    since_epoch.as_secs() + u64::from(since_epoch.subsec_nanos() > 0)
}

/// Reads a key or a published message, which anybody with access to the store may have written.
fn parse(key: &[u8]) -> Option<Revocation> {
    let mut parts = std::str::from_utf8(key)
        .ok()?
        .strip_prefix(PREFIX)?
        .strip_prefix(':')?
        .split(':');
    let (kind, id): (&str, Uuid) = (parts.next()?, parts.next()?.parse().ok()?);
    let mut seconds = || {
        let seconds: u64 = parts.next()?.parse().ok()?;
        Some(NumericDate::from(Duration::from_secs(seconds)).min(NumericDate::LAST))
    };
    let until = seconds()?;
    let target = match kind {
        "session" => Target::Session(SessionId::from(id)),
        "user" => Target::User {
            id: UserId::from(id),
            issued_until: seconds()?,
        },
        _ => return None,
    };
    parts
        .next()
        .is_none()
        .then_some(Revocation { target, until })
}
