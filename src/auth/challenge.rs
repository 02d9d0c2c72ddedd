//! `WWW-Authenticate` (RFC 9110 section 11.6.1, RFC 6750 section 3).

use poem::http::HeaderValue;

use crate::jose::TokenError;

/// The challenge of a rejection: why the credentials of the request were not accepted.
///
/// A challenge contains no text of the request, so a client can inject nothing into it.
///
/// ```
/// use poem_hanko::Challenge;
///
/// fn must_sign_in_again(challenge: &Challenge) -> bool {
///     matches!(challenge, Challenge::InsufficientUserAuthentication { .. })
/// }
///
/// assert!(!must_sign_in_again(&Challenge::Bearer));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Challenge {
    /// No credentials were sent: there is no error code (RFC 6750 section 3.1).
    Bearer,
    /// The credentials of the request are ambiguous.
    InvalidRequest,
    /// The token is not valid.
    InvalidToken(TokenError),
    /// The session of the token has ended.
    SessionEnded,
    /// The session lacks a permission: `insufficient_scope` (RFC 6750 section 3.1).
    InsufficientScope {
        /// The text that follows "requires".
        requires: String,
        /// The scopes that are needed.
        scope: Option<String>,
    },
    /// Another sign-in is needed: `insufficient_user_authentication` (RFC 9470 section 3).
    InsufficientUserAuthentication {
        /// The text that follows "requires".
        requires: String,
        /// The maximum age of the sign-in, in seconds.
        max_age: Option<u64>,
    },
}

impl Challenge {
    /// Returns the value of the header.
    ///
    /// ```
    /// use poem_hanko::Challenge;
    ///
    /// let challenge = Challenge::InsufficientUserAuthentication {
    ///     requires: "a sign-in in the last 300 s".to_owned(),
    ///     max_age: Some(300),
    /// };
    /// let header = challenge.header_value();
    /// assert!(header.to_str()?.ends_with(r#"max_age="300""#));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn header_value(&self) -> HeaderValue {
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
            Self::InsufficientScope { requires, scope } => {
                let scope = scope.as_ref().map(|scope| ("scope", scope.clone()));
                error_with("insufficient_scope", requires, scope)
            }
            Self::InsufficientUserAuthentication { requires, max_age } => {
                let max_age = max_age.map(|seconds| ("max_age", seconds.to_string()));
                error_with("insufficient_user_authentication", requires, max_age)
            }
        }
    }

    /// Sets the text that follows "requires", if this kind of challenge has one.
    pub(super) fn requiring(mut self, text: String) -> Self {
        if let Self::InsufficientScope { requires, .. }
        | Self::InsufficientUserAuthentication { requires, .. } = &mut self
        {
            *requires = text;
        }
        self
    }
}

fn error_with(
    code: &'static str,
    requires: &str,
    parameter: Option<(&str, String)>,
) -> HeaderValue {
    let mut text = format!(r#"Bearer error="{code}", error_description="requires "#);
    // The characters that RFC 6750 section 3 allows here.
    text.extend(requires.chars().map(|character| match character {
        ' ' | '!' | '#'..='[' | ']'..='~' => character,
        _ => '?',
    }));
    text.push('"');
    if let Some((name, value)) = parameter {
        text.extend([", ", name, "=\"", &value, "\""]);
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Bearer"))
}
