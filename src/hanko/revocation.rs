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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What has ended.
    pub target: Target,
    /// When the last of its tokens has expired, so that the revocation can be dropped.
    pub until: NumericDate,
}

/// What a [`Revocation`] ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One session.
    Session(SessionId),
    /// Every session of a user whose token was issued up to a moment.
    User {
        /// The user.
        id: UserId,
        /// The moment, compared with `iat` in whole seconds.
        issued_until: NumericDate,
    },
}

/// How a [`RevocationStore`] works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreStatus {
    /// It knows all revocations and receives new ones.
    Ok,
    /// It enforces what it knows, but is cut off from other replicas.
    Degraded,
    /// It does not know the revocations yet.
    Unavailable,
    /// It is shared with no other replica.
    Unshared,
}

/// The store cannot keep or replicate a revocation now.
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
/// // Two values of `Hanko` in one process share what has ended.
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

    /// Returns a receiver of every revocation that is new here, wherever it was made. One that lags behind looks at all its
    /// sessions again.
    fn subscribe(&self) -> broadcast::Receiver<Revocation>;

    /// Returns whether it holds all revocations made so far. Until then no session is accepted.
    fn is_ready(&self) -> bool {
        true
    }

    /// Returns whether it works, for readiness and metrics.
    fn status(&self) -> StoreStatus {
        if self.is_ready() {
            StoreStatus::Ok
        } else {
            StoreStatus::Unavailable
        }
    }

    /// Returns when it last held all revocations made up to then, since 1970-01-01T00:00:00Z, for metrics. Default: `None`,
    /// for a store that is not shared.
    fn last_sync(&self) -> Option<Duration> {
        None
    }

    /// Returns the number of revocations it keeps.
    fn len(&self) -> usize;

    /// Returns whether it keeps none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
