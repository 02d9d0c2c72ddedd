//! `WWW-Authenticate` (RFC 9110 section 11.6.1, RFC 6750 section 3).

use poem::http::HeaderValue;

use crate::jose::TokenError;

/// What the client is told about its credentials.
///
/// A challenge contains nothing of the request, so nothing can be injected into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// No credentials were sent: there is no error code (RFC 6750 section 3.1).
    Bearer,
    /// The credentials of the request are ambiguous.
    InvalidRequest,
    /// The token is not valid.
    InvalidToken(TokenError),
    /// The session of the token has ended.
    SessionEnded,
}

impl Challenge {
    /// Returns the value of the header.
    pub fn header_value(self) -> HeaderValue {
        match self {
            Self::Bearer => HeaderValue::from_static("Bearer"),
            Self::InvalidRequest => HeaderValue::from_static(
                r#"Bearer error="invalid_request", error_description="several credentials were sent""#,
            ),
            Self::SessionEnded => HeaderValue::from_static(
                r#"Bearer error="invalid_token", error_description="the session has ended""#,
            ),
            Self::InvalidToken(error) => {
                // No message of a token error contains `"` or `\`, which RFC 6750 section 3 excludes here.
                HeaderValue::try_from(format!(
                    r#"Bearer error="invalid_token", error_description="{error}""#
                ))
                .unwrap_or(HeaderValue::from_static(r#"Bearer error="invalid_token""#))
            }
        }
    }
}
