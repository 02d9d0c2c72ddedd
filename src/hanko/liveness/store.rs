//! The last answer about each of a bounded number of sessions.

use std::{
    sync::{
        Mutex, TryLockError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use papaya::{Compute, HashMap, Operation};

use super::record::Record;
use crate::hanko::SessionId;

/// A full store drops this share of its sessions (one in 16) at once, so that it is searched rarely.
const DROPPED_SHARE: usize = 16;

/// Records by session. Readers take no lock, and write at most once per second and session.
#[derive(Debug)]
pub(super) struct Store {
    records: HashMap<SessionId, Entry>,
    capacity: usize,
    /// A session that was not used for this time is dropped before others.
    unused_after: Duration,
    dropping: Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    /// In whole seconds of the monotonic clock.
    last_used: AtomicU32,
}

fn seconds(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

impl Store {
    pub(super) fn new(capacity: usize, unused_after: Duration) -> Self {
        Self {
            records: HashMap::new(),
            capacity,
            unused_after,
            dropping: Mutex::new(()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns the record of a session.
    pub(super) fn peek(&self, session: SessionId) -> Option<Record> {
        self.records.pin().get(&session).map(|entry| entry.record)
    }

    /// Returns the record of a session, and notes that it is used at `now`.
    pub(super) fn touch(&self, session: SessionId, now: Duration) -> Option<Record> {
        let records = self.records.pin();
        let entry = records.get(&session)?;
        let now = seconds(now);
        if entry.last_used.load(Ordering::Relaxed) != now {
            entry.last_used.store(now, Ordering::Relaxed);
        }
        Some(entry.record)
    }

    /// Replaces the record of a session by the one that `change` returns; `None` leaves it unchanged. Returns the records
    /// before and after a change. `change` may be called more than once.
    pub(super) fn change(
        &self,
        session: SessionId,
        now: Duration,
        change: impl Fn(Option<&Record>) -> Option<Record>,
    ) -> Option<(Option<Record>, Record)> {
        let records = self.records.pin();
        let outcome = records.compute(session, |entry| {
            let (previous, last_used) = match entry {
                Some((_, entry)) => (Some(&entry.record), entry.last_used.load(Ordering::Relaxed)),
                None => (None, seconds(now)),
            };
            match change(previous) {
                Some(record) => Operation::Insert(Entry {
                    record,
                    last_used: AtomicU32::new(last_used),
                }),
                None => Operation::Abort(()),
            }
        });
        match outcome {
            Compute::Inserted(_, entry) => {
                let record = entry.record;
                drop(records);
                self.make_room(now);
                Some((None, record))
            }
            Compute::Updated { old, new } => Some((Some(old.1.record), new.1.record)),
            Compute::Removed(..) | Compute::Aborted(()) => None,
        }
    }

    /// Drops sessions if there are more than `capacity`: first all that are out of use, then those used longest ago.
    fn make_room(&self, now: Duration) {
        if self.records.len() <= self.capacity {
            return;
        }
        let _dropping = match self.dropping.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread is already making room.
            Err(TryLockError::WouldBlock) => return,
        };
        let records = self.records.pin();
        let kept = self.capacity - self.capacity / DROPPED_SHARE;
        let oldest_use = seconds(now.saturating_sub(self.unused_after));
        records.retain(|_, entry| entry.last_used.load(Ordering::Relaxed) >= oldest_use);
        let excess = records.len().saturating_sub(kept);
        if excess == 0 {
            return;
        }
        let mut uses: Vec<u32> = records
            .values()
            .map(|entry| entry.last_used.load(Ordering::Relaxed))
            .collect();
        let Some(last) = excess.min(uses.len()).checked_sub(1) else {
            return;
        };
        let (_, cutoff, _) = uses.select_nth_unstable(last);
        let cutoff = *cutoff;
        // Of those used in the same second as the last one to drop, some may stay.
        let mut to_drop = excess;
        let mut drop_used = |is_candidate: &dyn Fn(u32) -> bool| {
            for (session, entry) in &records {
                if to_drop == 0 {
                    return;
                }
                if is_candidate(entry.last_used.load(Ordering::Relaxed)) {
                    records.remove(session);
                    to_drop -= 1;
                }
            }
        };
        drop_used(&|last_used| last_used < cutoff);
        drop_used(&|last_used| last_used == cutoff);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::hanko::{
        SessionMode, SessionPolicy,
        liveness::record::{Answer, NEVER},
    };

    fn record() -> Record {
        let answer = Answer {
            is_alive: true,
            asked_at: 0,
            ends_at: NEVER,
            idle_ends_at: NEVER,
            is_renewal: true,
        };
        let policy = SessionPolicy {
            mode: SessionMode::Hybrid,
            ..SessionPolicy::default()
        };
        Record::answered(None, &answer, &policy, 0.0)
    }

    fn session(number: usize) -> SessionId {
        SessionId::from(Uuid::from_u128(number as u128))
    }

    fn insert(store: &Store, number: usize, now: u64) {
        store.change(
            session(number),
            Duration::from_secs(now),
            |_| Some(record()),
        );
    }

    #[test]
    fn sessions_out_of_use_are_dropped_first() {
        let store = Store::new(100, Duration::from_mins(10));
        for number in 0..100 {
            insert(&store, number, 0);
        }
        // The first fifty are in use, though they are as old as the others.
        for number in 0..50 {
            store.touch(session(number), Duration::from_secs(601));
        }
        insert(&store, 100, 601);
        assert_eq!(store.len(), 51);
        assert!((0..50).all(|number| store.peek(session(number)).is_some()));
    }

    #[test]
    fn a_full_store_drops_those_used_longest_ago() {
        let store = Store::new(160, Duration::from_mins(10));
        for number in 0..160 {
            insert(&store, number, number as u64);
        }
        insert(&store, 160, 160);
        assert_eq!(store.len(), 150);
        assert!((0..11).all(|number| store.peek(session(number)).is_none()));
        assert!((11..161).all(|number| store.peek(session(number)).is_some()));
    }

    #[test]
    fn sessions_of_the_same_second_do_not_all_go() {
        let store = Store::new(160, Duration::from_mins(10));
        for number in 0..=160 {
            insert(&store, number, 7);
        }
        assert_eq!(store.len(), 150);
    }

    /// The memory that a session may occupy, without the token cache.
    const MAX_BYTES_PER_SESSION: usize = 200;
    /// The number of sessions for [`measure_memory`].
    const MEASURED: &str = "POEM_HANKO_MEASURED_SESSIONS";

    #[test]
    fn a_session_takes_at_most_200_bytes() {
        if resident_bytes().is_none() {
            return;
        }
        // In a process of its own, where no other test allocates.
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hanko::liveness::store::tests::measure_memory"])
            .args(["--ignored", "--nocapture"])
            .env(MEASURED, "200000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }

    /// Prints the memory of a session after its answer was replaced five times, as in use:
    ///
    /// ```sh
    /// cargo test --lib measure_memory -- --ignored --nocapture
    /// ```
    #[test]
    #[ignore = "a measurement"]
    fn measure_memory() {
        let sessions = std::env::var_os(MEASURED).map_or(1_000_000, |sessions| {
            sessions.to_str().unwrap().parse().unwrap()
        });
        let Some(before) = resident_bytes() else {
            return;
        };
        let store = Store::new(sessions, Duration::from_mins(10));
        for round in 0..=5 {
            for number in 0..sessions {
                insert(&store, number, round);
            }
        }
        assert_eq!(store.len(), sessions);
        let bytes = (resident_bytes().unwrap() - before) / sessions;
        println!("{bytes} bytes for each of {sessions} sessions");
        assert!(bytes <= MAX_BYTES_PER_SESSION, "{bytes} bytes");
    }

    /// The resident set size; `None` on other systems than Linux.
    fn resident_bytes() -> Option<usize> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
    }
}
