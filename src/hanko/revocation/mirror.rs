//! Revocations in memory, as every request reads them.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use papaya::HashMap;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::{Revocation, Target};
use crate::{
    hanko::{SessionId, UserId},
    jose::NumericDate,
};

/// A set of revocations that readers look up without a lock, in the order of their end for whoever clears it up.
#[derive(Debug)]
pub(crate) struct Mirror {
    sessions: HashMap<SessionId, NumericDate>,
    users: HashMap<UserId, UserRevocation>,
    /// So that services that have revoked nothing, which are most, pay nothing.
    len: AtomicUsize,
    ends: Mutex<BinaryHeap<Reverse<(NumericDate, Uuid)>>>,
    news: broadcast::Sender<Revocation>,
}

/// A receiver that lags behind by more than these looks at everything again.
const MAX_NEWS: usize = 256;

impl Default for Mirror {
    fn default() -> Self {
        Self {
            sessions: HashMap::default(),
            users: HashMap::default(),
            len: AtomicUsize::default(),
            ends: Mutex::default(),
            news: broadcast::Sender::new(MAX_NEWS),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct UserRevocation {
    issued_until: NumericDate,
    until: NumericDate,
}

impl Mirror {
    pub(crate) fn is_revoked(
        &self,
        session: SessionId,
        user: UserId,
        issued_at: Option<NumericDate>,
    ) -> bool {
        if self.len.load(Ordering::Acquire) == 0 {
            return false;
        }
        if self.sessions.pin().contains_key(&session) {
            return true;
        }
        self.users.pin().get(&user).is_some_and(|revocation| {
            // A token that does not say when it was issued may be older.
            issued_at.is_none_or(|issued_at| issued_at <= revocation.issued_until)
        })
    }

    /// Adds a revocation and drops those that have come to their end at `now`.
    pub(crate) fn insert(&self, revocation: Revocation, now: NumericDate) {
        let Revocation { target, until } = revocation;
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, is_longer) = match target {
            Target::Session(id) => {
                let sessions = self.sessions.pin();
                let is_longer = sessions.get(&id).is_none_or(|known| *known < until);
                if is_longer {
                    sessions.insert(id, until);
                }
                (id.as_uuid(), is_longer)
            }
            Target::User { id, issued_until } => {
                let users = self.users.pin();
                let known = users.get(&id).copied();
                let is_longer = known.is_none_or(|known| known.until < until);
                let merged = known.map_or(
                    UserRevocation {
                        issued_until,
                        until,
                    },
                    |known| UserRevocation {
                        issued_until: known.issued_until.max(issued_until),
                        until: known.until.max(until),
                    },
                );
                users.insert(id, merged);
                (id.as_uuid(), is_longer)
            }
        };
        if is_longer {
            ends.push(Reverse((until, id)));
        }
        self.drop_ended(&mut ends, now);
        self.len
            .store(self.sessions.len() + self.users.len(), Ordering::Release);
        // Nobody need listen.
        let _ = self.news.send(revocation);
    }

    /// Returns a receiver of the revocations that are inserted from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Revocation> {
        self.news.subscribe()
    }

    /// An entry of the heap whose revocation was prolonged since is only an old reminder.
    fn drop_ended(&self, ends: &mut BinaryHeap<Reverse<(NumericDate, Uuid)>>, now: NumericDate) {
        let sessions = self.sessions.pin();
        let users = self.users.pin();
        while let Some(Reverse((until, id))) = ends.peek().copied()
            && until <= now
        {
            ends.pop();
            let session = SessionId::from(id);
            if sessions.get(&session).is_some_and(|until| *until <= now) {
                sessions.remove(&session);
            }
            let user = UserId::from(id);
            if users
                .get(&user)
                .is_some_and(|revocation| revocation.until <= now)
            {
                users.remove(&user);
            }
        }
    }

    /// Whether it says no less than this revocation.
    #[cfg(feature = "redis")]
    pub(crate) fn covers(&self, revocation: &Revocation) -> bool {
        match revocation.target {
            Target::Session(id) => self
                .sessions
                .pin()
                .get(&id)
                .is_some_and(|until| *until >= revocation.until),
            Target::User { id, issued_until } => self.users.pin().get(&id).is_some_and(|known| {
                known.until >= revocation.until && known.issued_until >= issued_until
            }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// All revocations, for a store to be filled up with.
    #[cfg(feature = "redis")]
    pub(crate) fn all(&self) -> Vec<Revocation> {
        let sessions = self.sessions.pin();
        let users = self.users.pin();
        let of_sessions = sessions.iter().map(|(id, until)| Revocation {
            target: Target::Session(*id),
            until: *until,
        });
        let of_users = users.iter().map(|(id, revocation)| Revocation {
            target: Target::User {
                id: *id,
                issued_until: revocation.issued_until,
            },
            until: revocation.until,
        });
        of_sessions.chain(of_users).collect()
    }
}
