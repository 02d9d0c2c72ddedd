//! Why a request is rejected, and the response to it.

use std::time::Duration;

use poem::{
    Response,
    error::ResponseError,
    http::{StatusCode, header::WWW_AUTHENTICATE},
};

use super::{challenge::Challenge, requirement::Unmet};
use crate::{
    hanko::AuthenticateError,
    jose::TokenError,
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
    /// It is unknown at the moment whether the token is valid.
    #[error("sessions cannot be verified now")]
    Unavailable {
        /// After this time it may be worth trying again.
        retry_after: Duration,
    },
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
        match (error.retry_after(), error) {
            (Some(retry_after), _) => Self::Unavailable { retry_after },
            (None, AuthenticateError::Token(error)) => Self::InvalidToken(error),
            (None, _) => Self::SessionEnded,
        }
    }
}

impl Rejection {
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
            Self::Unavailable { retry_after } => {
                return Unavailable::from(*retry_after).into_response();
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
