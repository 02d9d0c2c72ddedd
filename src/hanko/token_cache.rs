//! Verified tokens, so that a token that is used again is not verified again.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use quick_cache::sync::Cache;

use super::session::{Authenticated, Session};

/// A bounded number of sessions by the token that was verified.
///
/// The whole token is compared, and hashed with a key that is random in each process, so that nobody can choose tokens
/// whose hashes collide.
pub(super) struct TokenCache(Cache<ByToken, Arc<Authenticated>>);

impl TokenCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self(Cache::new(capacity))
    }

    pub(super) fn get(&self, token: &[u8]) -> Option<Session> {
        self.0.get(token).map(Session::new)
    }

    #[cfg(feature = "server")]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn insert(&self, session: &Session) {
        let authenticated = Arc::clone(session.authenticated());
        self.0
            .insert(ByToken(Arc::clone(&authenticated)), authenticated);
    }
}

impl fmt::Debug for TokenCache {
    /// Shows no token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenCache")
            .field("len", &self.0.len())
            .finish_non_exhaustive()
    }
}

/// A key that is equal to the bytes of its token.
struct ByToken(Arc<Authenticated>);

impl Borrow<[u8]> for ByToken {
    fn borrow(&self) -> &[u8] {
        self.0.token().as_bytes()
    }
}

impl Hash for ByToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let token: &[u8] = self.borrow();
        token.hash(state);
    }
}

impl PartialEq for ByToken {
    fn eq(&self, other: &Self) -> bool {
        self.0.token() == other.0.token()
    }
}

impl Eq for ByToken {}
