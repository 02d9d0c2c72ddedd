//! Why a token is rejected, and why a `Hanko` cannot be built.

use std::time::Duration;

use super::{
    http_client::HttpClientError,
    liveness::{SessionPolicyError, ValidationError},
};
use crate::{jose::TokenError, keys::KeySetError, metrics::Authentication};

/// The suggested pause before a retry if Hanko or the revocation store did not respond.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a token was not authenticated.
///
/// ```
/// use poem_hanko::AuthenticateError;
///
/// fn advice(error: &AuthenticateError) -> &'static str {
///     match error {
///         AuthenticateError::SessionEnded => "sign in",
///         AuthenticateError::Token(_) => "send a session token",
///         _ => "try again later",
///     }
/// }
/// # assert_eq!(advice(&AuthenticateError::SessionEnded), "sign in");
/// # assert_eq!(advice(&AuthenticateError::RevocationsUnknown), "try again later");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// The token is not a valid session token. Sending it again does not help.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The session has ended, although its token has not expired.
    #[error("the session has ended")]
    SessionEnded,
    /// No key is available to verify the token.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    /// Hanko did not say whether the session is active.
    #[error(transparent)]
    Validation(#[from] ValidationError),
    /// The revocation store has not loaded the revocations yet.
    #[error("the revocations are not known yet")]
    RevocationsUnknown,
}

impl AuthenticateError {
    /// Returns the time after which a retry may succeed, or `None` if a retry does not help.
    ///
    /// `Some` means that it is not known now whether the token is valid. The request must be rejected.
    ///
    /// ```
    /// use poem_hanko::AuthenticateError;
    ///
    /// fn status(error: &AuthenticateError) -> u16 {
    ///     if error.retry_after().is_some() { 503 } else { 401 }
    /// }
    ///
    /// assert_eq!(status(&AuthenticateError::SessionEnded), 401);
    /// assert_eq!(status(&AuthenticateError::RevocationsUnknown), 503);
    /// ```
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Token(_) | Self::SessionEnded => None,
            Self::KeySet(error) => Some(error.retry_after),
            Self::Validation(_) | Self::RevocationsUnknown => Some(RETRY_AFTER),
        }
    }

    /// Returns the outcome that the request is counted as.
    pub(crate) fn counted_as(&self) -> Authentication {
        match self {
            Self::Token(error) => token_counted_as(*error),
            Self::SessionEnded => Authentication::SessionEnded,
            Self::KeySet(_) => Authentication::Keys,
            Self::Validation(_) => Authentication::Validation,
            Self::RevocationsUnknown => Authentication::Revocations,
        }
    }
}

/// Returns the outcome that a request is counted as.
pub(crate) fn counted_as<T>(outcome: &Result<T, AuthenticateError>) -> Authentication {
    match outcome {
        Ok(_) => Authentication::Accepted,
        Err(error) => error.counted_as(),
    }
}

fn token_counted_as(error: TokenError) -> Authentication {
    match error {
        TokenError::TooLarge => Authentication::TooLarge,
        TokenError::NotCompact => Authentication::NotCompact,
        TokenError::NotBase64Url => Authentication::NotBase64Url,
        TokenError::MalformedHeader => Authentication::MalformedHeader,
        TokenError::AlgorithmNotAllowed => Authentication::AlgorithmNotAllowed,
        TokenError::WrongType => Authentication::WrongType,
        TokenError::CriticalExtension => Authentication::CriticalExtension,
        TokenError::UnknownKey => Authentication::UnknownKey,
        TokenError::InvalidSignature => Authentication::InvalidSignature,
        TokenError::MalformedClaims => Authentication::MalformedClaims,
        TokenError::MissingClaim(_) => Authentication::MissingClaim,
        TokenError::MalformedClaim(_) => Authentication::MalformedClaim,
        TokenError::Expired => Authentication::Expired,
        TokenError::NotYetValid => Authentication::NotYetValid,
        TokenError::IssuedInTheFuture => Authentication::IssuedInTheFuture,
        TokenError::WrongAudience => Authentication::WrongAudience,
        TokenError::WrongIssuer => Authentication::WrongIssuer,
        TokenError::KeyBound => Authentication::KeyBound,
        TokenError::WrongKind => Authentication::WrongKind,
    }
}

/// Why [`HankoBuilder::build`](super::HankoBuilder::build) failed.
///
/// ```
/// use poem_hanko::{BuildError, Hanko, HankoUrl};
///
/// fn connect(url: HankoUrl) -> Result<Hanko, String> {
///     Hanko::builder(url).build().map_err(|error| match error {
///         BuildError::Client(error) => format!("Hanko cannot be called: {error}"),
///         other => other.to_string(),
///     })
/// }
/// # // There is no runtime here.
/// # assert!(connect("http://localhost:8000".parse().unwrap()).is_err());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// `build` was called outside of a tokio runtime, so the tasks that fetch the keys cannot be started.
    #[error("must be built within a tokio runtime, such as in an async fn of #[tokio::main]")]
    NoRuntime,
    /// The HTTP client that calls Hanko cannot be built.
    #[error(transparent)]
    Client(#[from] HttpClientError),
    /// The session policy contradicts itself.
    #[error(transparent)]
    SessionPolicy(#[from] SessionPolicyError),
}
