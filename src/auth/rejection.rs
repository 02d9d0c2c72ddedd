//! Why a request is rejected, and the response to it.

use std::fmt;

use poem::{
    Response,
    error::ResponseError,
    http::{StatusCode, header::WWW_AUTHENTICATE},
};

use super::{challenge::Challenge, requirement::Unmet};
use crate::{
    hanko::AuthenticateError,
    jose::TokenError,
    metrics::Authentication,
    problem::{Problem, ProblemType, Unavailable},
};

/// Which credential of a request was examined.
///
/// ```
/// use poem_hanko::{Credential, Rejection};
///
/// /// Returns the name of the cookie to remove, if its session has ended.
/// fn stale_cookie(rejection: &Rejection) -> Option<&str> {
///     match rejection {
///         Rejection::SessionEnded(Credential::Cookie { name }) => Some(name),
///         _ => None,
///     }
/// }
/// # let cookie = Credential::Cookie { name: "hanko".to_owned() };
/// # assert_eq!(stale_cookie(&Rejection::SessionEnded(cookie)), Some("hanko"));
/// # assert_eq!(stale_cookie(&Rejection::SessionEnded(Credential::Bearer)), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// The token of an `Authorization: Bearer` header.
    Bearer,
    /// The session cookie.
    Cookie {
        /// The name of the cookie.
        name: String,
    },
}

impl fmt::Display for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => formatter.write_str("Bearer token"),
            Self::Cookie { name } => write!(formatter, "cookie `{name}`"),
        }
    }
}

/// Why a request was rejected. If a handler returns it as an error, it becomes a problem response.
///
/// If the challenge has an `error_description`, it is the message of this error.
///
/// ```
/// use poem::{Request, handler};
/// use poem_hanko::{Rejection, require};
///
/// #[handler]
/// async fn greet(request: &Request) -> poem::Result<String> {
///     match require::<()>(request).await {
///         Ok(session) => Ok(format!("Hello, {}!", session.user_id())),
///         Err(Rejection::MissingCredentials { .. }) => Ok("Hello, stranger!".to_owned()),
///         Err(rejection) => Err(rejection.into()),
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// A session is required and no credential was sent.
    #[error("no credentials were sent")]
    MissingCredentials {
        /// The name of the session cookie.
        cookie_name: String,
    },
    /// Several `Authorization` headers, or several session cookies, were sent.
    #[error("several credentials were sent")]
    AmbiguousCredentials(Credential),
    /// A page that is not trusted sent the cookie with an unsafe method.
    #[error("a session cookie was sent with a cross-site request")]
    CrossSiteRequest {
        /// The name of the session cookie.
        cookie_name: String,
    },
    /// The token is not valid.
    #[error("{0}")]
    InvalidToken(TokenError, Credential),
    /// The session has ended, though its token has not expired.
    #[error("the session has ended")]
    SessionEnded(Credential),
    /// It is not known now whether the token is valid, or whether its session is active: the keys, Hanko or the revocation
    /// store are unavailable. The message may name hosts, so it is for the log only.
    #[error("sessions cannot be verified now: {0}")]
    Unavailable(AuthenticateError),
    /// The session does not meet a guard.
    #[error("requires {0}")]
    GuardNotMet(Box<Unmet>, Credential),
    /// A guarded handler declares its body before the guard.
    #[error(
        "{operation} reads the body before it checks the guard: declare the guard before the body"
    )]
    BodyReadBeforeGuard {
        /// The method and the path of the operation.
        operation: String,
    },
    /// The application did not put a [`Hanko`](crate::Hanko) into the data of its routes.
    #[error("no `Hanko` in the request's data: add `.data(hanko)` to the routes")]
    NotConfigured,
}

impl Rejection {
    /// Returns the rejection of a request whose `credential` could not be authenticated.
    ///
    /// ```
    /// use poem_hanko::{Credential, Hanko, Rejection, Session};
    ///
    /// /// Authenticates a token that arrives in a message, not in a header.
    /// async fn sign_in(hanko: &Hanko, token: &str) -> Result<Session, Rejection> {
    ///     let result = hanko.authenticate(token).await;
    ///     result.map_err(|error| Rejection::new(error, Credential::Bearer))
    /// }
    /// # use poem_hanko::AuthenticateError;
    /// # let rejection = Rejection::new(AuthenticateError::SessionEnded, Credential::Bearer);
    /// # assert_eq!(rejection, Rejection::SessionEnded(Credential::Bearer));
    /// ```
    pub fn new(error: AuthenticateError, credential: Credential) -> Self {
        match error {
            AuthenticateError::Token(error) => Self::InvalidToken(error, credential),
            AuthenticateError::SessionEnded => Self::SessionEnded(credential),
            AuthenticateError::KeySet(_)
            | AuthenticateError::Validation(_)
            | AuthenticateError::RevocationsUnknown => Self::Unavailable(error),
        }
    }

    /// Returns the name of the reason in the log, from a fixed set. It stays the same if messages are reworded. If the reason
    /// is counted, it is also the label of the counter.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::MissingCredentials { .. } => ProblemType::MISSING_CREDENTIALS.slug(),
            Self::AmbiguousCredentials(_) => Authentication::Ambiguous.name(),
            Self::CrossSiteRequest { .. } => Authentication::CrossSite.name(),
            Self::InvalidToken(error, _) => AuthenticateError::Token(*error).counted_as().name(),
            Self::SessionEnded(_) => Authentication::SessionEnded.name(),
            Self::Unavailable(error) => error.counted_as().name(),
            Self::GuardNotMet(unmet, _) => unmet.problem_type().slug(),
            Self::NotConfigured | Self::BodyReadBeforeGuard { .. } => {
                ProblemType::INTERNAL_ERROR.slug()
            }
        }
    }

    /// Returns the `detail` of the problem: what the challenge says, and which credential was examined. Returns `None` if the
    /// request is not at fault.
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::MissingCredentials { cookie_name } => Some(format!(
                "No credentials were sent, neither a Bearer token nor the cookie `{cookie_name}`."
            )),
            Self::AmbiguousCredentials(Credential::Bearer) => Some(
                "Several credentials were sent: there is more than one `Authorization` header."
                    .to_owned(),
            ),
            Self::AmbiguousCredentials(credential @ Credential::Cookie { .. }) => Some(format!(
                "Several credentials were sent: there is more than one {credential}."
            )),
            Self::CrossSiteRequest { cookie_name } => Some(format!(
                "The cookie `{cookie_name}` is accepted with this request only from a trusted origin."
            )),
            Self::InvalidToken(_, credential)
            | Self::SessionEnded(credential)
            | Self::GuardNotMet(_, credential) => {
                let reason = capitalized(&self.to_string());
                Some(format!("{reason}. The {credential} was examined."))
            }
            Self::Unavailable(_) | Self::BodyReadBeforeGuard { .. } | Self::NotConfigured => None,
        }
    }

    pub(super) fn to_response(&self) -> Response {
        let (problem_type, challenge) = match self {
            Self::MissingCredentials { .. } => {
                (ProblemType::MISSING_CREDENTIALS, Some(Challenge::Bearer))
            }
            Self::InvalidToken(error, _) => (
                ProblemType::INVALID_TOKEN,
                Some(Challenge::InvalidToken(*error)),
            ),
            Self::SessionEnded(_) => (ProblemType::INVALID_TOKEN, Some(Challenge::SessionEnded)),
            Self::AmbiguousCredentials(_) => (
                ProblemType::AMBIGUOUS_CREDENTIALS,
                Some(Challenge::InvalidRequest),
            ),
            Self::CrossSiteRequest { .. } => (ProblemType::CROSS_SITE_REQUEST, None),
            Self::GuardNotMet(unmet, _) => (unmet.problem_type(), unmet.challenge().cloned()),
            Self::Unavailable(error) => {
                return Unavailable::from(error.retry_after().unwrap_or_default()).into_response();
            }
            Self::NotConfigured | Self::BodyReadBeforeGuard { .. } => {
                (ProblemType::INTERNAL_ERROR, None)
            }
        };
        let mut problem = Problem::from(problem_type);
        if let Some(detail) = self.detail() {
            problem = problem.with_detail(detail);
        }
        let mut response = problem.into_response();
        if let Some(challenge) = challenge {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, challenge.header_value());
        }
        response
    }
}

/// Returns the text with its first letter in upper case.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

impl ResponseError for Rejection {
    fn status(&self) -> StatusCode {
        self.to_response().status()
    }

    fn as_response(&self) -> Response {
        self.to_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_starts_with_challenge_text() {
        let cookie = || Credential::Cookie {
            name: "sid".to_owned(),
        };
        for rejection in [
            Rejection::AmbiguousCredentials(Credential::Bearer),
            Rejection::AmbiguousCredentials(cookie()),
            Rejection::InvalidToken(TokenError::Expired, Credential::Bearer),
            Rejection::InvalidToken(TokenError::MissingClaim("sub"), cookie()),
            Rejection::SessionEnded(cookie()),
        ] {
            let response = rejection.to_response();
            let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap_or("");
            let (_, description) = challenge
                .split_once("error_description=\"")
                .expect("a description");
            let description = capitalized(description.trim_end_matches('"'));
            let detail = rejection.detail().expect("a detail");
            assert!(detail.starts_with(&description), "{detail}: {challenge}");
        }
    }
}
