//! Revocations in memory, where every request reads them.

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

/// The revocations in force. Readers take no lock. `ends` orders them by their end, to drop those that are over.
#[derive(Debug)]
pub(crate) struct Mirror {
    sessions: HashMap<SessionId, NumericDate>,
    users: HashMap<UserId, UserRevocation>,
    /// Lets a reader skip both lookups if there are no revocations.
    len: AtomicUsize,
    ends: Mutex<BinaryHeap<Reverse<(NumericDate, Uuid)>>>,
    added: broadcast::Sender<Revocation>,
}

/// The number of new revocations kept for a receiver. One that lags behind further must check all its sessions again.
const CHANNEL_CAPACITY: usize = 256;

impl Default for Mirror {
    fn default() -> Self {
        Self {
            sessions: HashMap::default(),
            users: HashMap::default(),
            len: AtomicUsize::default(),
            ends: Mutex::default(),
            added: broadcast::Sender::new(CHANNEL_CAPACITY),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct UserRevocation {
    issued_until: NumericDate,
    until: NumericDate,
}

impl Mirror {
    /// Returns whether this session was revoked, alone or with all sessions of its user.
    ///
    /// Times of issue are compared in whole seconds, rounded down. Hanko gives the time of a user's deletion in whole
    /// seconds, so a token with a later `iat` in that second may be older than the deletion.
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
            // A token without `iat` may be older than the revocation.
            issued_at.is_none_or(|issued_at| {
                issued_at.since_epoch().as_secs() <= revocation.issued_until.since_epoch().as_secs()
            })
        })
    }

    /// Adds a revocation and drops those that are over at `now`.
    ///
    /// An `until` after [`NumericDate::LAST`] is replaced by that date. No token is valid that long, and Redis rejects such an
    /// expiry, so each attempt to write it back would fail.
    pub(crate) fn insert(&self, revocation: Revocation, now: NumericDate) {
        let Revocation { target, until } = revocation;
        let until = until.min(NumericDate::LAST);
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, is_longer, is_new) = match target {
            Target::Session(id) => {
                let sessions = self.sessions.pin();
                let is_longer = sessions.get(&id).is_none_or(|known| *known < until);
                if is_longer {
                    sessions.insert(id, until);
                }
                (id.as_uuid(), is_longer, is_longer)
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
                let is_wider = known.is_none_or(|known| known.issued_until < issued_until);
                (id.as_uuid(), is_longer, is_longer || is_wider)
            }
        };
        if is_longer {
            ends.push(Reverse((until, id)));
        }
        self.drop_ended(&mut ends, now);
        self.len
            .store(self.sessions.len() + self.users.len(), Ordering::Release);
        if is_new {
            // An error means that there is no receiver.
            let _ = self.added.send(revocation);
        }
    }

    /// Returns a receiver of the revocations that are inserted from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Revocation> {
        self.added.subscribe()
    }

    /// Drops the revocations that are over at `now`. A prolonged revocation has a second, later entry in the heap.
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

    /// Returns whether the mirror has this revocation, or a longer one of the same target.
    #[cfg(feature = "redis")]
    pub(crate) fn covers(&self, revocation: &Revocation) -> bool {
        let until = revocation.until.min(NumericDate::LAST);
        match revocation.target {
            Target::Session(id) => self
                .sessions
                .pin()
                .get(&id)
                .is_some_and(|known| *known >= until),
            Target::User { id, issued_until } => self
                .users
                .pin()
                .get(&id)
                .is_some_and(|known| known.until >= until && known.issued_until >= issued_until),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Returns all revocations, to compare them with those of a store.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: f64) -> NumericDate {
        NumericDate::from(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn deletion_of_user_covers_whole_second() {
        let (session, user) = (
            SessionId::from(Uuid::new_v4()),
            UserId::from(Uuid::new_v4()),
        );
        for deleted_at in [100.0, 100.5] {
            let mirror = Mirror::default();
            let target = Target::User {
                id: user,
                issued_until: at(deleted_at),
            };
            let until = NumericDate::LAST;
            mirror.insert(Revocation { target, until }, at(0.0));
            for issued_at in [99.0, 100.0, 100.2, 100.999] {
                assert!(
                    mirror.is_revoked(session, user, Some(at(issued_at))),
                    "deleted at {deleted_at}, issued at {issued_at}"
                );
            }
            assert!(mirror.is_revoked(session, user, None));
            assert!(!mirror.is_revoked(session, user, Some(at(101.0))));
        }
    }

    #[test]
    fn no_revocation_ends_after_last_date() {
        let mirror = Mirror::default();
        for target in [
            Target::Session(SessionId::from(Uuid::new_v4())),
            Target::User {
                id: UserId::from(Uuid::new_v4()),
                issued_until: at(1.0),
            },
        ] {
            let until = NumericDate::from(Duration::MAX);
            mirror.insert(Revocation { target, until }, at(0.0));
        }
        assert_eq!(mirror.len(), 2);
        assert!(
            mirror
                .ends
                .into_inner()
                .expect("not poisoned")
                .into_iter()
                .all(|Reverse((until, _))| until == NumericDate::LAST)
        );
    }
}
