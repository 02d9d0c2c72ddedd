//! The local Hanko as tests hold it, and the people who sign in at it.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::rsa::KeySize;
use poem::IntoEndpoint;
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use uuid::Uuid;

use super::{
    DEFAULT_SESSION_LIMIT, DEFAULT_WEBHOOK_EVENTS, SESSION_LIFESPAN,
    key::{KeyRing, SigningKey},
    routes::{routes, serve},
    state::{
        CurrentHold, Database, DeliveryError, Fault, HeldValidations, Inner, Settings, Source,
        State, Subscription, Target, ValidationCounter, WebhookQueue,
    },
};
use crate::{
    clock::{Clock, SystemClock},
    hanko::{DEFAULT_COOKIE_NAME, Hanko, HankoUrl, PlainHttp, SessionId, UserId},
};

/// How long ago an [`expired_token`](LocalHanko::expired_token) has expired.
const EXPIRED_SINCE: Duration = Duration::from_hours(1);

/// A running local Hanko. When this is dropped, it stops as if it were killed: its connections are closed, and webhooks that
/// have not been sent are lost.
///
/// ```
/// use poem_hanko::{
///     Hanko,
///     testing::{LocalHanko, Person},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let local_hanko = LocalHanko::builder().start().await?;
/// let hanko = Hanko::builder(local_hanko.hanko_url()).build()?;
/// local_hanko.send_webhooks_to_hanko(&hanko);
///
/// let ada = local_hanko.sign_in(&Person::default());
/// let session = hanko.authenticate(ada.token()).await?;
/// assert_eq!(session.user_id(), ada.user_id());
///
/// local_hanko.end_session(&ada).await?;
/// assert!(hanko.authenticate(ada.token()).await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LocalHanko {
    address: SocketAddr,
    pub(super) state: Arc<State>,
    /// The server and the webhook worker, aborted when this is dropped.
    _tasks: JoinSet<()>,
}

/// Configures and starts a [`LocalHanko`].
///
/// ```
/// use std::time::Duration;
///
/// use poem_hanko::testing::LocalHanko;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let local_hanko = LocalHanko::builder()
///     .audience("acme-api")
///     .session_limit(1)
///     .idle_timeout(Duration::from_secs(3600))
///     .webhook_events(&["user"])
///     .start()
///     .await?;
/// println!("HANKO_API_URL={}", local_hanko.url());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct LocalHankoBuilder {
    clock: Arc<dyn Clock>,
    key_size: KeySize,
    audience: String,
    issuer: Option<String>,
    cookie_name: String,
    webhook_events: Vec<String>,
    fault: Fault,
    settings: Settings,
}

impl LocalHankoBuilder {
    /// Sets the source of the time in tokens, of timeouts and of delays. Default: [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Signs with RSA 4096, as Hanko does. Default: RSA 2048, whose keys are generated in a fraction of the time.
    pub fn rsa_4096(mut self) -> Self {
        self.key_size = KeySize::Rsa4096;
        self
    }

    /// Sets the `aud` of tokens. Default: `localhost`.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = audience.into();
        self
    }

    /// Sets the `iss` of session tokens. Default: none, as with Hanko.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Sets the name of the session cookie. Default: `hanko`.
    pub fn cookie_name(mut self, cookie_name: impl Into<String>) -> Self {
        self.cookie_name = cookie_name.into();
        self
    }

    /// Sets how many sessions a user can have, see [`LocalHanko::set_session_limit`]. Default:
    /// [`DEFAULT_SESSION_LIMIT`].
    pub fn session_limit(mut self, limit: usize) -> Self {
        self.settings.session_limit = limit;
        self
    }

    /// Sets how long a session can be unused, see [`LocalHanko::set_idle_timeout`]. Default: any time.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = Some(timeout);
        self
    }

    /// Sets the events that are sent, see [`LocalHanko::set_webhook_events`]. Default: [`DEFAULT_WEBHOOK_EVENTS`].
    pub fn webhook_events(mut self, events: &[&str]) -> Self {
        self.webhook_events = owned(events);
        self
    }

    /// Sets the fault with which it starts, see [`LocalHanko::set_fault`]. Default: [`Fault::None`].
    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// Sets the delay of responses to validation requests, see [`LocalHanko::set_validation_delay`]. Default: none.
    pub fn validation_delay(mut self, delay: Duration) -> Self {
        self.settings.validation_delay = delay;
        self
    }

    /// Starts it on a free port of `127.0.0.1`.
    ///
    /// # Errors
    /// Returns an error if the port cannot be bound or the key cannot be generated.
    pub async fn start(self) -> io::Result<LocalHanko> {
        let key = generate(self.key_size).await?;
        let mut tasks = JoinSet::new();
        let state = Arc::new(State {
            webhooks: WebhookQueue::start(Arc::clone(&self.clock), &mut tasks),
            clock: self.clock,
            key_size: self.key_size,
            audience: self.audience,
            issuer: self.issuer,
            cookie_name: self.cookie_name.into(),
            validations: ValidationCounter::default(),
            hold: Arc::new(CurrentHold::default()),
            fault: watch::Sender::new(self.fault),
            inner: Mutex::new(Inner {
                keys: KeyRing::new(key),
                database: Database::default(),
                subscription: Subscription {
                    target: None,
                    events: self.webhook_events,
                },
                settings: self.settings,
                key_set_requests: 0,
            }),
        });

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let endpoint = routes(Arc::clone(&state)).into_endpoint();
        tasks.spawn(serve(listener, endpoint, Arc::clone(&state)));
        Ok(LocalHanko {
            address,
            state,
            _tasks: tasks,
        })
    }
}

impl LocalHanko {
    /// Returns a builder with default settings.
    pub fn builder() -> LocalHankoBuilder {
        LocalHankoBuilder {
            clock: Arc::new(SystemClock::new()),
            key_size: KeySize::Rsa2048,
            audience: "localhost".to_owned(),
            issuer: None,
            cookie_name: DEFAULT_COOKIE_NAME.to_owned(),
            webhook_events: owned(&DEFAULT_WEBHOOK_EVENTS),
            fault: Fault::None,
            settings: Settings {
                session_limit: DEFAULT_SESSION_LIMIT,
                idle_timeout: None,
                validation_delay: Duration::ZERO,
            },
        }
    }

    /// Returns the URL of its API.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the URL as a [`HankoUrl`].
    ///
    /// # Panics
    /// Never: the URL is well-formed and loopback.
    pub fn hanko_url(&self) -> HankoUrl {
        HankoUrl::parse(&self.url(), PlainHttp::LoopbackOnly)
            .expect("a loopback address makes a Hanko API URL")
    }

    /// Signs a person in, as one of Hanko's flows does: creates a session and returns its token.
    ///
    /// Queues the webhooks `session.delete.passive.limit`, for each session that was deleted because of the session limit,
    /// and `session.create.flow`, if they are [subscribed to](Self::set_webhook_events); see
    /// [`wait_for_webhooks`](Self::wait_for_webhooks). Works whatever [`Fault`] is set.
    pub fn sign_in(&self, person: &Person) -> SignedIn {
        self.state.create_session(person, Source::Flow).1
    }

    /// Creates a session for a person and returns its token, as `POST /sessions` of Hanko's Admin API does.
    ///
    /// Differs from [`sign_in`](Self::sign_in) as at Hanko: the token has no `amr`, the session has no user agent and IP
    /// address, and the event is `session.create.admin`.
    pub fn create_session(&self, person: &Person) -> SignedIn {
        self.state.create_session(person, Source::AdminApi).1
    }

    /// Returns the claims that a session token of this person would have, for a test to change them and sign them with
    /// [`sign_claims`](Self::sign_claims). Creates no session.
    pub fn claims_of(&self, person: &Person) -> Map<String, Value> {
        let now = self.state.clock.unix_time();
        self.state
            .claims_of(person, Uuid::new_v4(), person.session_times(now))
    }

    /// Returns a token of this person that has expired an hour ago, longer than any leeway. There is no such session.
    pub fn expired_token(&self, person: &Person) -> String {
        let expired_at = self.state.clock.unix_time().saturating_sub(EXPIRED_SINCE);
        let times = (expired_at.saturating_sub(person.lifespan), expired_at);
        let claims = self.state.claims_of(person, Uuid::new_v4(), times);
        self.sign_claims(&claims)
    }

    /// Signs this person in and returns the token that another Hanko would have issued: signed with a key that is not in
    /// the JWK Set, under a `kid` of its own.
    pub fn foreign_token(&self, person: &Person) -> String {
        let (claims, _session) = self.state.create_session(person, Source::Flow);
        SigningKey::foreign().sign(&claims)
    }

    /// Signs this person in and returns the token as an attacker would forge it: with the `kid` of the key that signs, and
    /// signed with another one.
    pub fn forged_token(&self, person: &Person) -> String {
        let (claims, _session) = self.state.create_session(person, Source::Flow);
        SigningKey::foreign().sign_as(&self.kid(), &claims)
    }

    /// Returns a token that Hanko has signed with the same key for another purpose: that of a webhook.
    pub fn token_of_wrong_kind(&self) -> String {
        self.state.webhook_token("user.login", &json!({}))
    }

    /// Signs any claims as Hanko signs its tokens.
    pub fn sign_claims(&self, claims: &Map<String, Value>) -> String {
        self.state.sign_claims(claims)
    }

    /// Signs any bytes under any header, with the current key and RS256.
    pub fn sign_raw(&self, header: &[u8], payload: &[u8]) -> String {
        let key = self.state.inner().keys.signing_key();
        key.sign_raw(header, payload)
    }

    /// Sends webhooks to this URL from now on: one at a time in the order of the events, each once, never again after a
    /// failure, and with a timeout of 10 s of its clock, as Hanko does.
    pub fn send_webhooks_to(&self, url: impl Into<String>) {
        self.state.inner().subscription.target = Some(Target::Url(url.into()));
    }

    /// Passes webhooks to [`Hanko::receive_webhook`] from now on, without HTTP: in a test, the endpoint then needs no port.
    /// They are delivered in the same order and with the same timeout as [by HTTP](Self::send_webhooks_to).
    pub fn send_webhooks_to_hanko(&self, hanko: &Hanko) {
        self.state.inner().subscription.target = Some(Target::Hanko(hanko.clone()));
    }

    /// Sends no webhooks from now on. Those in the queue are still sent.
    pub fn stop_webhooks(&self) {
        self.state.inner().subscription.target = None;
    }

    /// Sends the events that start with one of these names from now on, as the setting `events` of a webhook at Hanko
    /// selects them: `session` includes `session.delete.explicit.logout`.
    ///
    /// The local Hanko has the events `user.delete`, `session.delete.explicit.logout`, `session.delete.admin.revoke`,
    /// `session.delete.passive.limit`, `session.delete.passive.expire`, `session.create.flow` and `session.create.admin`.
    /// With `["user"]` it sends what a released Hanko up to v3.0.4 sends, which has no `session` events.
    pub fn set_webhook_events(&self, events: &[&str]) {
        self.state.inner().subscription.events = owned(events);
    }

    /// Waits until every queued webhook has been delivered, or has failed.
    pub async fn wait_for_webhooks(&self) {
        self.state.webhooks.wait_until_idle().await;
    }

    /// Ends a session as its user does by signing out, and waits until the webhook `session.delete.explicit.logout` has
    /// been delivered. Returns `None` if there is no such session.
    ///
    /// # Errors
    /// Returns an error if the webhook was not delivered. The session has ended.
    pub async fn end_session(
        &self,
        session: impl Into<SessionId>,
    ) -> Result<Option<()>, DeliveryError> {
        let event = "session.delete.explicit.logout";
        self.state
            .delete_session(session.into().as_uuid(), event)
            .await
    }

    /// Ends a session as an administrator does, and waits until the webhook `session.delete.admin.revoke` has been
    /// delivered. Returns `None` if there is no such session.
    ///
    /// # Errors
    /// Returns an error if the webhook was not delivered. The session has ended.
    pub async fn revoke_session(
        &self,
        session: impl Into<SessionId>,
    ) -> Result<Option<()>, DeliveryError> {
        let event = "session.delete.admin.revoke";
        self.state
            .delete_session(session.into().as_uuid(), event)
            .await
    }

    /// Deletes a user with all sessions, and waits until the webhook `user.delete` has been delivered. As at Hanko, there
    /// is no webhook about the sessions. The user is deleted, and the webhook is sent, also if nobody was ever signed in
    /// under this id.
    ///
    /// # Errors
    /// Returns an error if the webhook was not delivered. The user has been deleted.
    pub async fn delete_user(&self, user: impl Into<UserId>) -> Result<(), DeliveryError> {
        let user_id = user.into().as_uuid();
        let now = self.state.clock.unix_time();
        let data = self.state.inner().database.delete_user(user_id, now);
        self.state.send_webhook("user.delete", &data).await
    }

    /// Returns the body of the webhook request that Hanko would send for this event.
    pub fn webhook_body(&self, event: &str, data: &Value) -> Value {
        self.state.webhook_body(event, data)
    }

    /// Returns the `data` of a webhook about this session, or `None` if there is no such session.
    pub fn session_data(&self, session: impl Into<SessionId>) -> Option<Value> {
        let session_id = session.into().as_uuid();
        let session = self.state.inner().database.session(session_id)?;
        Some(session.webhook_data())
    }

    /// Sets how many sessions a user can have at the same time. The next sign-in of a user deletes the oldest sessions
    /// above the limit, the new one included, and sends `session.delete.passive.limit` for each. Zero counts as one.
    pub fn set_session_limit(&self, limit: usize) {
        self.state.inner().settings.session_limit = limit;
    }

    /// Sets how long a session can be unused; `None` means any time. `POST /sessions/validate` renews a session and GET
    /// does not. As at Hanko, only a validation request about an idle session ends it, and sends
    /// `session.delete.passive.expire`.
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.state.inner().settings.idle_timeout = timeout;
    }

    /// Fails in this way from now on. Requests in progress are not affected, except those that [hang](Fault::Hangs).
    ///
    /// ```
    /// use poem_hanko::{
    ///     Hanko,
    ///     testing::{Fault, LocalHanko, Person},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let local_hanko = LocalHanko::builder().start().await?;
    /// let hanko = Hanko::builder(local_hanko.hanko_url()).build()?;
    /// let ada = local_hanko.sign_in(&Person::default());
    /// local_hanko.set_fault(Fault::Down);
    /// assert!(hanko.authenticate(ada.token()).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_fault(&self, fault: Fault) {
        self.state.fault.send_replace(fault);
    }

    /// Delays the responses to validation requests that arrive from now on. A response is computed when its request
    /// arrives and is sent when the delay has passed since then on the local Hanko's clock.
    pub fn set_validation_delay(&self, delay: Duration) {
        self.state.inner().settings.validation_delay = delay;
    }

    /// Holds the responses to validation requests that arrive from now on, until the returned guard is dropped. A response
    /// is computed when its request arrives, so a test can have a response that is older than a sign-out arrive after
    /// it. If this is called again, new responses are held by the new guard only.
    pub fn hold_validations(&self) -> HeldValidations {
        self.state.hold.begin()
    }

    /// Returns the `kid` of the key that signs.
    pub fn kid(&self) -> String {
        self.state.inner().keys.signing_key().kid.clone()
    }

    /// Signs with a new key from now on. The old ones stay in the JWK Set, as at Hanko, until
    /// [`retire_old_keys`](Self::retire_old_keys).
    ///
    /// # Errors
    /// Returns an error if no key can be generated.
    pub async fn rotate_key(&self) -> io::Result<()> {
        let key = generate(self.state.key_size).await?;
        self.state.inner().keys.add(key);
        Ok(())
    }

    /// Removes all keys but the one that signs from the JWK Set.
    pub fn retire_old_keys(&self) {
        self.state.inner().keys.retire_old();
    }

    /// Returns the JWK Set that is being served.
    pub fn key_set(&self) -> Value {
        self.state.inner().keys.jwk_set()
    }

    /// Returns how many requests for the JWK Set have arrived.
    pub fn key_set_requests(&self) -> u64 {
        self.state.inner().key_set_requests
    }

    /// Returns how many requests to `/sessions/validate` have arrived.
    pub fn validate_requests(&self) -> u64 {
        self.state.validations.counts().all
    }

    /// Returns how many of the [`validate_requests`](Self::validate_requests) were GET requests.
    pub fn validate_requests_by_get(&self) -> u64 {
        self.state.validations.counts().by_get
    }

    /// Waits until at least `count` requests to `/sessions/validate` have arrived. Their responses may not have been
    /// computed; [`HeldValidations::wait_for`] waits for that.
    pub async fn wait_for_validate_requests(&self, count: u64) {
        self.state.validations.wait_for(count).await;
    }

    /// Returns how many requests to `/sessions/validate` have been in progress at the same time, at most.
    pub fn most_validations_at_once(&self) -> usize {
        self.state.validations.counts().most_at_once
    }
}

async fn generate(key_size: KeySize) -> io::Result<SigningKey> {
    tokio::task::spawn_blocking(move || SigningKey::generate(key_size))
        .await
        .map_err(io::Error::other)?
}

fn owned(events: &[&str]) -> Vec<String> {
    events.iter().map(|event| (*event).to_owned()).collect()
}

/// A person to sign in: a user of the local Hanko.
///
/// [`Person::default`] is a new user with the verified primary e-mail address `ada@example.com` and nothing else. Two of
/// them are two users, with the same address; no Hanko has that, and the local one does not mind.
///
/// ```
/// use std::time::Duration;
///
/// use poem_hanko::testing::Person;
///
/// let admin = Person::with_email("grace@example.com")
///     .claim("role", "admin")
///     .amr(["pwd", "totp"])
///     .signed_in_ago(Duration::from_secs(3600));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Person {
    id: Uuid,
    email: Option<String>,
    is_email_verified: bool,
    username: Option<String>,
    amr: Vec<String>,
    custom_claims: Map<String, Value>,
    signed_in: When,
    lifespan: Duration,
}

/// When a person signs in.
#[derive(Clone, Copy, Debug)]
enum When {
    Ago(Duration),
    /// The time since 1970-01-01T00:00:00Z.
    At(Duration),
}

impl Default for Person {
    fn default() -> Self {
        Self::with_email("ada@example.com")
    }
}

impl Person {
    /// The names that no custom claim has, since Hanko ignores them in a JWT template.
    pub const RESERVED_CLAIMS: [&str; 10] = [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "email",
        "username",
        "session_id",
    ];

    /// Returns a new user with this primary e-mail address, verified, and nothing else.
    pub fn with_email(email: impl Into<String>) -> Self {
        Self {
            id: Uuid::new_v4(),
            email: Some(email.into()),
            is_email_verified: true,
            username: None,
            amr: Vec::new(),
            custom_claims: Map::new(),
            signed_in: When::Ago(Duration::ZERO),
            lifespan: SESSION_LIFESPAN,
        }
    }

    /// Returns the id of the user, claim `sub`.
    pub fn id(&self) -> UserId {
        self.id.into()
    }

    /// Sets the id of the user. Default: a random UUID.
    pub fn with_id(mut self, id: impl Into<UserId>) -> Self {
        self.id = id.into().as_uuid();
        self
    }

    /// Sets the primary e-mail address, verified.
    pub fn verified_email(mut self, email: impl Into<String>) -> Self {
        self.email = Some(email.into());
        self.is_email_verified = true;
        self
    }

    /// Sets the primary e-mail address, not verified.
    pub fn unverified_email(mut self, email: impl Into<String>) -> Self {
        self.email = Some(email.into());
        self.is_email_verified = false;
        self
    }

    /// Removes the e-mail address. The token then has no `email`.
    pub fn without_email(mut self) -> Self {
        self.email = None;
        self
    }

    /// Sets the username. Default: none.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Sets a custom claim, as Hanko's JWT template adds it. Any JSON is allowed as its value.
    ///
    /// # Panics
    /// Panics if the name is one of [`RESERVED_CLAIMS`](Self::RESERVED_CLAIMS). For a token that breaks this rule, change
    /// [`LocalHanko::claims_of`] and use [`LocalHanko::sign_claims`].
    #[track_caller]
    pub fn claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let name = name.into();
        assert!(
            !Self::RESERVED_CLAIMS.contains(&name.as_str()),
            "`{name}` cannot be a custom claim"
        );
        self.custom_claims.insert(name, value.into());
        self
    }

    /// Sets several custom claims, see [`claim`](Self::claim).
    ///
    /// # Panics
    /// Panics if one of the names is [reserved](Self::RESERVED_CLAIMS).
    #[track_caller]
    pub fn claims(mut self, claims: Map<String, Value>) -> Self {
        for (name, value) in claims {
            self = self.claim(name, value);
        }
        self
    }

    /// Sets how the person signs in, claim `amr`: `pwd`, `passkey`, `otp`, `totp`, `security_key` or `ext:<provider>`.
    /// Default: the token has no `amr`.
    pub fn amr(mut self, methods: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.amr = methods.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the time of the sign-in, claim `iat`. Default: now, on the clock of the local Hanko.
    pub fn signed_in_at(mut self, time: SystemTime) -> Self {
        self.signed_in = When::At(time.duration_since(UNIX_EPOCH).unwrap_or_default());
        self
    }

    /// Sets how long ago the sign-in was, claim `iat`. The session has been in use since then, so that it is not idle.
    /// Default: zero.
    pub fn signed_in_ago(mut self, age: Duration) -> Self {
        self.signed_in = When::Ago(age);
        self
    }

    /// Sets how long the session and its token are valid from the sign-in on. Default: [`SESSION_LIFESPAN`].
    pub fn lifespan(mut self, lifespan: Duration) -> Self {
        self.lifespan = lifespan;
        self
    }

    pub(super) fn uuid(&self) -> Uuid {
        self.id
    }

    /// Returns the e-mail address and whether it is verified.
    pub(super) fn email(&self) -> Option<(&str, bool)> {
        let email = self.email.as_deref()?;
        Some((email, self.is_email_verified))
    }

    pub(super) fn stored_username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// Returns when a session begins and ends that this person creates at `now`, since 1970-01-01T00:00:00Z.
    pub(super) fn session_times(&self, now: Duration) -> (Duration, Duration) {
        let signed_in = match self.signed_in {
            When::Ago(age) => now.saturating_sub(age),
            When::At(time) => time,
        };
        (signed_in, signed_in.saturating_add(self.lifespan))
    }

    /// Returns the claims of a session token with these times.
    pub(super) fn token_claims(
        &self,
        session_id: Uuid,
        (issued_at, expires_at): (Duration, Duration),
        audience: &str,
        issuer: Option<&str>,
    ) -> Map<String, Value> {
        let mut claims = self.custom_claims.clone();
        let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        set("sub", json!(self.id));
        set("iat", json!(issued_at.as_secs()));
        set("exp", json!(expires_at.as_secs()));
        set("aud", json!([audience]));
        set("session_id", json!(session_id));
        if let Some(issuer) = issuer {
            set("iss", json!(issuer));
        }
        if let Some((address, is_verified)) = self.email() {
            set(
                "email",
                json!({ "address": address, "is_primary": true, "is_verified": is_verified }),
            );
        }
        if let Some(username) = &self.username {
            set("username", json!(username));
        }
        if !self.amr.is_empty() {
            set("amr", json!(self.amr));
        }
        claims
    }
}

impl From<&Person> for UserId {
    fn from(person: &Person) -> Self {
        person.id()
    }
}

/// A session that has just been created, with its token.
///
/// ```
/// use poem_hanko::testing::{LocalHanko, Person};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let local_hanko = LocalHanko::builder().start().await?;
/// let ada = local_hanko.sign_in(&Person::default());
/// let header = ("Authorization", format!("Bearer {}", ada.token()));
/// let cookie = ("Cookie", ada.cookie());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct SignedIn {
    #[doc(hidden)]
    pub token: String,
    #[doc(hidden)]
    pub session_id: Uuid,
    pub(super) user_id: Uuid,
    pub(super) expires_at: Duration,
    pub(super) cookie_name: Arc<str>,
}

impl SignedIn {
    /// Returns the session token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Returns the id of the session.
    pub fn session_id(&self) -> SessionId {
        self.session_id.into()
    }

    /// Returns the id of the user whose session it is.
    pub fn user_id(&self) -> UserId {
        self.user_id.into()
    }

    /// Returns when the session and its token expire, in whole seconds.
    pub fn expires_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.expires_at.as_secs())
    }

    /// Returns the value of a `Cookie` header with the token, as a browser sends it.
    pub fn cookie(&self) -> String {
        format!("{}={}", self.cookie_name, self.token)
    }
}

impl From<&SignedIn> for SessionId {
    fn from(session: &SignedIn) -> Self {
        session.session_id()
    }
}

impl From<&SignedIn> for UserId {
    fn from(session: &SignedIn) -> Self {
        session.user_id()
    }
}

impl fmt::Debug for SignedIn {
    /// Omits the token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SignedIn")
            .field("session_id", &self.session_id)
            .field("user_id", &self.user_id)
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}
