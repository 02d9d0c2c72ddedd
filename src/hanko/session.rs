//! A session: the proof that a request was authenticated.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    authenticate::Inner,
    claims::{EmailClaim, SessionClaims},
    streams::{self, EndReason},
};
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
#[derive(Clone)]
pub struct Session(Arc<Authenticated>);

/// A verified token with its claims, and what verified it.
pub(super) struct Authenticated {
    verified: Verified<SessionClaims>,
    token: Box<str>,
    /// Weak, since the token cache of that [`Hanko`](super::Hanko) holds this.
    hanko: Weak<Inner>,
}

impl Authenticated {
    pub(super) fn new(verified: Verified<SessionClaims>, token: &str, hanko: &Arc<Inner>) -> Self {
        Self {
            verified,
            token: token.into(),
            hanko: Arc::downgrade(hanko),
        }
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }
}

impl fmt::Debug for Session {
    /// Leaves the token out.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Session")
            .field(&self.0.verified)
            .finish()
    }
}

impl Session {
    pub(super) fn new(authenticated: Arc<Authenticated>) -> Self {
        Self(authenticated)
    }

    pub(super) fn authenticated(&self) -> &Arc<Authenticated> {
        &self.0
    }

    pub(super) fn verified(&self) -> &Verified<SessionClaims> {
        &self.0.verified
    }

    pub(super) fn token(&self) -> &str {
        &self.0.token
    }

    pub(super) fn hanko(&self) -> Option<Arc<Inner>> {
        self.0.hanko.upgrade()
    }

    /// The id of the session.
    pub fn id(&self) -> SessionId {
        self.claims().session_id
    }

    /// The id of the user whose session it is.
    pub fn user_id(&self) -> UserId {
        self.claims().user_id
    }

    /// The user's primary e-mail address, if the user has one.
    pub fn email(&self) -> Option<&EmailClaim> {
        self.claims().email.as_ref()
    }

    /// The user name, if the user has one.
    pub fn username(&self) -> Option<&str> {
        self.claims().username.as_deref()
    }

    /// When the token was issued.
    pub fn issued_at(&self) -> Option<NumericDate> {
        self.verified().registered().issued_at
    }

    /// When the token expires.
    pub fn expires_at(&self) -> NumericDate {
        self.verified().registered().expires_at
    }

    /// The audience of the token: by default the id of the WebAuthn relying party.
    pub fn audience(&self) -> &[String] {
        &self.verified().registered().audience
    }

    /// The issuer of the token, if Hanko is configured with one.
    pub fn issuer(&self) -> Option<&str> {
        self.verified().registered().issuer.as_deref()
    }

    /// The claims that the operator's JWT template adds.
    pub fn custom_claims(&self) -> &Map<String, Value> {
        &self.claims().custom
    }

    /// Completes when the session ends: when Hanko reports or confirms its end, its key is withdrawn, its token expires, or
    /// it can no longer be verified. For handlers that respond with a stream, which end it then:
    ///
    /// ```no_run
    /// # async fn example(session: poem_hanko::Session, mut news: tokio::sync::mpsc::Receiver<String>) {
    /// let ended = session.ended();
    /// tokio::pin!(ended);
    /// loop {
    ///     tokio::select! {
    ///         reason = &mut ended => { println!("closed: {reason}"); break }
    ///         Some(item) = news.recv() => println!("{item}"),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// While it is awaited in [`Hybrid`](super::SessionMode::Hybrid) or [`Stateful`](super::SessionMode::Stateful) mode,
    /// Hanko is asked about the session every [`cache_ttl`](super::SessionPolicy::cache_ttl), at least a second apart and
    /// once for all streams of a session. This does not renew Hanko's idle timeout, so an open page does not keep its user
    /// signed in. All streams are watched by one task. Must be awaited within a tokio runtime.
    pub fn ended(&self) -> impl Future<Output = EndReason> + Send + use<> {
        streams::ended(self.clone())
    }

    fn claims(&self) -> &SessionClaims {
        self.verified().claims()
    }
}
