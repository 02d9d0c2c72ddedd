//! `WWW-Authenticate` (RFC 9110 section 11.6.1, RFC 6750 section 3).

use poem::http::HeaderValue;

use crate::jose::TokenError;

/// What the client is told about the credentials it sent, or did not send.
///
/// Nothing of the request enters a challenge, so that none can be injected into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// No credentials were sent: no error code is due (RFC 6750 section 3.1).
    Bearer,
    /// The request cannot be read as one with credentials.
    InvalidRequest,
    /// The token is not valid.
    InvalidToken(TokenError),
    /// The token is of a session that has ended.
    SessionEnded,
}

impl Challenge {
    /// The value of the header.
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
                // `"` and `\` may not be in an `error_description` (RFC 6750 section 3), and are in none.
                HeaderValue::try_from(format!(
                    r#"Bearer error="invalid_token", error_description="{error}""#
                ))
                .unwrap_or(HeaderValue::from_static(r#"Bearer error="invalid_token""#))
            }
        }
    }
}
