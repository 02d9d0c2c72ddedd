//! The events that Hanko reports by webhook (Hanko `backend/webhooks/events/events.go`).

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::hanko::{
    id::{SessionId, UserId},
    revocation::{Revocation, Target},
};
use crate::jose::{
    Claims, Members, NumericDate, RegisteredClaims, TokenError, Verified, parse_object,
};

/// The `sub` of Hanko's webhook tokens.
const WEBHOOK_SUBJECT: &str = "hanko webhooks";

/// The body of a webhook request.
pub(super) struct WebhookBody {
    pub(super) token: String,
    pub(super) event: String,
}

impl WebhookBody {
    /// Parses a JSON object `{"token": …, "event": …}`; `None` if it is none. Hanko may add other members.
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

/// The claims of a webhook token, except the registered ones.
#[derive(Clone, Debug)]
pub(super) struct WebhookClaims {
    event: String,
    data: Value,
}

impl Claims for WebhookClaims {
    const NAMES: &[&'static str] = &["evt", "data"];

    fn from_claims(
        registered: &RegisteredClaims,
        mut private: Members,
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
    /// Returns whether the token was made for this event.
    pub(super) fn is_about(&self, event: &str) -> bool {
        self.event == event
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What happened at Hanko.
        ///
        /// ```
        /// use poem_hanko::EventKind;
        ///
        /// fn is_about_email(kind: &EventKind) -> bool {
        ///     match kind {
        ///         EventKind::UserUpdateEmailCreate | EventKind::UserUpdateEmailDelete => true,
        ///         EventKind::Other(name) => name.contains("email"),
        ///         _ => false,
        ///     }
        /// }
        /// # assert!(is_about_email(&EventKind::from("user.update.email.create".to_owned())));
        /// ```
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

            /// Returns Hanko's name of the event.
            ///
            /// ```
            /// use poem_hanko::EventKind;
            ///
            /// let kind = EventKind::from("user.delete".to_owned());
            /// assert_eq!(kind, EventKind::UserDelete);
            /// assert_eq!(kind.name(), "user.delete");
            /// ```
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
    /// A session was created.
    SessionCreate = "session.create",
    /// A session was created by a sign-in.
    SessionCreateFlow = "session.create.flow",
    /// A session was created by an administrator.
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
    /// The oldest session of a user was ended, because the user had more than are allowed.
    SessionDeletePassiveLimit = "session.delete.passive.limit",
}

impl EventKind {
    /// Returns whether this is the event `ancestor` or one below it: `session.delete.explicit.logout` is within
    /// `session.delete`.
    ///
    /// ```
    /// use poem_hanko::EventKind;
    ///
    /// assert!(EventKind::UserUpdateEmailPrimary.is_within("user.update"));
    /// assert!(!EventKind::UserLogin.is_within("user.update"));
    /// ```
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
    /// Creates the event of a verified token. Its `evt` must be the event that the request names.
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

    /// Returns the id of the event, for deduplication: a hash of its token, which stays the same if it is received again.
    ///
    /// ```
    /// use std::{collections::HashSet, sync::Mutex};
    ///
    /// use poem_hanko::Event;
    ///
    /// /// Whether the event is delivered for the first time.
    /// fn is_new(seen: &Mutex<HashSet<String>>, event: &Event) -> bool {
    ///     seen.lock().unwrap().insert(event.id().to_owned())
    /// }
    /// ```
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns what happened.
    ///
    /// ```
    /// use poem_hanko::{Event, EventKind};
    ///
    /// fn is_sign_up(event: &Event) -> bool {
    ///     *event.kind() == EventKind::UserCreate
    /// }
    /// ```
    pub fn kind(&self) -> &EventKind {
        &self.kind
    }

    /// Returns the session or user that the event is about, as Hanko describes it.
    ///
    /// ```
    /// use poem_hanko::Event;
    ///
    /// fn username(event: &Event) -> Option<&str> {
    ///     event.data().pointer("/username/username")?.as_str()
    /// }
    /// ```
    pub fn data(&self) -> &Value {
        &self.data
    }

    /// Returns when Hanko signed the event.
    ///
    /// ```
    /// use std::time::SystemTime;
    ///
    /// use poem_hanko::Event;
    ///
    /// fn line(event: &Event) -> String {
    ///     format!("{:?}: {}", SystemTime::from(event.issued_at()), event.kind())
    /// }
    /// ```
    pub fn issued_at(&self) -> NumericDate {
        self.issued_at
    }

    /// Returns the id of the session or user that the event is about.
    ///
    /// ```
    /// use poem_hanko::{Receipt, UserId, testing::TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let test = TestHanko::start().await;
    /// # let hanko = test.hanko();
    /// # let id = "019c0000-0000-7000-8000-0000000000ab";
    /// # let body = test.webhook_body("user.delete", &serde_json::json!({ "id": id })).to_string();
    /// if let Receipt::Verified(event) = hanko.receive_webhook(body.as_bytes()).await? {
    ///     let user = event.subject_id().map(UserId::from);
    ///     println!("{}: {user:?}", event.kind());
    /// #     assert_eq!(user, Some(id.parse()?));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn subject_id(&self) -> Option<Uuid> {
        self.data.get("id")?.as_str()?.parse().ok()
    }

    /// Returns the revocation that the event causes, if any.
    ///
    /// # Errors
    /// If it causes one, but does not name the session or user.
    pub(super) fn revocation(&self, leeway: Duration) -> Result<Option<Revocation>, ()> {
        // In whole seconds and rounded up, so that no revocation is dropped a fraction of a second early.
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
                // The lifetime of the operator's sessions is not known here, so any token may still be valid.
                until: NumericDate::LAST,
            }))
        } else {
            Ok(None)
        }
    }

    /// Returns `data.expires_at` of a session, which Hanko writes as RFC 3339.
    fn expires_at(&self) -> Option<Duration> {
        let text = self.data.get("expires_at")?.as_str()?;
        let time: DateTime<Utc> = text.parse().ok()?;
        u64::try_from(time.timestamp())
            .ok()
            .map(Duration::from_secs)
    }
}
