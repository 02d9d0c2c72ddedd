//! Revocations shared by all replicas, in Redis or any server that speaks its protocol.
//!
//! Every replica mirrors all of them, so that a request never waits for Redis. A revocation is written with its end as
//! expiry and published in one transaction; whoever connects subscribes first and scans then, so that nothing falls in
//! between. What a replica knows and Redis has lost, as after a restart without persistence, the replica writes back.
//!
//! All that a revocation says stands in its key. So no write can undo another, whichever comes last: two revocations of one
//! target are two keys, and whoever reads both takes the longer.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use redis::{
    Client, IntoConnectionInfo, RedisResult, SetExpiry, SetOptions,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::{
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

/// Before every key, and the name of the channel.
const PREFIX: &str = "poem-hanko:revoked";
/// A webhook is answered within Hanko's 10 s even where Redis hangs.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before another attempt to subscribe.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// How many keys are asked for at once.
const SCAN_BATCH: usize = 1000;
/// How often an idle subscription is asked whether it is alive: a broken network does not always say so.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// After so many of them Redis is given back what it has lost meanwhile, as by eviction.
const PINGS_BETWEEN_FILLS: u32 = 12;

/// A store that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("not a Redis URL such as redis://localhost:6379: {0}")]
pub struct RedisStoreError(String);

/// Revocations shared through Redis.
pub struct RedisStore {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    client: Client,
    manager: ConnectionManager,
    mirror: Mirror,
    /// Whether the mirror was filled at least once.
    is_ready: AtomicBool,
    /// Whether new revocations are received.
    is_mirroring: AtomicBool,
    /// A revocation is in the mirror alone.
    write_failed: Notify,
    clock: Arc<dyn Clock>,
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
    /// Sets out to connect to the Redis at `url`, without waiting for it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where `url` is not that of a Redis. A Redis that is away is no error: the store is not ready, that is all.
    pub fn start(url: &str, clock: Arc<dyn Clock>) -> Result<Self, RedisStoreError> {
        let describe = |error: redis::RedisError| RedisStoreError(error.to_string());
        let client =
            Client::open(url.into_connection_info().map_err(describe)?).map_err(describe)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(COMMAND_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT))
            .set_number_of_retries(1);
        let manager =
            ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(describe)?;
        let shared = Arc::new(Shared {
            client,
            manager,
            mirror: Mirror::default(),
            is_ready: AtomicBool::new(false),
            is_mirroring: AtomicBool::new(false),
            write_failed: Notify::new(),
            clock,
        });
        let task = tokio::spawn(keep_mirroring(Arc::clone(&shared))).abort_handle();
        Ok(Self { shared, task })
    }
}

impl RevocationStore for RedisStore {
    fn is_revoked(&self, session: SessionId, user: UserId, issued_at: Option<NumericDate>) -> bool {
        self.shared.mirror.is_revoked(session, user, issued_at)
    }

    /// The mirror has it first, so that this replica refuses the session even where Redis then fails and the caller is
    /// told to try again. Whether or not the caller does, it is written as soon as that works.
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

    fn len(&self) -> usize {
        self.shared.mirror.len()
    }
}

/// Writes and publishes revocations in one transaction. Twice where the first time fails: a connection that was idle may have
/// been closed, which is found out only by using it, and a revocation that is written twice is the same.
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
    let mut is_first_failure = true;
    loop {
        let error = match mirror(&shared, &mut is_first_failure).await {
            Ok(()) => "the connection was closed".to_owned(),
            Err(error) => error.to_string(),
        };
        shared.is_mirroring.store(false, Ordering::Relaxed);
        if is_first_failure {
            tracing::error!(
                error,
                revocations = shared.mirror.len(),
                "the revocation store is away: known revocations go on being enforced, webhooks are answered 503"
            );
            is_first_failure = false;
        }
        shared.clock.sleep(RECONNECT_PAUSE).await;
    }
}

async fn mirror(shared: &Shared, is_first_failure: &mut bool) -> RedisResult<()> {
    let subscribe = async {
        let mut subscription = shared.client.get_async_pubsub().await?;
        subscription.subscribe(PREFIX).await?;
        Ok(subscription)
    };
    let subscription = in_time(shared, subscribe).await?;
    fill(shared).await?;
    shared.is_ready.store(true, Ordering::Release);
    shared.is_mirroring.store(true, Ordering::Relaxed);
    tracing::info!(
        revocations = shared.mirror.len(),
        "mirroring the revocation store"
    );
    *is_first_failure = true;

    let (mut sink, mut messages) = subscription.split();
    let mut pings_until_fill = PINGS_BETWEEN_FILLS;
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                match parse(message.get_payload_bytes()) {
                    Some(revocation) => shared.mirror.insert(revocation, shared.clock.unix_time().into()),
                    None => tracing::error!("a message of the revocation store cannot be read"),
                }
            }
            () = shared.write_failed.notified() => {
                shared.clock.sleep(RECONNECT_PAUSE).await;
                fill(shared).await?;
            }
            () = shared.clock.sleep(PING_INTERVAL) => {
                in_time(shared, sink.ping::<redis::Value>()).await?;
                pings_until_fill -= 1;
                if pings_until_fill == 0 {
                    pings_until_fill = PINGS_BETWEEN_FILLS;
                    fill(shared).await?;
                }
            }
        }
    }
}

/// Fails where Redis takes longer than it may.
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

/// Takes over all that Redis knows, and gives it what only the mirror does.
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
                None => tracing::error!("an entry of the revocation store cannot be read"),
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
            revocations = lost.len(),
            "wrote revocations back that the store lacked"
        );
    }
    Ok(())
}

/// A revocation as it stands in Redis.
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

/// Rounded up, so that nothing is forgotten a fraction of a second early.
fn whole_seconds(date: NumericDate) -> u64 {
    let since_epoch = date.since_epoch();
    since_epoch.as_secs() + u64::from(since_epoch.subsec_nanos() > 0)
}

fn parse(key: &[u8]) -> Option<Revocation> {
    let mut parts = std::str::from_utf8(key)
        .ok()?
        .strip_prefix(PREFIX)?
        .strip_prefix(':')?
        .split(':');
    let (kind, id): (&str, Uuid) = (parts.next()?, parts.next()?.parse().ok()?);
    let mut seconds = || {
        let seconds: u64 = parts.next()?.parse().ok()?;
        Some(NumericDate::from(Duration::from_secs(seconds)))
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
