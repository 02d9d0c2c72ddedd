//! Why keys are not available.

use std::time::Duration;

/// Why one fetch of the JWK Set failed.
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
