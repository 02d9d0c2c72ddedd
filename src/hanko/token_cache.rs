//! Verified tokens, so that a token that is used again is not verified again.

use std::{
    collections::{VecDeque, hash_map::RandomState},
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use papaya::{Equivalent, HashMap};

use super::session::{Authenticated, Session};

/// How many of the last bytes of a token are hashed. They belong to its signature.
///
/// A token is found by this hash, and then compared as a whole, so the hash alone never decides which session a request
/// has. Nor can an attacker make lookups slow with many cached tokens of one hash, or learn a token from their duration:
///
/// - Only verified tokens are cached, and nobody can choose these bytes of one: an RSASSA-PKCS1-v1_5 signature is determined
///   by what is signed. 32 characters have at least 188 bits of it, so Hanko would have to sign about 2^94 tokens
///   before two had the same ones.
/// - The hash is `SipHash`, which resists chosen keys, with a random key that each process takes from the operating
///   system. So nobody can tell which of their tokens share a bucket, not even from the duration of lookups.
/// - A forged token may end with the same bytes as a cached one. The comparison then finds that they differ, and the token is
///   verified like any other. Since these bytes are compared first, the duration of the comparison reveals nothing about a
///   token to somebody who does not know those 188 bits.
///
/// So it suffices to hash these bytes. `SipHash` would take about 30 times as long for all 1,300 of a token.
const HASHED_BYTES: usize = 32;

/// How many cached tokens are kept because they were used, at most, before one is dropped for a new token. Limited, so that
/// no request waits for a search of the whole cache.
const MAX_SPARED: usize = 32;

/// A bounded number of sessions by the token that was verified.
///
/// An entry can be made only from a [`Session`], which only the verification of its token creates. Its times, its key, and
/// whether it was revoked are checked at each use.
///
/// A lookup takes no lock. In memory that other cores read, it writes only
/// - the reference count of the session that it returns, when that is cloned and dropped: other cores read it while they
///   serve the same session;
/// - once per round of the [`queue`](Self::queue), that the session was used.
///
/// A token of 1,300 bytes occupies at most 0.9 KiB beside its length. If the application reads claims of the JWT template,
/// they are kept as well.
pub(super) struct TokenCache {
    sessions: HashMap<Entry, (), RandomState>,
    capacity: usize,
    /// The cached sessions in the order in which they are dropped: the oldest first, unless it was used since it was last at
    /// the front (the CLOCK algorithm). Locked only when a token is cached, after its signature was verified.
    queue: Mutex<VecDeque<Arc<Authenticated>>>,
}

impl TokenCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            sessions: HashMap::default(),
            capacity,
            queue: Mutex::default(),
        }
    }

    pub(super) fn get(&self, token: &[u8]) -> Option<Session> {
        let sessions = self.sessions.pin();
        let (entry, ()) = sessions.get_key_value(&Sent(token))?;
        if !entry.is_used.load(Ordering::Relaxed) {
            entry.is_used.store(true, Ordering::Relaxed);
        }
        Some(Session::new(Arc::clone(&entry.session)))
    }

    #[cfg(feature = "server")]
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn insert(&self, session: &Session) {
        let session = session.authenticated();
        let sessions = self.sessions.pin();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // Several requests may have verified the same token at once.
        if sessions.try_insert(Entry::new(session), ()).is_err() {
            return;
        }
        queue.push_back(Arc::clone(session));
        let mut spared = 0;
        while queue.len() > self.capacity
            && let Some(first) = queue.pop_front()
        {
            let token = Sent(first.token().as_bytes());
            // The limit is below the capacity, so the new token, which is last, is never dropped.
            let is_spared = spared < MAX_SPARED.min(self.capacity.saturating_sub(1))
                && sessions
                    .get_key_value(&token)
                    .is_some_and(|(entry, ())| entry.is_used.swap(false, Ordering::Relaxed));
            if is_spared {
                spared += 1;
                queue.push_back(first);
            } else {
                sessions.remove(&token);
            }
        }
    }
}

impl fmt::Debug for TokenCache {
    /// Shows no token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenCache")
            .field("len", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

/// A token as it was sent.
struct Sent<'a>(&'a [u8]);

impl Sent<'_> {
    fn hashed(&self) -> &[u8] {
        let end = self.0.last_chunk::<HASHED_BYTES>();
        end.map_or(self.0, |end| end)
    }
}

impl Hash for Sent<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.hashed());
    }
}

impl Equivalent<Entry> for Sent<'_> {
    fn equivalent(&self, entry: &Entry) -> bool {
        let token = entry.session.token().as_bytes();
        // The map also asks about entries whose hashes have only some bits in common.
        self.hashed() == Sent(token).hashed() && self.0 == token
    }
}

struct Entry {
    session: Arc<Authenticated>,
    is_used: AtomicBool,
}

impl Entry {
    fn new(session: &Arc<Authenticated>) -> Self {
        Self {
            session: Arc::clone(session),
            is_used: AtomicBool::new(false),
        }
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Sent(self.session.token().as_bytes()).hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.session.token() == other.session.token()
    }
}

impl Eq for Entry {}

#[cfg(all(test, feature = "local-hanko"))]
mod tests {
    use super::*;
    use crate::{
        hanko::{Hanko, SessionMode},
        testing::{LocalHanko, Person},
    };

    /// A `Hanko` without a cache, so that each session is one of its own.
    async fn hanko(local: &LocalHanko) -> Hanko {
        let hanko = Hanko::builder(local.hanko_url())
            .session_mode(SessionMode::Stateless)
            .token_cache_capacity(0)
            .build()
            .unwrap();
        hanko.wait_for_key_set_fetches(1).await;
        hanko
    }

    async fn sessions(number: usize) -> Vec<Session> {
        let local = LocalHanko::builder().start().await.unwrap();
        let hanko = hanko(&local).await;
        let mut sessions = Vec::new();
        for _ in 0..number {
            let token = local.sign_in(&Person::default()).token;
            sessions.push(hanko.authenticate(token).await.unwrap());
        }
        sessions
    }

    fn is_cached(cache: &TokenCache, session: &Session) -> bool {
        let sessions = cache.sessions.pin();
        sessions.contains_key(&Sent(session.token().as_bytes()))
    }

    #[tokio::test]
    async fn only_the_whole_token_is_found() {
        let sessions = sessions(2).await;
        let cache = TokenCache::new(10);
        for session in &sessions {
            cache.insert(session);
        }
        let token = sessions[0].token();
        assert_eq!(cache.get(token.as_bytes()).unwrap().id(), sessions[0].id());
        // Each ends like the token, so it has the same hash.
        let signature = token.rsplit('.').next().unwrap();
        let other = sessions[1].token().rsplit_once('.').unwrap().0;
        let mut changed = token.as_bytes().to_vec();
        changed[0] ^= 1;
        for wrong in [
            changed,
            format!("{other}.{signature}").into_bytes(),
            format!(" {token}").into_bytes(),
            token.as_bytes()[1..].to_vec(),
            token.as_bytes()[token.len() - HASHED_BYTES..].to_vec(),
        ] {
            assert!(cache.get(&wrong).is_none());
        }
        let short = &token.as_bytes()[token.len() - HASHED_BYTES + 1..];
        assert!(cache.get(short).is_none());
        assert!(cache.get(b"").is_none());
        let longer = format!("{token} ");
        assert!(cache.get(longer.as_bytes()).is_none());
    }

    #[tokio::test]
    async fn sessions_in_use_outlast_others() {
        let sessions = sessions(12).await;
        let cache = TokenCache::new(3);
        for session in &sessions {
            cache.insert(session);
            // Used between any two that come and go.
            assert!(cache.get(sessions[0].token().as_bytes()).is_some());
            assert!(cache.sessions.len() <= 3);
        }
        assert_eq!(cache.sessions.len(), 3);
        assert!(is_cached(&cache, &sessions[0]));
        assert!(is_cached(&cache, &sessions[11]));
        assert!(!sessions[1..10].iter().any(|one| is_cached(&cache, one)));
    }

    #[tokio::test]
    async fn a_new_token_is_cached_though_all_are_in_use() {
        let sessions = sessions(MAX_SPARED + 8).await;
        let (last, first) = sessions.split_last().unwrap();
        let cache = TokenCache::new(first.len());
        for session in first {
            cache.insert(session);
            assert!(cache.get(session.token().as_bytes()).is_some());
        }
        cache.insert(last);
        cache.insert(last);
        assert!(is_cached(&cache, last));
        assert_eq!(cache.sessions.len(), first.len());
        let queue = cache.queue.lock().unwrap();
        assert_eq!(queue.len(), first.len());
        // The first ones were spared, and the one after those dropped.
        assert!(is_cached(&cache, &first[0]));
        assert!(!is_cached(&cache, &first[MAX_SPARED]));
    }

    #[tokio::test]
    async fn a_new_token_is_cached_in_a_small_cache_in_use() {
        let sessions = sessions(6).await;
        for capacity in 1..=5 {
            let cache = TokenCache::new(capacity);
            for session in &sessions[..=capacity] {
                cache.insert(session);
                assert!(is_cached(&cache, session), "{capacity}");
                assert!(cache.get(session.token().as_bytes()).is_some());
            }
            assert_eq!(cache.sessions.len(), capacity);
        }
    }

    #[tokio::test]
    async fn debug_output_shows_no_token() {
        let sessions = sessions(1).await;
        let cache = TokenCache::new(1);
        cache.insert(&sessions[0]);
        let shown = format!("{cache:?} {:?}", sessions[0]);
        for part in sessions[0].token().split('.') {
            assert!(!shown.contains(part), "{shown}");
        }
    }

    /// What a token may occupy beside its own length.
    const MAX_BYTES_BESIDE_TOKEN: usize = 921;
    /// This many tokens are authenticated first, so that the code is in memory and clients have allocated theirs.
    const WARM_UP: usize = 100;
    /// The number of tokens for [`measure_memory`].
    const MEASURED: &str = "POEM_HANKO_MEASURED_TOKENS";

    #[test]
    fn a_token_takes_at_most_0_9_kib_beside_its_length() {
        if resident_bytes().is_none() {
            return;
        }
        // In a process of its own, where no other test allocates.
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hanko::token_cache::tests::measure_memory"])
            .args(["--ignored", "--nocapture"])
            .env(MEASURED, "1000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }

    /// Prints the memory of a cached token of 1,300 bytes, with the system's allocator:
    ///
    /// ```sh
    /// cargo test --lib measure_memory -- --ignored --nocapture
    /// ```
    #[tokio::test]
    #[ignore = "a measurement"]
    async fn measure_memory() {
        let number = std::env::var_os(MEASURED)
            .map_or(20_000, |number| number.to_str().unwrap().parse().unwrap());
        let local = LocalHanko::builder().start().await.unwrap();
        let hanko = hanko(&local).await;
        let person = Person::with_email("ada@example.com").username("ada");
        let unpadded = local.sign_claims(&local.claims_of(&person)).len();
        // As text, four bytes are three of the claim.
        let padding = "x".repeat((1300 - unpadded) * 3 / 4);
        let claims = local.claims_of(&person.claim("padding", padding));
        let tokens: Vec<String> = (0..WARM_UP + number)
            .map(|number| {
                let mut claims = claims.clone();
                let id = uuid::Uuid::from_u128(number as u128);
                claims.insert("session_id".to_owned(), id.to_string().into());
                local.sign_claims(&claims)
            })
            .collect();
        let cache = TokenCache::new(tokens.len());
        let (first, measured) = tokens.split_at(WARM_UP);
        for token in first {
            cache.insert(&hanko.authenticate(token).await.unwrap());
        }
        let before = resident_bytes().unwrap_or_default();
        for token in measured {
            cache.insert(&hanko.authenticate(token).await.unwrap());
        }
        assert_eq!(cache.sessions.len(), tokens.len());
        let bytes = (resident_bytes().unwrap_or_default() - before) / number;
        println!(
            "{bytes} bytes for each of {number} tokens of {} bytes",
            tokens[0].len()
        );
        assert!(bytes <= tokens[0].len() + MAX_BYTES_BESIDE_TOKEN);
    }

    /// The resident set size; `None` on other systems than Linux.
    fn resident_bytes() -> Option<usize> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
    }
}
