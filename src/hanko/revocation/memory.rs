use std::sync::Arc;

use tokio::sync::broadcast;

use super::{Mirror, Revocation, RevocationStore, Revoking, StoreStatus};
use crate::{
    clock::Clock,
    hanko::{SessionId, UserId},
    jose::NumericDate,
};

/// Keeps revocations in this process only. Enough for a single instance; they are lost when the process ends.
///
/// ```
/// use std::sync::Arc;
///
/// use poem_hanko::{MemoryStore, NumericDate, Revocation, RevocationStore, SystemClock, Target};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new(Arc::new(SystemClock::new()));
/// let target = Target::Session("9657906e-4e86-42d0-b020-a7dcb0f20e24".parse()?);
/// store.revoke(Revocation { target, until: NumericDate::LAST }).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryStore {
    mirror: Mirror,
    clock: Arc<dyn Clock>,
}

impl MemoryStore {
    /// Creates an empty store.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use poem_hanko::{MemoryStore, RevocationStore, SystemClock};
    ///
    /// let store = MemoryStore::new(Arc::new(SystemClock::new()));
    /// assert!(store.is_empty());
    /// ```
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            mirror: Mirror::default(),
            clock,
        }
    }
}

impl RevocationStore for MemoryStore {
    fn is_revoked(&self, session: SessionId, user: UserId, issued_at: Option<NumericDate>) -> bool {
        self.mirror.is_revoked(session, user, issued_at)
    }

    fn revoke(&self, revocation: Revocation) -> Revoking<'_> {
        self.mirror
            .insert(revocation, self.clock.unix_time().into());
        Box::pin(std::future::ready(Ok(())))
    }

    fn subscribe(&self) -> broadcast::Receiver<Revocation> {
        self.mirror.subscribe()
    }

    fn status(&self) -> StoreStatus {
        StoreStatus::Unshared
    }

    fn len(&self) -> usize {
        self.mirror.len()
    }
}
