//! Why keys are not available.

use std::time::Duration;

use crate::metrics::FetchOutcome;

/// Why there are no keys from the JWK Set: one fetch failed, or was not waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There was no connection, or it broke.
    #[error("the JWK Set could not be fetched: {0}")]
    Transport(String),
    /// The response was not complete in time.
    #[error("the JWK Set was not complete within {0:?}")]
    Timeout(Duration),
    /// The response had another status than 200. Redirects are not followed.
    #[error("the JWK Set was answered with status {0}")]
    Status(u16),
    /// More than 1 MiB.
    #[error("the JWK Set is larger than 1 MiB")]
    TooLarge,
    /// Not a JSON object with an array `keys`.
    #[error("the answer is not a JWK Set")]
    Malformed,
    /// Not one key of the set may verify RS256.
    #[error("the JWK Set holds no usable key")]
    NoUsableKey,
    /// Too many requests wait for a fetch already. The fetch itself may succeed.
    #[error("too many requests wait for the JWK Set")]
    Overloaded,
}

impl FetchError {
    /// Returns a message without internal details, such as the name of a host, that may be shown to anybody.
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Transport(_) => "The JWK Set could not be fetched.",
            Self::Timeout(_) => "The JWK Set was not complete in time.",
            Self::Status(_) => "The JWK Set was answered with another status than 200.",
            Self::TooLarge => "The JWK Set is too large.",
            Self::Malformed => "The answer is not a JWK Set.",
            Self::NoUsableKey => "The JWK Set holds no usable key.",
            Self::Overloaded => "Too many requests wait for the JWK Set.",
        }
    }
}

impl FetchError {
    /// Returns what the fetch is counted as. [`Overloaded`](Self::Overloaded) is never the outcome of one.
    pub(super) fn counted_as(&self) -> FetchOutcome {
        match self {
            Self::Transport(_) | Self::Overloaded => FetchOutcome::Transport,
            Self::Timeout(_) => FetchOutcome::Timeout,
            Self::Status(_) => FetchOutcome::Status,
            Self::TooLarge => FetchOutcome::TooLarge,
            Self::Malformed => FetchOutcome::Malformed,
            Self::NoUsableKey => FetchOutcome::NoUsableKey,
        }
    }
}

/// No key is available to verify a token. The token may be valid, and a later retry may succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no verification keys: {}", reason.as_ref().map_or_else(|| "not fetched yet".to_owned(), ToString::to_string))]
pub struct KeySetError {
    /// Why the last fetch failed; `None` if the first one has not ended.
    pub reason: Option<FetchError>,
    /// The time until the next fetch.
    pub retry_after: Duration,
}

impl KeySetError {
    /// The same in words that hold nothing internal and are one of a fixed set.
    pub fn summary(&self) -> &'static str {
        self.reason
            .as_ref()
            .map_or("The JWK Set has not been fetched yet.", FetchError::summary)
    }
}
