//! The Claims Sets that Hanko signs (`backend/session/session.go`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::id::{SessionId, UserId};
use crate::jose::{Claims, Members, REGISTERED_CLAIMS, RegisteredClaims, TokenError};

/// The claim `email` of a session token.
///
/// ```
/// use poem_hanko::EmailClaim;
///
/// fn is_colleague(email: &EmailClaim) -> bool {
///     email.is_verified && email.address.ends_with("@example.com")
/// }
///
/// let address = "ada@example.com".to_owned();
/// assert!(is_colleague(&EmailClaim { address, is_primary: true, is_verified: true }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct EmailClaim {
    /// The address.
    pub address: String,
    /// Whether it is the user's primary address.
    pub is_primary: bool,
    /// Whether the user has confirmed it.
    pub is_verified: bool,
}

/// The claims of a session token that Hanko itself adds to the registered claims.
#[derive(Clone, Debug)]
pub(super) struct SessionClaims {
    pub(super) user_id: UserId,
    pub(super) session_id: SessionId,
    pub(super) email: Option<EmailClaim>,
    pub(super) username: Option<String>,
}

/// The names of the private claims that [`SessionClaims`] has.
const SESSION_CLAIMS: [&str; 3] = ["session_id", "email", "username"];

/// Returns whether a claim of this name can only come from the JWT template.
pub(super) fn is_custom(name: &str) -> bool {
    !REGISTERED_CLAIMS.contains(&name) && !SESSION_CLAIMS.contains(&name)
}

/// Keeps only the claims of a session token that the JWT template adds.
pub(super) fn custom_claims(mut all: Map<String, Value>) -> Map<String, Value> {
    all.retain(|name, _| is_custom(name));
    // Collected again to free the space of the removed members, since cached sessions live for hours.
    all.into_iter().collect()
}

impl Claims for SessionClaims {
    const NAMES: &[&'static str] = &SESSION_CLAIMS;

    /// `sub` and `session_id` must be UUIDs. This rejects Hanko's webhook tokens, which have the same keys and
    /// audience.
    fn from_claims(
        registered: &RegisteredClaims,
        mut private: Members,
    ) -> Result<Self, TokenError> {
        let subject = registered
            .subject
            .as_deref()
            .ok_or(TokenError::MissingClaim("sub"))?;
        let session_id = match private.remove("session_id") {
            None => return Err(TokenError::MissingClaim("session_id")),
            Some(Value::String(session_id)) => session_id.parse().ok(),
            Some(_) => None,
        };
        let email = match private.remove("email") {
            None => None,
            // serde also deserializes a struct from an array, by position.
            Some(email @ Value::Object(_)) => Some(
                EmailClaim::deserialize(email).map_err(|_| TokenError::MalformedClaim("email"))?,
            ),
            Some(_) => return Err(TokenError::MalformedClaim("email")),
        };
        let username = match private.remove("username") {
            None => None,
            Some(Value::String(username)) => Some(username),
            Some(_) => return Err(TokenError::MalformedClaim("username")),
        };
        Ok(Self {
            user_id: subject
                .parse()
                .map_err(|_| TokenError::MalformedClaim("sub"))?,
            session_id: session_id.ok_or(TokenError::MalformedClaim("session_id"))?,
            email,
            username,
        })
    }
}
