//! Why a request is rejected, and the response to it.

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

/// Why a request was rejected. As an error of a handler it becomes a problem response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// A session is required and no credential was sent.
    #[error("no credentials were sent")]
    MissingCredentials,
    /// Several `Authorization` headers, or several cookies of the session's name.
    #[error("several credentials were sent")]
    AmbiguousCredentials,
    /// A page that is not trusted sent the cookie with an unsafe method.
    #[error("a session cookie was sent with a cross-site request")]
    CrossSiteRequest,
    /// The token is not valid.
    #[error(transparent)]
    InvalidToken(#[from] TokenError),
    /// The session has ended, though its token has not expired.
    #[error("the session has ended")]
    SessionEnded,
    /// It is not known now whether the token is valid, or whether its session is active: the keys, Hanko or the revocation
    /// store are unavailable. The message may name hosts, so it is for the log only.
    #[error("sessions cannot be verified now: {0}")]
    Unavailable(AuthenticateError),
    /// The session does not meet a guard.
    #[error("requires {0}")]
    GuardNotMet(Box<Unmet>),
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

impl From<AuthenticateError> for Rejection {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::Token(error) => Self::InvalidToken(error),
            AuthenticateError::SessionEnded => Self::SessionEnded,
            AuthenticateError::KeySet(_)
            | AuthenticateError::Validation(_)
            | AuthenticateError::RevocationsUnknown => Self::Unavailable(error),
        }
    }
}

impl Rejection {
    /// Returns the name of the reason for the log: one of a fixed set, which later rewording never changes. Where the reason
    /// is counted, it is the label of the counter.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::MissingCredentials => ProblemType::MISSING_CREDENTIALS.slug(),
            Self::AmbiguousCredentials => Authentication::Ambiguous.name(),
            Self::CrossSiteRequest => Authentication::CrossSite.name(),
            Self::InvalidToken(error) => AuthenticateError::Token(*error).counted_as().name(),
            Self::SessionEnded => Authentication::SessionEnded.name(),
            Self::Unavailable(error) => error.counted_as().name(),
            Self::GuardNotMet(unmet) => unmet.problem_type().slug(),
            Self::NotConfigured | Self::BodyReadBeforeGuard { .. } => {
                ProblemType::INTERNAL_ERROR.slug()
            }
        }
    }

    pub(super) fn to_response(&self) -> Response {
        let (problem, challenge) = match self {
            Self::MissingCredentials => (
                ProblemType::MISSING_CREDENTIALS.into(),
                Some(Challenge::Bearer),
            ),
            Self::InvalidToken(error) => (
                ProblemType::INVALID_TOKEN.into(),
                Some(Challenge::InvalidToken(*error)),
            ),
            Self::SessionEnded => (
                ProblemType::INVALID_TOKEN.into(),
                Some(Challenge::SessionEnded),
            ),
            Self::AmbiguousCredentials => (
                ProblemType::AMBIGUOUS_CREDENTIALS.into(),
                Some(Challenge::InvalidRequest),
            ),
            Self::CrossSiteRequest => (ProblemType::CROSS_SITE_REQUEST.into(), None),
            Self::GuardNotMet(unmet) => (
                Problem::from(unmet.problem_type()).with_detail(format!("Requires {unmet}.")),
                unmet.challenge().cloned(),
            ),
            Self::Unavailable(error) => {
                return Unavailable::from(error.retry_after().unwrap_or_default()).into_response();
            }
            Self::NotConfigured | Self::BodyReadBeforeGuard { .. } => {
                (ProblemType::INTERNAL_ERROR.into(), None)
            }
        };
        let mut response = Problem::into_response(problem);
        if let Some(challenge) = challenge {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, challenge.header_value());
        }
        response
    }
}

impl ResponseError for Rejection {
    fn status(&self) -> StatusCode {
        self.to_response().status()
    }

    fn as_response(&self) -> Response {
        self.to_response()
    }
}
