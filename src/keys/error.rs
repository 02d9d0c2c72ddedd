use std::time::Duration;

use reqwest::StatusCode;

/// Why there are no keys from the JWK Set: one fetch failed, or was not waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No connection, or it broke.
    #[error("the JWK Set could not be fetched: {0}")]
    Transport(String),
    /// Not complete in time.
    #[error("the JWK Set was not complete within {0:?}")]
    Timeout(Duration),
    /// Any status but 200. Redirects are not followed.
    #[error("the JWK Set was answered with status {0}")]
    Status(StatusCode),
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
    /// The same in words that hold nothing internal, such as the name of a host, and that anybody may read.
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

/// There are no keys to verify with. The caller's token may be good, and trying again later may help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no verification keys: {}", reason.as_ref().map_or_else(|| "not fetched yet".to_owned(), ToString::to_string))]
pub struct KeySetError {
    /// What went wrong at the last fetch; `None` before the first one ended.
    pub reason: Option<FetchError>,
    /// When the next fetch is due, from now.
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
