//! Which sessions have ended before their tokens expire.

mod memory;
mod mirror;
#[cfg(feature = "redis")]
mod redis;

use std::{fmt, pin::Pin};

use tokio::sync::broadcast;

pub use memory::MemoryStore;
pub(crate) use mirror::Mirror;

#[cfg(feature = "redis")]
pub use self::redis::{RedisStore, RedisStoreError};
use super::session::{SessionId, UserId};
use crate::jose::NumericDate;

/// The end of a session, or of all sessions of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What has ended.
    pub target: Target,
    /// From when on it need not be remembered, since no token of it is valid any more.
    pub until: NumericDate,
}

/// What a [`Revocation`] ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One session.
    Session(SessionId),
    /// Every session of a user that was issued up to a moment.
    User {
        /// Whose.
        id: UserId,
        /// The moment.
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

/// The store cannot take or replicate a revocation now.
#[derive(Debug, thiserror::Error)]
#[error("the revocation store is unavailable: {0}")]
pub struct StoreUnavailable(pub String);

/// The outcome of [`RevocationStore::revoke`].
pub type Revoking<'a> = Pin<Box<dyn Future<Output = Result<(), StoreUnavailable>> + Send + 'a>>;

/// Remembers revocations until their tokens have expired, and never drops one before.
pub trait RevocationStore: fmt::Debug + Send + Sync + 'static {
    /// Whether a session of this user, issued then, was revoked. Must not wait: every request asks.
    fn is_revoked(&self, session: SessionId, user: UserId, issued_at: Option<NumericDate>) -> bool;

    /// Remembers a revocation. When this is done, [`is_revoked`](Self::is_revoked) says so here, and every replica that
    /// shares the store has been told.
    fn revoke(&self, revocation: Revocation) -> Revoking<'_>;

    /// Returns a receiver of every revocation that is new here, wherever it was made. One that lags behind looks at all its
    /// sessions again.
    fn subscribe(&self) -> broadcast::Receiver<Revocation>;

    /// Whether it knows all revocations made so far. While it does not, no session is let in.
    fn is_ready(&self) -> bool {
        true
    }

    /// Whether it works, for readiness and metrics.
    fn status(&self) -> StoreStatus {
        if self.is_ready() {
            StoreStatus::Ok
        } else {
            StoreStatus::Unavailable
        }
    }

    /// How many revocations are remembered.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
