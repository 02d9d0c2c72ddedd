//! What Hanko reports by webhook (Hanko `backend/webhooks/events/events.go`).

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::hanko::{
    id::{SessionId, UserId},
    revocation::{Revocation, Target},
};
use crate::jose::{Claims, NumericDate, RegisteredClaims, TokenError, Verified, parse_object};

/// The `sub` of Hanko's webhook tokens.
const WEBHOOK_SUBJECT: &str = "hanko webhooks";

/// The body of a webhook request.
pub(super) struct WebhookBody {
    pub(super) token: String,
    pub(super) event: String,
}

impl WebhookBody {
    /// `None` where it is not a JSON object `{"token": …, "event": …}`. Hanko may add other members.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut members = parse_object(body)?;
        let mut take = |name| match members.remove(name) {
            Some(Value::String(value)) => Some(value),
            _ => None,
        };
        Some(Self {
            token: take("token")?,
            event: take("event")?,
        })
    }
}

/// The claims of a webhook token, beside the registered ones.
#[derive(Clone, Debug)]
pub(super) struct WebhookClaims {
    event: String,
    data: Value,
}

impl Claims for WebhookClaims {
    fn from_claims(
        registered: &RegisteredClaims,
        mut private: Map<String, Value>,
    ) -> Result<Self, TokenError> {
        if registered.subject.as_deref() != Some(WEBHOOK_SUBJECT) {
            return Err(TokenError::WrongKind);
        }
        let event = match private.remove("evt") {
            Some(Value::String(event)) => event,
            Some(_) => return Err(TokenError::MalformedClaim("evt")),
            None => return Err(TokenError::MissingClaim("evt")),
        };
        Ok(Self {
            event,
            data: private.remove("data").unwrap_or_default(),
        })
    }
}

impl WebhookClaims {
    /// Whether the token was made for this event.
    pub(super) fn is_about(&self, event: &str) -> bool {
        self.event == event
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What happened at Hanko.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[$doc])* $variant,)*
            /// An event that this version does not know.
            Other(String),
        }

        impl EventKind {
            /// The names of the events that this version knows.
            pub(crate) const NAMES: &[&str] = &[$($name,)*];

            /// The name that Hanko gives it.
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other(name) => name,
                }
            }
        }

        impl From<String> for EventKind {
            fn from(name: String) -> Self {
                match name.as_str() {
                    $($name => Self::$variant,)*
                    _ => Self::Other(name),
                }
            }
        }
    };
}

events! {
    /// Anything about a user.
    User = "user",
    /// A user has signed in.
    UserLogin = "user.login",
    /// A user was created.
    UserCreate = "user.create",
    /// A user was changed.
    UserUpdate = "user.update",
    /// A user was deleted.
    UserDelete = "user.delete",
    /// A user's e-mail addresses were changed.
    UserUpdateEmail = "user.update.email",
    /// An e-mail address was added.
    UserUpdateEmailCreate = "user.update.email.create",
    /// Another e-mail address became the primary one.
    UserUpdateEmailPrimary = "user.update.email.primary",
    /// An e-mail address was removed.
    UserUpdateEmailDelete = "user.update.email.delete",
    /// A user name was changed.
    UserUpdateUsername = "user.update.username",
    /// A user name was set.
    UserUpdateUsernameCreate = "user.update.username.create",
    /// A user name was replaced.
    UserUpdateUsernameUpdate = "user.update.username.update",
    /// A user name was removed.
    UserUpdateUsernameDelete = "user.update.username.delete",
    /// A password was changed.
    UserUpdatePasswordUpdate = "user.update.password.update",
    /// An e-mail is to be sent.
    EmailSend = "email.send",
    /// Anything about a session.
    Session = "session",
    /// A session has begun.
    SessionCreate = "session.create",
    /// A session has begun by a sign-in.
    SessionCreateFlow = "session.create.flow",
    /// A session was begun by an administrator.
    SessionCreateAdmin = "session.create.admin",
    /// A session has ended.
    SessionDelete = "session.delete",
    /// A session was ended by its user.
    SessionDeleteExplicit = "session.delete.explicit",
    /// A user has signed out.
    SessionDeleteExplicitLogout = "session.delete.explicit.logout",
    /// A user has ended another session of theirs.
    SessionDeleteExplicitRevoke = "session.delete.explicit.revoke",
    /// A session was ended by an administrator.
    SessionDeleteAdmin = "session.delete.admin",
    /// An administrator has revoked a session.
    SessionDeleteAdminRevoke = "session.delete.admin.revoke",
    /// A session was ended by Hanko itself.
    SessionDeletePassive = "session.delete.passive",
    /// A session has expired.
    SessionDeletePassiveExpire = "session.delete.passive.expire",
    /// A user has more sessions than are allowed, and the oldest had to go.
    SessionDeletePassiveLimit = "session.delete.passive.limit",
}

impl EventKind {
    /// Whether it is this event or one below it: `session.delete` stands for `session.delete.explicit.logout` too.
    pub fn is_within(&self, ancestor: &str) -> bool {
        self.name()
            .strip_prefix(ancestor)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// An event that Hanko has signed.
///
/// ```
/// use poem_hanko::{Event, EventKind};
///
/// async fn on_event(event: Event) -> std::io::Result<()> {
///     match event.kind() {
///         EventKind::UserDelete => println!("{}: delete {:?}", event.id(), event.subject_id()),
///         kind if kind.is_within("session") => println!("{kind}: {}", event.data()),
///         _ => {}
///     }
///     Ok(())
/// }
/// # fn add(builder: poem_hanko::HankoBuilder) -> poem_hanko::HankoBuilder {
/// builder.on_event(on_event)
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Event {
    id: Arc<str>,
    kind: EventKind,
    data: Value,
    issued_at: NumericDate,
}

impl Event {
    /// A verified token whose `evt` is the event that the request claims to be about.
    pub(super) fn from_verified(
        verified: &Verified<WebhookClaims>,
        body: &WebhookBody,
    ) -> Result<Self, TokenError> {
        let claims = verified.claims();
        if !claims.is_about(&body.event) {
            return Err(TokenError::MalformedClaim("evt"));
        }
        let issued_at = verified
            .registered()
            .issued_at
            .ok_or(TokenError::MissingClaim("iat"))?;
        let digest = digest::digest(&digest::SHA256, body.token.as_bytes());
        Ok(Self {
            id: BASE64_URL_SAFE_NO_PAD.encode(digest).into(),
            kind: EventKind::from(claims.event.clone()),
            data: claims.data.clone(),
            issued_at,
        })
    }

    /// The id of the event: a hash of its token, the same however often it is received. For deduplication.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What happened.
    pub fn kind(&self) -> &EventKind {
        &self.kind
    }

    /// What it happened to: the session, or the user, as Hanko describes it.
    pub fn data(&self) -> &Value {
        &self.data
    }

    /// When Hanko has signed it.
    pub fn issued_at(&self) -> NumericDate {
        self.issued_at
    }

    /// The id of the session or the user.
    pub fn subject_id(&self) -> Option<Uuid> {
        self.data.get("id")?.as_str()?.parse().ok()
    }

    /// The revocation that follows from the event, if one does. `Err` where one should and the data do not tell of what.
    pub(super) fn revocation(&self, leeway: Duration) -> Result<Option<Revocation>, ()> {
        // In whole seconds and rounded up, so that nothing is forgotten a fraction of a second early.
        let token_ends =
            |end: Duration| NumericDate::from(Duration::from_secs((end + leeway).as_secs() + 1));
        if self.kind.is_within("session.delete") {
            let id = self.subject_id().ok_or(())?;
            Ok(Some(Revocation {
                target: Target::Session(SessionId::from(id)),
                until: self.expires_at().map_or(NumericDate::LAST, token_ends),
            }))
        } else if self.kind.is_within("user.delete") {
            let id = self.subject_id().ok_or(())?;
            Ok(Some(Revocation {
                target: Target::User {
                    id: UserId::from(id),
                    issued_until: self.issued_at,
                },
                // How long the operator's sessions live is not known here: any token may still be valid.
                until: NumericDate::LAST,
            }))
        } else {
            Ok(None)
        }
    }

    /// `data.expires_at` of a session, which Hanko writes as RFC 3339.
    fn expires_at(&self) -> Option<Duration> {
        let text = self.data.get("expires_at")?.as_str()?;
        let time: DateTime<Utc> = text.parse().ok()?;
        u64::try_from(time.timestamp())
            .ok()
            .map(Duration::from_secs)
    }
}
