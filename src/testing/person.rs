use std::fmt;

use serde_json::{Map, Value};
use uuid::Uuid;

/// A person to sign in.
#[derive(Clone, Debug)]
pub struct Person {
    /// The user id, claim `sub`.
    pub id: Uuid,
    /// The primary e-mail address, if the person has one.
    pub email: Option<String>,
    /// Whether the e-mail address is verified.
    pub is_email_verified: bool,
    /// The username, if the person has one.
    pub username: Option<String>,
    /// How the person signs in, claim `amr`: `pwd`, `passkey`, `otp`, `totp`, `security_key` or `ext:<provider>`. The
    /// claim is omitted if this is empty.
    pub amr: Vec<String>,
    /// The claims that a JWT template adds.
    pub custom_claims: Map<String, Value>,
}

impl Person {
    /// Returns a new user with this e-mail address, verified, and nothing else.
    pub fn with_email(email: impl Into<String>) -> Self {
        Self {
            id: Uuid::new_v4(),
            email: Some(email.into()),
            is_email_verified: true,
            username: None,
            amr: Vec::new(),
            custom_claims: Map::new(),
        }
    }
}

/// A session that has just been created.
#[derive(Clone)]
pub struct SignedIn {
    /// The session token.
    pub token: String,
    /// The id of the session.
    pub session_id: Uuid,
    /// When both expire, in seconds since 1970-01-01T00:00:00Z.
    pub expires_at: u64,
}

impl fmt::Debug for SignedIn {
    /// Omits the token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SignedIn")
            .field("session_id", &self.session_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
