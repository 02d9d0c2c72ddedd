use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::rsa::KeySize;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    DeliveryError, Fault, Person, SESSION_LIFESPAN, SignedIn,
    database::{Database, Found, SessionRow, Source},
    key::KeyRing,
    time,
    validations::{CurrentHold, ValidationCounter, until},
    webhooks::{Subscription, WebhookQueue},
};
use crate::{clock::Clock, jose::UnverifiedToken};

/// How long webhook tokens are valid: Hanko's constant.
const WEBHOOK_LIFESPAN: Duration = Duration::from_mins(5);

/// What the handle and the routes share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) key_size: KeySize,
    pub(super) audience: String,
    pub(super) issuer: Option<String>,
    pub(super) cookie_name: String,
    pub(super) webhooks: WebhookQueue,
    pub(super) validations: ValidationCounter,
    pub(super) hold: Arc<CurrentHold>,
    pub(super) fault: watch::Sender<Fault>,
    pub(super) inner: Mutex<Inner>,
}

/// What changes while it runs.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) keys: KeyRing,
    pub(super) database: Database,
    pub(super) subscription: Subscription,
    pub(super) settings: Settings,
    pub(super) key_set_requests: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) session_limit: usize,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) validation_delay: Duration,
}

/// The outcome of a validation request about one token.
pub(super) enum Validation {
    /// The body of the response.
    Valid(Value),
    Invalid,
    /// The session has just been deleted because it was idle.
    Idle,
    /// The token is signed, but its claims are not those of a session.
    UnreadableClaims,
}

/// The claims of a token that one of the keys has signed and that has not expired.
struct SessionToken {
    claims: Map<String, Value>,
    /// `None` if the claims are not those of a session.
    session_id: Option<Uuid>,
}

impl State {
    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn settings(&self) -> Settings {
        self.inner().settings
    }

    pub(super) fn fault(&self) -> Fault {
        *self.fault.borrow()
    }

    /// Waits while requests hang, and returns the fault that is set then.
    pub(super) async fn fault_after_hang(&self) -> Fault {
        until(&self.fault, |fault| *fault != Fault::Hangs).await;
        self.fault()
    }

    pub(super) fn claims_of(
        &self,
        person: &Person,
        session_id: Uuid,
        now: Duration,
    ) -> Map<String, Value> {
        let mut claims = person.custom_claims.clone();
        let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        set("sub", json!(person.id));
        set("iat", json!(now.as_secs()));
        set("exp", json!((now + SESSION_LIFESPAN).as_secs()));
        set("aud", json!([self.audience]));
        set("session_id", json!(session_id));
        if let Some(issuer) = &self.issuer {
            set("iss", json!(issuer));
        }
        if let Some(email) = &person.email {
            let is_verified = person.is_email_verified;
            set(
                "email",
                json!({ "address": email, "is_primary": true, "is_verified": is_verified }),
            );
        }
        if let Some(username) = &person.username {
            set("username", json!(username));
        }
        if !person.amr.is_empty() {
            set("amr", json!(person.amr));
        }
        claims
    }

    /// Creates a session as a flow of Hanko does, or its Admin API.
    pub(super) fn create_session(&self, person: &Person, source: Source) -> SignedIn {
        let now = self.clock.unix_time();
        let session = SessionRow::new(person.id, source, now);
        let mut claims = self.claims_of(person, session.id, now);
        let event = match source {
            Source::Flow => "session.create.flow",
            Source::AdminApi => {
                // Nobody has authenticated.
                claims.remove("amr");
                "session.create.admin"
            }
        };
        let mut inner = self.inner();
        let limit = inner.settings.session_limit;
        let deleted = inner.database.create_session(person, session, limit);
        drop(inner);
        for session in deleted {
            self.queue_webhook("session.delete.passive.limit", &session.webhook_data());
        }
        self.queue_webhook(event, &session.webhook_data());
        SignedIn {
            token: self.sign_claims(&claims),
            session_id: session.id,
            expires_at: (now + SESSION_LIFESPAN).as_secs(),
        }
    }

    pub(super) fn sign_claims(&self, claims: &Map<String, Value>) -> String {
        let key = self.inner().keys.signing_key();
        key.sign(claims)
    }

    /// Deletes a session and sends a webhook about it. Returns `None` if there is no such session.
    pub(super) async fn delete_session(
        &self,
        session_id: Uuid,
        event: &str,
    ) -> Result<Option<()>, DeliveryError> {
        let Some(session) = self.inner().database.delete_session(session_id) else {
            return Ok(None);
        };
        self.send_webhook(event, &session.webhook_data()).await?;
        Ok(Some(()))
    }

    pub(super) fn webhook_body(&self, event: &str, data: &Value) -> Value {
        let now = self.clock.unix_time();
        let claims = json!({
            "sub": "hanko webhooks",
            "iat": now.as_secs(),
            "exp": (now + WEBHOOK_LIFESPAN).as_secs(),
            "aud": [self.audience],
            "evt": event,
            "data": data,
        });
        let claims = claims.as_object().cloned().unwrap_or_default();
        json!({ "token": self.sign_claims(&claims), "event": event })
    }

    /// Queues a webhook if its event is subscribed to. A failure is logged.
    fn queue_webhook(&self, event: &str, data: &Value) {
        let url = self.inner().subscription.url_for(event);
        if let Some(url) = url {
            let _outcome = self.webhooks.push(url, self.webhook_body(event, data));
        }
    }

    /// Queues a webhook if its event is subscribed to, and waits for its delivery.
    pub(super) async fn send_webhook(
        &self,
        event: &str,
        data: &Value,
    ) -> Result<(), DeliveryError> {
        let url = self.inner().subscription.url_for(event);
        let Some(url) = url else {
            return Ok(());
        };
        let outcome = self.webhooks.push(url, self.webhook_body(event, data));
        outcome
            .await
            .unwrap_or_else(|error| Err(DeliveryError::Unreachable(error.into())))
    }

    /// Responds to a validation request about one token. `renew` says whether it renews `last_used`.
    pub(super) fn validate(&self, token: &str, renew: bool) -> Validation {
        let Some(token) = self.verify(token) else {
            return Validation::Invalid;
        };
        let Some(session_id) = token.session_id else {
            return Validation::UnreadableClaims;
        };
        let now = self.clock.unix_time();
        let mut inner = self.inner();
        let idle_timeout = inner.settings.idle_timeout;
        let found = inner
            .database
            .use_session(session_id, now, idle_timeout, renew);
        drop(inner);
        match found {
            Found::Nothing => Validation::Invalid,
            Found::Active { idle_expires_at } => {
                Validation::Valid(response_body(&token.claims, idle_expires_at))
            }
            Found::Idle(session) => {
                self.queue_webhook("session.delete.passive.expire", &session.webhook_data());
                Validation::Idle
            }
        }
    }

    /// Returns the session that a token names, if both are active.
    pub(super) fn session_of(&self, token: &str) -> Option<Uuid> {
        let session_id = self.verify(token)?.session_id?;
        self.inner().database.session(session_id)?;
        Some(session_id)
    }

    /// Verifies a token as Hanko does: its signature and its times. It reads its keys from the database.
    fn verify(&self, token: &str) -> Option<SessionToken> {
        if self.fault() == Fault::DatabaseDown {
            return None;
        }
        let keys = self.inner().keys.verification_keys();
        UnverifiedToken::parse(token)
            .ok()?
            .verify_signature(&keys)
            .ok()?;
        let payload = BASE64_URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1)?)
            .ok()?;
        let claims: Map<String, Value> = serde_json::from_slice(&payload).ok()?;
        let now = self.clock.unix_time().as_secs();
        let date = |name: &str| claims.get(name).and_then(Value::as_u64);
        let is_current = date("exp").is_none_or(|expires_at| now < expires_at)
            && date("iat").is_none_or(|issued_at| issued_at <= now);
        if !is_current {
            return None;
        }
        let uuid = |name: &str| claims.get(name)?.as_str()?.parse::<Uuid>().ok();
        let session_id = uuid("sub").and_then(|_user_id| uuid("session_id"));
        Some(SessionToken { claims, session_id })
    }
}

/// The body of a positive response of `/sessions/validate` (Hanko `backend/dto/session.go`), in which times are RFC 3339.
fn response_body(claims: &Map<String, Value>, idle_expires_at: Option<Duration>) -> Value {
    let date = |name: &str| Some(Duration::from_secs(claims.get(name)?.as_u64()?));
    let text = |name: &str| json!(date(name).map(time::seconds));
    let renamed: Map<String, Value> = claims
        .iter()
        .filter_map(|(name, value)| {
            let (name, value) = match name.as_str() {
                "sub" => ("subject", value.clone()),
                "aud" => ("audience", value.clone()),
                "iss" => ("issuer", value.clone()),
                "iat" => ("issued_at", text("iat")),
                "exp" => ("expiration", text("exp")),
                "nbf" | "jti" => return None,
                name => (name, value.clone()),
            };
            Some((name.to_owned(), value))
        })
        .collect();
    let mut body = json!({
        "is_valid": true,
        "claims": renamed,
        "expiration_time": text("exp"),
        "user_id": claims.get("sub"),
    });
    if let Some(idle_expires_at) = idle_expires_at {
        let expires_at = date("exp").unwrap_or(Duration::MAX);
        body["idle_expires_at"] = json!(time::with_fraction(idle_expires_at.min(expires_at)));
    }
    body
}
