//! A session: the proof that a request was authenticated.

use std::{fmt, sync::Arc};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::claims::{EmailClaim, SessionClaims};
use crate::jose::{NumericDate, Verified};

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The UUID itself.
            pub fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

uuid_newtype! {
    /// The id of a session at Hanko (`session_id`).
    SessionId
}
uuid_newtype! {
    /// The id of a user at Hanko (`sub`).
    UserId
}

/// An authenticated session. Only [`Hanko::authenticate`](super::Hanko::authenticate) makes one; a clone is cheap.
#[derive(Clone, Debug)]
pub struct Session(Arc<Verified<SessionClaims>>);

impl Session {
    pub(super) fn new(verified: Arc<Verified<SessionClaims>>) -> Self {
        Self(verified)
    }

    pub(super) fn verified(&self) -> &Verified<SessionClaims> {
        &self.0
    }

    /// The id of the session.
    pub fn id(&self) -> SessionId {
        self.0.claims().session_id
    }

    /// The id of the user whose session it is.
    pub fn user_id(&self) -> UserId {
        self.0.claims().user_id
    }

    /// The user's primary e-mail address, if the user has one.
    pub fn email(&self) -> Option<&EmailClaim> {
        self.0.claims().email.as_ref()
    }

    /// The user name, if the user has one.
    pub fn username(&self) -> Option<&str> {
        self.0.claims().username.as_deref()
    }

    /// When the token was issued.
    pub fn issued_at(&self) -> Option<NumericDate> {
        self.0.registered().issued_at
    }

    /// When the token expires.
    pub fn expires_at(&self) -> NumericDate {
        self.0.registered().expires_at
    }

    /// Whom the token is meant for: by default the WebAuthn relying party id.
    pub fn audience(&self) -> &[String] {
        &self.0.registered().audience
    }

    /// Who issued the token, if Hanko was told to say so.
    pub fn issuer(&self) -> Option<&str> {
        self.0.registered().issuer.as_deref()
    }

    /// The claims that the operator's JWT template adds.
    pub fn custom_claims(&self) -> &Map<String, Value> {
        &self.0.claims().custom
    }
}
