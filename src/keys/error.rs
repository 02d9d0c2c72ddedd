use std::time::Duration;

use reqwest::StatusCode;

/// Why one fetch of the JWK Set failed.
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
