//! Sessions that ended before their tokens expire.

mod memory;
mod mirror;
#[cfg(feature = "redis")]
mod redis;

use std::{fmt, pin::Pin, time::Duration};

use tokio::sync::broadcast;

pub use memory::MemoryStore;
pub(crate) use mirror::Mirror;

#[cfg(feature = "redis")]
pub use self::redis::{RedisStore, RedisStoreError};
use super::id::{SessionId, UserId};
use crate::jose::NumericDate;

/// The end of a session, or of all sessions of a user.
///
/// ```
/// use std::time::{Duration, SystemTime, UNIX_EPOCH};
///
/// use poem_hanko::{NumericDate, Revocation, SessionId, Target};
///
/// fn ended_now(session: SessionId) -> Revocation {
///     // The token lives for 12 hours at most.
///     let until = SystemTime::now() + Duration::from_secs(12 * 60 * 60);
///     let until = until.duration_since(UNIX_EPOCH).unwrap_or(Duration::MAX);
///     Revocation { target: Target::Session(session), until: NumericDate::from(until) }
/// }
/// # let id: SessionId = "9657906e-4e86-42d0-b020-a7dcb0f20e24".parse().unwrap();
/// # assert!(ended_now(id).until < NumericDate::LAST);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What has ended.
    pub target: Target,
    /// When all its tokens have expired. The revocation can be dropped then.
    pub until: NumericDate,
}

/// What a [`Revocation`] ends.
///
/// ```
/// use poem_hanko::{Revocation, Target};
///
/// fn line(revocation: &Revocation) -> String {
///     match revocation.target {
///         Target::Session(id) => format!("session {id}"),
///         Target::User { id, .. } => format!("all sessions of user {id}"),
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One session.
    Session(SessionId),
    /// Every session of a user whose token was issued up to a given time.
    User {
        /// The user.
        id: UserId,
        /// The time, compared with `iat` in whole seconds.
        issued_until: NumericDate,
    },
}

/// The state of a [`RevocationStore`].
///
/// ```
/// use poem_hanko::{Hanko, StoreStatus};
///
/// fn warning(hanko: &Hanko) -> Option<&'static str> {
///     match hanko.revocation_store_status() {
///         StoreStatus::Ok | StoreStatus::Unshared => None,
///         StoreStatus::Degraded => Some("no revocations arrive from other replicas"),
///         StoreStatus::Unavailable => Some("no session is accepted yet"),
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreStatus {
    /// It knows all revocations and receives new ones.
    Ok,
    /// It enforces the revocations that it knows, but receives none from other replicas.
    Degraded,
    /// It does not know the revocations yet.
    Unavailable,
    /// It works, but is not shared with other replicas.
    Unshared,
}

/// The store cannot keep or replicate a revocation now.
///
/// ```
/// use poem_hanko::{Revocation, RevocationStore, StoreUnavailable};
///
/// async fn revoke(store: &dyn RevocationStore, revocation: Revocation) {
///     if let Err(StoreUnavailable(reason)) = store.revoke(revocation).await {
///         eprintln!("other replicas may still accept the session: {reason}");
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the revocation store is unavailable: {0}")]
pub struct StoreUnavailable(pub String);

/// The outcome of [`RevocationStore::revoke`].
pub type Revoking<'a> = Pin<Box<dyn Future<Output = Result<(), StoreUnavailable>> + Send + 'a>>;

/// Keeps revocations until their tokens have expired, and never drops one earlier.
///
/// ```
/// use std::sync::Arc;
///
/// use poem_hanko::{Hanko, HankoUrl, MemoryStore, SystemClock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Two values of `Hanko` in one process share revocations.
/// let store = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
/// let url: HankoUrl = "https://hanko.example.com".parse()?;
/// let api = Hanko::builder(url.clone()).revocation_store(store.clone()).build()?;
/// let admin = Hanko::builder(url).audiences(["admin".to_owned()]).revocation_store(store).build()?;
/// # Ok(())
/// # }
/// ```
pub trait RevocationStore: fmt::Debug + Send + Sync + 'static {
    /// Returns whether a session of this user, issued at this time, was revoked. Called for every request, so it must not
    /// wait.
    fn is_revoked(&self, session: SessionId, user: UserId, issued_at: Option<NumericDate>) -> bool;

    /// Keeps a revocation. Once this completes, [`is_revoked`](Self::is_revoked) returns true for it here, and every replica
    /// that shares the store has been sent it.
    fn revoke(&self, revocation: Revocation) -> Revoking<'_>;

    /// Returns a receiver of every revocation that is new in this process, wherever it was made. A receiver that lags behind
    /// must check all its sessions again.
    fn subscribe(&self) -> broadcast::Receiver<Revocation>;

    /// Returns whether the store has all revocations made so far. Until then, no session is accepted.
    fn is_ready(&self) -> bool {
        true
    }

    /// Returns the state of the store, for readiness and metrics.
    fn status(&self) -> StoreStatus {
        if self.is_ready() {
            StoreStatus::Ok
        } else {
            StoreStatus::Unavailable
        }
    }

    /// Returns when the store last had all revocations made up to then, since 1970-01-01T00:00:00Z, for metrics. Default:
    /// `None`, for a store that is not shared.
    fn last_sync(&self) -> Option<Duration> {
        None
    }

    /// Returns the number of revocations in the store.
    fn len(&self) -> usize;

    /// Returns whether the store has no revocation.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
