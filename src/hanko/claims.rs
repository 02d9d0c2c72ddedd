//! The Claims Sets that Hanko signs (`backend/session/session.go`).

use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::session::{SessionId, UserId};
use crate::jose::{Claims, RegisteredClaims, TokenError};

/// The claim `email` of a session token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EmailClaim {
    /// The address.
    pub address: String,
    /// Whether it is the user's primary address.
    pub is_primary: bool,
    /// Whether the user has proved to receive mail there.
    pub is_verified: bool,
}

/// The claims of a session token, beside the registered ones.
#[derive(Clone, Debug)]
pub struct SessionClaims {
    pub(super) user_id: UserId,
    pub(super) session_id: SessionId,
    pub(super) email: Option<EmailClaim>,
    pub(super) username: Option<String>,
    pub(super) custom: Map<String, Value>,
}

impl Claims for SessionClaims {
    /// `sub` and `session_id` must be UUIDs. Hanko signs its webhook tokens with the same keys for the same audience, and
    /// by that rule none of them is a session.
    fn from_claims(
        registered: &RegisteredClaims,
        mut private: Map<String, Value>,
    ) -> Result<Self, TokenError> {
        let subject = registered
            .subject
            .as_deref()
            .ok_or(TokenError::MissingClaim("sub"))?;
        let session_id = match private.remove("session_id") {
            None => return Err(TokenError::MissingClaim("session_id")),
            Some(Value::String(session_id)) => parse_uuid(&session_id),
            Some(_) => None,
        };
        let email = match private.remove("email") {
            None => None,
            // serde would take an array for an object whose members have lost their names.
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
            user_id: UserId::from(parse_uuid(subject).ok_or(TokenError::MalformedClaim("sub"))?),
            session_id: SessionId::from(
                session_id.ok_or(TokenError::MalformedClaim("session_id"))?,
            ),
            email,
            username,
            // Collected anew, so that it takes no room for the members that were taken out: sessions are remembered.
            custom: private.into_iter().collect(),
        })
    }
}

/// Reads a UUID as Hanko writes it: hyphenated (RFC 9562 section 4). The braced, `urn:` and plain forms are not taken, so
/// that one session has one name.
fn parse_uuid(value: &str) -> Option<Uuid> {
    const HYPHENATED_LENGTH: usize = 36;
    (value.len() == HYPHENATED_LENGTH)
        .then(|| Uuid::try_parse(value).ok())
        .flatten()
}
