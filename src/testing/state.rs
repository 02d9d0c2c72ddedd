//! The state of the local Hanko: its database, its settings, the validation of sessions, and the webhooks. Like Hanko, it sends
//! webhooks one at a time, each once, and never again after a failure.

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::rsa::KeySize;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat, Utc};
use poem::http::header;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use uuid::Uuid;

use super::{
    handle::{Person, SignedIn},
    key::KeyRing,
};
use crate::{
    clock::Clock,
    hanko::{Hanko, WebhookError},
    jose::UnverifiedToken,
};

/// How long webhook tokens are valid: Hanko's constant.
const WEBHOOK_LIFESPAN: Duration = Duration::from_mins(5);

/// The state that the handle and the routes share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) key_size: KeySize,
    pub(super) audience: String,
    pub(super) issuer: Option<String>,
    pub(super) cookie_name: Arc<str>,
    pub(super) webhooks: WebhookQueue,
    pub(super) validations: ValidationCounter,
    pub(super) hold: Arc<CurrentHold>,
    pub(super) fault: watch::Sender<Fault>,
    pub(super) inner: Mutex<Inner>,
}

/// The part of the state that changes while the local Hanko runs.
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

    /// Whether responses wait until the test or its clock releases them.
    #[cfg(feature = "testing")]
    pub(super) fn holds_responses(&self) -> bool {
        self.fault() == Fault::Hangs
            || self.hold.is_set()
            || !self.settings().validation_delay.is_zero()
    }

    /// Waits until the fault is not [`Fault::Hangs`], and returns it.
    pub(super) async fn fault_after_hang(&self) -> Fault {
        until(&self.fault, |fault| *fault != Fault::Hangs).await;
        self.fault()
    }

    pub(super) fn claims_of(
        &self,
        person: &Person,
        session_id: Uuid,
        times: (Duration, Duration),
    ) -> Map<String, Value> {
        person.token_claims(session_id, times, &self.audience, self.issuer.as_deref())
    }

    /// Creates a session as a flow of Hanko does, or its Admin API. Returns the claims of its token, too.
    pub(super) fn create_session(
        &self,
        person: &Person,
        source: Source,
    ) -> (Map<String, Value>, SignedIn) {
        let now = self.clock.unix_time();
        let times = person.session_times(now);
        let session = SessionRow::new(person.uuid(), source, times, now);
        let mut claims = self.claims_of(person, session.id, times);
        let event = match source {
            Source::Flow => "session.create.flow",
            Source::AdminApi => {
                // The user has not authenticated.
                claims.remove("amr");
                "session.create.admin"
            }
        };
        let mut inner = self.inner();
        let limit = inner.settings.session_limit;
        let deleted = inner.database.create_session(person, session, now, limit);
        drop(inner);
        for session in deleted {
            self.queue_webhook("session.delete.passive.limit", &session.webhook_data());
        }
        self.queue_webhook(event, &session.webhook_data());
        let signed_in = SignedIn {
            token: self.sign_claims(&claims),
            session_id: session.id,
            user_id: person.uuid(),
            expires_at: times.1,
            cookie_name: Arc::clone(&self.cookie_name),
        };
        (claims, signed_in)
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
        json!({ "token": self.webhook_token(event, data), "event": event })
    }

    pub(super) fn webhook_token(&self, event: &str, data: &Value) -> String {
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
        self.sign_claims(&claims)
    }

    /// Queues a webhook if its event is subscribed to. A failure is logged.
    fn queue_webhook(&self, event: &str, data: &Value) {
        let target = self.inner().subscription.target_of(event);
        if let Some(target) = target {
            let _outcome = self.webhooks.push(target, self.webhook_body(event, data));
        }
    }

    /// Queues a webhook if its event is subscribed to, and waits for its delivery.
    pub(super) async fn send_webhook(
        &self,
        event: &str,
        data: &Value,
    ) -> Result<(), DeliveryError> {
        let target = self.inner().subscription.target_of(event);
        let Some(target) = target else {
            return Ok(());
        };
        let outcome = self.webhooks.push(target, self.webhook_body(event, data));
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

    /// Returns the session that a token names, if both are valid.
    pub(super) fn session_of(&self, token: &str) -> Option<Uuid> {
        let session_id = self.verify(token)?.session_id?;
        self.inner().database.session(session_id)?;
        Some(session_id)
    }

    /// Verifies the signature and the times of a token, as Hanko does. Hanko reads its keys from its database.
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
    let text = |name: &str| json!(date(name).map(in_seconds));
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
        body["idle_expires_at"] = json!(with_fraction(idle_expires_at.min(expires_at)));
    }
    body
}

/// The user agent and address of sessions that a flow creates, as if a browser on this machine had signed in.
const SESSION_USER_AGENT: &str = "poem-hanko local Hanko";
const SESSION_IP_ADDRESS: &str = "127.0.0.1";

/// How a session was created. Only a flow has a browser, whose user agent and address it stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Flow,
    AdminApi,
}

/// A row of `sessions`. Times are durations since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionRow {
    pub(super) id: Uuid,
    user_id: Uuid,
    source: Source,
    created_at: Duration,
    updated_at: Duration,
    expires_at: Duration,
    last_used: Duration,
}

impl SessionRow {
    fn new(
        user_id: Uuid,
        source: Source,
        (created_at, expires_at): (Duration, Duration),
        now: Duration,
    ) -> Self {
        Self {
            id: Uuid::new_v4(),
            user_id,
            source,
            created_at,
            updated_at: created_at,
            expires_at,
            last_used: now,
        }
    }

    /// The `data` of a webhook about this session.
    pub(super) fn webhook_data(&self) -> Value {
        let is_from_flow = self.source == Source::Flow;
        json!({
            "id": self.id,
            "user_id": self.user_id,
            "user_agent": is_from_flow.then_some(SESSION_USER_AGENT),
            "ip_address": is_from_flow.then_some(SESSION_IP_ADDRESS),
            "created_at": with_fraction(self.created_at),
            "updated_at": with_fraction(self.updated_at),
            "expires_at": with_fraction(self.expires_at),
            "last_used": with_fraction(self.last_used),
        })
    }

    /// Returns the session as the database stores it.
    fn stored(mut self) -> Self {
        for time in [
            &mut self.created_at,
            &mut self.updated_at,
            &mut self.expires_at,
            &mut self.last_used,
        ] {
            *time = in_database(*time);
        }
        self
    }
}

/// A row of `emails` or `usernames`.
#[derive(Clone, Debug)]
struct Identifier {
    id: Uuid,
    text: String,
    is_verified: bool,
    created_at: Duration,
    updated_at: Duration,
}

impl Identifier {
    /// Stores the current identifier of a person. An unchanged identifier keeps its id and times.
    fn store(slot: &mut Option<Self>, current: Option<(&str, bool)>, now: Duration) {
        let Some((text, is_verified)) = current else {
            *slot = None;
            return;
        };
        match slot {
            Some(stored) if stored.text == text => {
                if stored.is_verified != is_verified {
                    stored.is_verified = is_verified;
                    stored.updated_at = now;
                }
            }
            _ => {
                *slot = Some(Self {
                    id: Uuid::new_v4(),
                    text: text.to_owned(),
                    is_verified,
                    created_at: now,
                    updated_at: now,
                });
            }
        }
    }
}

/// A row of `users`, with the rows of other tables that belong to it.
#[derive(Debug)]
struct UserRow {
    email: Option<Identifier>,
    username: Option<Identifier>,
    created_at: Duration,
    updated_at: Duration,
    /// The ids of the sessions, oldest first.
    sessions: Vec<Uuid>,
}

/// The result of looking up the session that a token names.
#[derive(Debug)]
pub(super) enum Found {
    /// The session is active. `idle_expires_at` is when the idle timeout ends it, if there is one.
    Active { idle_expires_at: Option<Duration> },
    /// The session was idle for too long and has just been deleted.
    Idle(SessionRow),
    /// There is no such session.
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Database {
    users: HashMap<Uuid, UserRow>,
    sessions: HashMap<Uuid, SessionRow>,
}

impl Database {
    /// Stores a new session of a person, and the person as a user. Returns the sessions that were deleted because the user
    /// had `limit` of them, as Hanko does: all but the newest `limit - 1`, in the order newest to oldest.
    pub(super) fn create_session(
        &mut self,
        person: &Person,
        session: SessionRow,
        now: Duration,
        limit: usize,
    ) -> Vec<SessionRow> {
        let now = in_database(now);
        let user = self.users.entry(person.uuid()).or_insert_with(|| UserRow {
            email: None,
            username: None,
            created_at: now,
            updated_at: now,
            sessions: Vec::new(),
        });
        let username = person.stored_username().map(|username| (username, true));
        Identifier::store(&mut user.email, person.email(), now);
        Identifier::store(&mut user.username, username, now);

        let sessions = &mut self.sessions;
        // Hanko does not count expired sessions; here they are deleted, so that they use no memory.
        user.sessions.retain(|id| {
            let is_active = sessions.get(id).is_some_and(|row| row.expires_at > now);
            if !is_active {
                sessions.remove(id);
            }
            is_active
        });
        let excess = (user.sessions.len() + 1).saturating_sub(limit.max(1));
        let deleted = user
            .sessions
            .drain(..excess)
            .rev()
            .filter_map(|id| sessions.remove(&id))
            .collect();
        user.sessions.push(session.id);
        sessions.insert(session.id, session.stored());
        deleted
    }

    pub(super) fn session(&self, id: Uuid) -> Option<SessionRow> {
        self.sessions.get(&id).copied()
    }

    pub(super) fn delete_session(&mut self, id: Uuid) -> Option<SessionRow> {
        let session = self.sessions.remove(&id)?;
        if let Some(user) = self.users.get_mut(&session.user_id) {
            user.sessions.retain(|session| *session != id);
        }
        Some(session)
    }

    /// Deletes a user with all sessions. Returns the `data` of the webhook about it.
    pub(super) fn delete_user(&mut self, id: Uuid, now: Duration) -> Value {
        let now = in_database(now);
        let user = self.users.remove(&id);
        for session in user.iter().flat_map(|user| &user.sessions) {
            self.sessions.remove(session);
        }
        let created_at = user.as_ref().map_or(now, |user| user.created_at);
        let updated_at = user.as_ref().map_or(now, |user| user.updated_at);
        let mut data = json!({
            "id": id,
            "created_at": with_fraction(created_at),
            "updated_at": with_fraction(updated_at),
        });
        // Hanko omits the members that the user does not have.
        let (email, username) = user.map_or((None, None), |user| (user.email, user.username));
        if let Some(email) = email {
            data["emails"] = json!([{
                "id": email.id,
                "address": email.text,
                "is_verified": email.is_verified,
                "is_primary": true,
                "created_at": with_fraction(email.created_at),
                "updated_at": with_fraction(email.updated_at),
            }]);
        }
        if let Some(username) = username {
            data["username"] = json!({
                "id": username.id,
                "username": username.text,
                "created_at": with_fraction(username.created_at),
                "updated_at": with_fraction(username.updated_at),
            });
        }
        data
    }

    /// Looks a session up, deletes it if it is idle, and otherwise renews `last_used` if asked to.
    pub(super) fn use_session(
        &mut self,
        id: Uuid,
        now: Duration,
        idle_timeout: Option<Duration>,
        renew: bool,
    ) -> Found {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Found::Nothing;
        };
        let idle_for = now.saturating_sub(session.last_used);
        if idle_timeout.is_some_and(|timeout| idle_for > timeout) {
            return self.delete_session(id).map_or(Found::Nothing, Found::Idle);
        }
        let mut last_used = session.last_used;
        if renew {
            last_used = now;
            session.last_used = in_database(now);
            session.updated_at = session.last_used;
        }
        Found::Active {
            idle_expires_at: idle_timeout.map(|timeout| last_used + timeout),
        }
    }
}

/// How long Hanko waits for the response to a webhook.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// The `User-Agent` of Hanko's webhooks, as recorded.
const WEBHOOK_USER_AGENT: &str = "Go-http-client/1.1";

/// Why a webhook was not delivered.
///
/// ```
/// use poem_hanko::testing::{DeliveryError, LocalHanko, SignedIn};
///
/// async fn sign_out(local_hanko: &LocalHanko, ada: &SignedIn) -> Result<(), DeliveryError> {
///     match local_hanko.end_session(ada).await {
///         // The service has no route for webhooks.
///         Err(DeliveryError::Status(404)) => Ok(()),
///         result => result.map(|_| ()),
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The response has this status, 400 or above.
    #[error("the response to the webhook has status {0}")]
    Status(u16),
    /// There was no response within 10 s of the local Hanko's clock.
    #[error("there was no response to the webhook within 10 s")]
    TimedOut,
    /// No request could be sent, or its response could not be read.
    #[error("the webhook could not be sent")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// The [`Hanko`] that received the webhook rejected it.
    #[error("the webhook was rejected")]
    Rejected(#[source] WebhookError),
}

/// The receiver of webhooks.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Url(String),
    /// In the same process, without HTTP.
    Hanko(Hanko),
}

/// Where webhooks are sent, and which events are sent.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) target: Option<Target>,
    pub(super) events: Vec<String>,
}

impl Subscription {
    /// Returns the target of this event, or `None` if it is not sent. Hanko compares by prefix: `session` includes
    /// `session.delete.explicit.logout`.
    fn target_of(&self, event: &str) -> Option<Target> {
        let is_subscribed = self
            .events
            .iter()
            .any(|prefix| event.starts_with(prefix.as_str()));
        self.target.clone().filter(|_| is_subscribed)
    }
}

/// A webhook to send.
#[derive(Debug)]
struct Job {
    target: Target,
    body: Value,
    outcome: oneshot::Sender<Result<(), DeliveryError>>,
}

/// The queue of webhooks that the worker sends.
#[derive(Debug)]
pub(super) struct WebhookQueue {
    jobs: mpsc::UnboundedSender<Job>,
    unfinished: watch::Sender<usize>,
}

impl WebhookQueue {
    /// Starts the worker in `tasks`.
    pub(super) fn start(clock: Arc<dyn Clock>, tasks: &mut JoinSet<()>) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let unfinished = watch::Sender::new(0);
        tasks.spawn(work(queue, unfinished.clone(), clock));
        Self { jobs, unfinished }
    }

    /// Queues a webhook. If the returned receiver is dropped, a failure is logged.
    pub(super) fn push(
        &self,
        target: Target,
        body: Value,
    ) -> oneshot::Receiver<Result<(), DeliveryError>> {
        let (outcome, receiver) = oneshot::channel();
        self.unfinished.send_modify(|count| *count += 1);
        let job = Job {
            target,
            body,
            outcome,
        };
        if self.jobs.send(job).is_err() {
            // The worker has ended with the runtime that started it.
            self.unfinished.send_modify(|count| *count -= 1);
        }
        receiver
    }

    #[cfg(feature = "testing")]
    pub(super) fn is_idle(&self) -> bool {
        *self.unfinished.borrow() == 0
    }

    pub(super) async fn wait_until_idle(&self) {
        until(&self.unfinished, |count| *count == 0).await;
    }
}

async fn work(
    mut jobs: mpsc::UnboundedReceiver<Job>,
    unfinished: watch::Sender<usize>,
    clock: Arc<dyn Clock>,
) {
    let mut client = None;
    while let Some(Job {
        target,
        body,
        outcome,
    }) = jobs.recv().await
    {
        let result = tokio::select! {
            result = deliver(&mut client, target, &body) => result,
            () = clock.sleep(WEBHOOK_TIMEOUT) => Err(DeliveryError::TimedOut),
        };
        if let Err(Err(error)) = outcome.send(result) {
            let error: &dyn Error = &error;
            tracing::warn!(event = "webhook_not_delivered", error, kind = %body["event"], "the webhook was not delivered");
        }
        unfinished.send_modify(|count| *count -= 1);
    }
}

async fn deliver(
    client: &mut Option<reqwest::Client>,
    target: Target,
    body: &Value,
) -> Result<(), DeliveryError> {
    match target {
        Target::Url(url) => send(client, url, body).await,
        Target::Hanko(hanko) => {
            let received = hanko.receive_webhook(body.to_string().as_bytes()).await;
            received.map(drop).map_err(DeliveryError::Rejected)
        }
    }
}

/// Sends one request. The client is built for the first webhook.
async fn send(
    client: &mut Option<reqwest::Client>,
    url: String,
    body: &Value,
) -> Result<(), DeliveryError> {
    let unreachable = |error: reqwest::Error| DeliveryError::Unreachable(error.into());
    let client = match client {
        Some(client) => client,
        // Without idle connections, because reqwest repeats a request if the connection it reused had been closed.
        None => {
            let builder = || {
                reqwest::Client::builder()
                    .no_proxy()
                    .pool_max_idle_per_host(0)
            };
            // Plain http must also work on a machine without root certificates.
            let built = builder()
                .build()
                .or_else(|_| builder().tls_certs_only([]).build());
            client.insert(built.map_err(unreachable)?)
        }
    };
    let response = client
        .post(url)
        .header(header::USER_AGENT, WEBHOOK_USER_AGENT)
        .json(body)
        .send()
        .await
        .map_err(unreachable)?;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        return Err(DeliveryError::Status(status.as_u16()));
    }
    Ok(())
}

/// A way in which the local Hanko fails, chosen by [`LocalHanko::set_fault`](super::LocalHanko::set_fault). It applies to
/// requests that arrive while it is set.
///
/// ```
/// use std::time::Duration;
///
/// use poem_hanko::testing::{Fault, LocalHanko};
///
/// # fn example(local_hanko: &LocalHanko) {
/// let retry_after = Some(Duration::from_secs(30));
/// local_hanko.set_fault(Fault::Unavailable { retry_after });
/// // … a request that fails
/// local_hanko.set_fault(Fault::None);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// No fault: everything works.
    #[default]
    None,
    /// Works like a real Hanko whose database is down: `/sessions/validate` (POST and GET) returns 200 with
    /// `{"is_valid":false}` about every token, `/.well-known/jwks.json` returns 500, and `/logout` returns 401.
    DatabaseDown,
    /// `/sessions/validate` returns 429.
    TooManyRequests {
        /// The `Retry-After` header, in whole seconds, rounded up.
        retry_after: Option<Duration>,
    },
    /// `/sessions/validate` returns 503.
    Unavailable {
        /// The `Retry-After` header, in whole seconds, rounded up.
        retry_after: Option<Duration>,
    },
    /// `/sessions/validate` returns 500.
    InternalError,
    /// `/sessions/validate` returns 200 with a body that no Hanko sends: `{}`.
    UnexpectedResponse,
    /// Requests to `/sessions/validate` and `/.well-known/jwks.json` are accepted and get no response. When another fault,
    /// or none, is set, their responses are computed and sent, as if the process had been stopped and continued.
    Hangs,
    /// No request gets a response: its connection is closed when the request arrives, or when its response would be sent.
    /// Requests that arrive are not counted.
    Down,
}

/// Holds the responses of `/sessions/validate`, see
/// [`LocalHanko::hold_validations`](super::LocalHanko::hold_validations). Sends them when it is dropped.
///
/// ```
/// use poem_hanko::testing::{Person, TestHanko};
///
/// # async fn example(hanko: &TestHanko) {
/// let ada = hanko.sign_in(&Person::default());
/// let held = hanko.hold_validations();
/// let (session, ()) = tokio::join!(hanko.hanko().authenticate_live(ada.token()), async {
///     held.wait_for(1).await;
///     assert_eq!(held.count(), 1);
///     held.release();
/// });
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the responses are sent when this is dropped"]
pub struct HeldValidations {
    hold: Arc<Hold>,
    current: Arc<CurrentHold>,
}

impl HeldValidations {
    /// Returns how many responses are being held.
    ///
    /// ```
    /// use poem_hanko::testing::TestHanko;
    ///
    /// # fn example(hanko: &TestHanko) {
    /// let held = hanko.hold_validations();
    /// assert_eq!(held.count(), 0);
    /// # }
    /// ```
    pub fn count(&self) -> usize {
        *self.hold.count.borrow()
    }

    /// Waits until at least `count` responses are being held.
    ///
    /// ```
    /// use poem_hanko::testing::{HeldValidations, LocalHanko};
    ///
    /// /// Rotates the key while a validation is in progress.
    /// async fn rotate(local_hanko: &LocalHanko, held: &HeldValidations) -> std::io::Result<()> {
    ///     held.wait_for(1).await;
    ///     local_hanko.rotate_key().await
    /// }
    /// ```
    pub async fn wait_for(&self, count: usize) {
        until(&self.hold.count, |held| *held >= count).await;
    }

    /// Sends the held responses, in no particular order.
    ///
    /// ```
    /// use poem_hanko::testing::HeldValidations;
    ///
    /// async fn release_when_two_wait(held: HeldValidations) {
    ///     held.wait_for(2).await;
    ///     held.release();
    /// }
    /// ```
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for HeldValidations {
    fn drop(&mut self) {
        self.current.end(&self.hold);
        self.hold.is_released.send_replace(true);
    }
}

/// The responses that one [`HeldValidations`] holds.
#[derive(Debug, Default)]
struct Hold {
    count: watch::Sender<usize>,
    is_released: watch::Sender<bool>,
}

/// The hold that applies to new responses.
#[derive(Debug, Default)]
pub(super) struct CurrentHold(Mutex<Option<Arc<Hold>>>);

impl CurrentHold {
    #[cfg(feature = "testing")]
    fn is_set(&self) -> bool {
        self.lock().is_some()
    }

    pub(super) fn begin(self: &Arc<Self>) -> HeldValidations {
        let hold = Arc::new(Hold::default());
        *self.lock() = Some(Arc::clone(&hold));
        HeldValidations {
            hold,
            current: Arc::clone(self),
        }
    }

    /// Holds a response, if there is a hold, until it is released.
    pub(super) async fn wait(&self) {
        let Some(hold) = self.lock().clone() else {
            return;
        };
        let _counted = Counted::new(&hold.count, |count| count);
        until(&hold.is_released, |is_released| *is_released).await;
    }

    fn end(&self, hold: &Arc<Hold>) {
        // A newer hold stays.
        self.lock().take_if(|current| Arc::ptr_eq(current, hold));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Hold>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of requests to `/sessions/validate`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ValidationCounts {
    pub(super) all: u64,
    pub(super) by_get: u64,
    pub(super) most_at_once: usize,
    at_once: usize,
}

/// Counts the requests to `/sessions/validate`.
#[derive(Debug, Default)]
pub(super) struct ValidationCounter(watch::Sender<ValidationCounts>);

impl ValidationCounter {
    /// Counts a request, which is in progress until the returned guard is dropped.
    pub(super) fn begin(&self, is_get: bool) -> impl Drop + Send + '_ {
        let in_progress = Counted::new(&self.0, |counts| &mut counts.at_once);
        self.0.send_modify(|counts| {
            counts.all += 1;
            counts.by_get += u64::from(is_get);
            counts.most_at_once = counts.most_at_once.max(counts.at_once);
        });
        in_progress
    }

    pub(super) fn counts(&self) -> ValidationCounts {
        *self.0.borrow()
    }

    pub(super) async fn wait_for(&self, all: u64) {
        until(&self.0, |counts| counts.all >= all).await;
    }
}

/// Waits until the value meets the condition.
pub(super) async fn until<T>(sender: &watch::Sender<T>, condition: impl FnMut(&T) -> bool) {
    let mut receiver = sender.subscribe();
    // The channel is open while its sender is borrowed.
    let _met = receiver.wait_for(condition).await.is_ok();
}

/// Adds one to a number until it is dropped. If the client disconnects, the handler is dropped, and this with it.
struct Counted<'a, T> {
    sender: &'a watch::Sender<T>,
    number: fn(&mut T) -> &mut usize,
}

impl<'a, T> Counted<'a, T> {
    fn new(sender: &'a watch::Sender<T>, number: fn(&mut T) -> &mut usize) -> Self {
        sender.send_modify(|value| *number(value) += 1);
        Self { sender, number }
    }
}

impl<T> Drop for Counted<'_, T> {
    fn drop(&mut self) {
        self.sender.send_modify(|value| *(self.number)(value) -= 1);
    }
}

impl<T> fmt::Debug for Counted<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Counted").finish_non_exhaustive()
    }
}

// Times as Hanko, a Go program, writes them.

/// Formats a time in whole seconds, as in the responses of `/sessions/validate`.
fn in_seconds(unix_time: Duration) -> String {
    date_time(unix_time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Formats a time with its fraction, without trailing zeros (Go's `time.RFC3339Nano`).
fn with_fraction(unix_time: Duration) -> String {
    if unix_time.subsec_nanos() == 0 {
        return in_seconds(unix_time);
    }
    let text = date_time(unix_time)
        .format("%Y-%m-%dT%H:%M:%S%.9f")
        .to_string();
    format!("{}Z", text.trim_end_matches('0'))
}

/// Truncates a time to microseconds, the precision of Hanko's database.
fn in_database(unix_time: Duration) -> Duration {
    Duration::from_micros(u64::try_from(unix_time.as_micros()).unwrap_or(u64::MAX))
}

fn date_time(unix_time: Duration) -> DateTime<Utc> {
    i64::try_from(unix_time.as_secs())
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, unix_time.subsec_nanos()))
        .unwrap_or_default()
}
