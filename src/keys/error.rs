//! Why keys are not available.

use std::time::Duration;

use crate::metrics::FetchOutcome;

/// Why the JWK Set is not available: a fetch failed, or the request could not wait for it.
///
/// ```
/// use poem_hanko::{FetchError, Hanko};
///
/// fn explain(hanko: &Hanko) -> Option<String> {
///     match hanko.key_set_status().last_error? {
///         FetchError::Status(404) => Some("is the URL that of a Hanko API?".to_owned()),
///         FetchError::NoUsableKey => Some("Hanko has no RSA key".to_owned()),
///         error => Some(error.to_string()),
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The connection failed, or was closed too early.
    #[error("the JWK Set could not be fetched: {0}")]
    Transport(String),
    /// The response was not complete in time.
    #[error("the JWK Set was not complete within {0:?}")]
    Timeout(Duration),
    /// The status of the response was not 200. Redirects are not followed.
    #[error("the JWK Set endpoint responded with status {0}")]
    Status(u16),
    /// The response is larger than 1 MiB.
    #[error("the JWK Set is larger than 1 MiB")]
    TooLarge,
    /// The response is not a JSON object with an array `keys`.
    #[error("the response is not a JWK Set")]
    Malformed,
    /// No key of the set may verify RS256.
    #[error("the JWK Set contains no usable key")]
    NoUsableKey,
    /// Too many requests already wait for a fetch. The fetch itself may succeed.
    #[error("too many requests wait for the JWK Set")]
    Overloaded,
}

impl FetchError {
    /// Returns a fixed message that may be shown to anybody: it has no internal details, such as a host name.
    ///
    /// ```
    /// use poem_hanko::FetchError;
    ///
    /// let error = FetchError::Transport("hanko.internal: connection refused".to_owned());
    /// assert_eq!(error.summary(), "The JWK Set could not be fetched.");
    /// ```
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Transport(_) => "The JWK Set could not be fetched.",
            Self::Timeout(_) => "The JWK Set was not complete in time.",
            Self::Status(_) => "The JWK Set endpoint did not respond with status 200.",
            Self::TooLarge => "The JWK Set is too large.",
            Self::Malformed => "The response is not a JWK Set.",
            Self::NoUsableKey => "The JWK Set contains no usable key.",
            Self::Overloaded => "Too many requests wait for the JWK Set.",
        }
    }
}

impl FetchError {
    /// Returns the outcome that the fetch is counted as. No fetch ends with [`Overloaded`](Self::Overloaded).
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
///
/// ```
/// use std::time::Duration;
///
/// use poem_hanko::{FetchError, KeySetError};
///
/// let error = KeySetError {
///     reason: Some(FetchError::Status(502)),
///     retry_after: Duration::from_secs(3),
/// };
/// println!("{error}, next fetch in {:?}", error.retry_after);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no verification keys: {}", reason.as_ref().map_or_else(|| "not fetched yet".to_owned(), ToString::to_string))]
pub struct KeySetError {
    /// Why the last fetch failed; `None` if the first one has not ended.
    pub reason: Option<FetchError>,
    /// The time until the next fetch.
    pub retry_after: Duration,
}

impl KeySetError {
    /// Returns a fixed message without internal details.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::KeySetError;
    ///
    /// let error = KeySetError { reason: None, retry_after: Duration::from_secs(1) };
    /// assert_eq!(error.summary(), "The JWK Set has not been fetched yet.");
    /// ```
    pub fn summary(&self) -> &'static str {
        self.reason
            .as_ref()
            .map_or("The JWK Set has not been fetched yet.", FetchError::summary)
    }
}
