//! The handle of the local Hanko, and the people who sign in.

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

/// How long ago an [`expired_token`](LocalHanko::expired_token) expired.
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
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use poem_hanko::{ManualClock, testing::LocalHanko};
    ///
    /// # async fn example() -> std::io::Result<()> {
    /// let clock = ManualClock::new(Duration::from_secs(1_767_268_800));
    /// let local_hanko = LocalHanko::builder().clock(Arc::new(clock.clone())).start().await?;
    /// clock.advance(Duration::from_secs(60));
    /// # Ok(())
    /// # }
    /// ```
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Signs with RSA 4096, as Hanko does. Default: RSA 2048, whose keys are generated in a fraction of the time.
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # async fn example() -> std::io::Result<()> {
    /// let local_hanko = LocalHanko::builder().rsa_4096().start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn rsa_4096(mut self) -> Self {
        self.key_size = KeySize::Rsa4096;
        self
    }

    /// Sets the `aud` of tokens. Default: `localhost`.
    ///
    /// ```
    /// use poem_hanko::{Hanko, testing::LocalHanko};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let local_hanko = LocalHanko::builder().audience("acme-api").start().await?;
    /// let hanko = Hanko::builder(local_hanko.hanko_url())
    ///     .audiences(["acme-api".to_owned()])
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = audience.into();
        self
    }

    /// Sets the `iss` of session tokens. Default: none, as with Hanko.
    ///
    /// ```
    /// use poem_hanko::{Hanko, testing::LocalHanko};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let local_hanko = LocalHanko::builder().issuer("https://id.example.com").start().await?;
    /// let hanko = Hanko::builder(local_hanko.hanko_url())
    ///     .issuer("https://id.example.com")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Sets the name of the session cookie. Default: `hanko`.
    ///
    /// ```
    /// use poem_hanko::{Hanko, testing::LocalHanko};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let local_hanko = LocalHanko::builder().cookie_name("session").start().await?;
    /// let hanko = Hanko::builder(local_hanko.hanko_url()).cookie_name("session").build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn cookie_name(mut self, cookie_name: impl Into<String>) -> Self {
        self.cookie_name = cookie_name.into();
        self
    }

    /// Sets how many sessions a user can have, see [`LocalHanko::set_session_limit`]. Default:
    /// [`DEFAULT_SESSION_LIMIT`].
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # async fn example() -> std::io::Result<()> {
    /// let local_hanko = LocalHanko::builder().session_limit(1).start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn session_limit(mut self, limit: usize) -> Self {
        self.settings.session_limit = limit;
        self
    }

    /// Sets how long a session can be unused, see [`LocalHanko::set_idle_timeout`]. Default: no limit.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # async fn example() -> std::io::Result<()> {
    /// let hour = Duration::from_secs(3600);
    /// let local_hanko = LocalHanko::builder().idle_timeout(hour).start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = Some(timeout);
        self
    }

    /// Sets the events that are sent, see [`LocalHanko::set_webhook_events`]. Default: [`DEFAULT_WEBHOOK_EVENTS`].
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # async fn example() -> std::io::Result<()> {
    /// let local_hanko = LocalHanko::builder()
    ///     .webhook_events(&["user", "session"])
    ///     .start()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn webhook_events(mut self, events: &[&str]) -> Self {
        self.webhook_events = owned(events);
        self
    }

    /// Sets the fault with which it starts, see [`LocalHanko::set_fault`]. Default: [`Fault::None`].
    ///
    /// ```
    /// use poem_hanko::testing::{Fault, LocalHanko};
    ///
    /// # async fn example() -> std::io::Result<()> {
    /// let local_hanko = LocalHanko::builder().fault(Fault::DatabaseDown).start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// Sets the delay of responses to validation requests, see [`LocalHanko::set_validation_delay`]. Default: none.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # async fn example() -> std::io::Result<()> {
    /// let delay = Duration::from_millis(200);
    /// let local_hanko = LocalHanko::builder().validation_delay(delay).start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn validation_delay(mut self, delay: Duration) -> Self {
        self.settings.validation_delay = delay;
        self
    }

    /// Starts it on a free port of `127.0.0.1`.
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let local_hanko = LocalHanko::builder().start().await?;
    /// println!("HANKO_API_URL={}", local_hanko.url());
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # async fn example() -> std::io::Result<()> {
    /// let builder = LocalHanko::builder().audience("acme-api");
    /// let local_hanko = builder.start().await?;
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```
    /// use std::process::{Child, Command};
    ///
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// /// Starts the program under test for the sessions of this Hanko.
    /// fn start(program: &str, local_hanko: &LocalHanko) -> std::io::Result<Child> {
    ///     Command::new(program).env("HANKO_API_URL", local_hanko.url()).spawn()
    /// }
    /// ```
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the URL as a [`HankoUrl`].
    ///
    /// ```
    /// use poem_hanko::{Hanko, testing::LocalHanko};
    ///
    /// # fn example(local_hanko: &LocalHanko) -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = Hanko::builder(local_hanko.hanko_url()).build()?;
    /// # Ok(())
    /// # }
    /// ```
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
    /// [`wait_for_webhooks`](Self::wait_for_webhooks). Works with any [`Fault`].
    ///
    /// ```
    /// use poem_hanko::testing::{LocalHanko, Person};
    ///
    /// # fn example(local_hanko: &LocalHanko) {
    /// let ada = local_hanko.sign_in(&Person::default());
    /// let admin = local_hanko.sign_in(&Person::default().claim("role", "admin"));
    /// # }
    /// ```
    pub fn sign_in(&self, person: &Person) -> SignedIn {
        self.state.create_session(person, Source::Flow).1
    }

    /// Creates a session for a person and returns its token, as `POST /sessions` of Hanko's Admin API does.
    ///
    /// Differs from [`sign_in`](Self::sign_in) in the same way as at Hanko: the token has no `amr`, the session has no user
    /// agent and IP address, and the event is `session.create.admin`.
    ///
    /// ```
    /// use poem_hanko::testing::{LocalHanko, Person};
    ///
    /// # fn example(local_hanko: &LocalHanko) {
    /// let ada = local_hanko.create_session(&Person::default());
    /// println!("Authorization: Bearer {}", ada.token());
    /// # }
    /// ```
    pub fn create_session(&self, person: &Person) -> SignedIn {
        self.state.create_session(person, Source::AdminApi).1
    }

    /// Returns the claims that a session token of this person would have. A test can change them and sign them with
    /// [`sign_claims`](Self::sign_claims). Creates no session.
    ///
    /// ```
    /// use poem_hanko::testing::{LocalHanko, Person};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let local_hanko = LocalHanko::builder().start().await?;
    /// let claims = local_hanko.claims_of(&Person::default().claim("role", "admin"));
    /// assert_eq!(claims["role"], "admin");
    /// assert_eq!(claims["email"]["address"], "ada@example.com");
    /// # Ok(())
    /// # }
    /// ```
    pub fn claims_of(&self, person: &Person) -> Map<String, Value> {
        let now = self.state.clock.unix_time();
        self.state
            .claims_of(person, Uuid::new_v4(), person.session_times(now))
    }

    /// Returns a token of this person that expired an hour ago, which is longer than any leeway. It belongs to no session.
    ///
    /// ```
    /// use poem_hanko::{
    ///     AuthenticateError, TokenError,
    ///     testing::{Person, TestHanko},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let token = hanko.expired_token(&Person::default());
    /// let error = hanko.hanko().authenticate(token).await.unwrap_err();
    /// assert_eq!(error, AuthenticateError::Token(TokenError::Expired));
    /// # Ok(())
    /// # }
    /// ```
    pub fn expired_token(&self, person: &Person) -> String {
        let expired_at = self.state.clock.unix_time().saturating_sub(EXPIRED_SINCE);
        let times = (expired_at.saturating_sub(person.lifespan), expired_at);
        let claims = self.state.claims_of(person, Uuid::new_v4(), times);
        self.sign_claims(&claims)
    }

    /// Signs this person in and returns the token that another Hanko would have issued: signed with a key that is not in
    /// the JWK Set, under a `kid` of its own.
    ///
    /// ```
    /// use poem_hanko::{
    ///     AuthenticateError, TokenError,
    ///     testing::{Person, TestHanko},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let token = hanko.foreign_token(&Person::default());
    /// let error = hanko.hanko().authenticate(token).await.unwrap_err();
    /// assert_eq!(error, AuthenticateError::Token(TokenError::UnknownKey));
    /// # Ok(())
    /// # }
    /// ```
    pub fn foreign_token(&self, person: &Person) -> String {
        let (claims, _session) = self.state.create_session(person, Source::Flow);
        SigningKey::foreign().sign(&claims)
    }

    /// Signs this person in and returns the token as an attacker would forge it: with the `kid` of the current key, but
    /// signed with another key.
    ///
    /// ```
    /// use poem_hanko::{
    ///     AuthenticateError, TokenError,
    ///     testing::{Person, TestHanko},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let token = hanko.forged_token(&Person::default());
    /// let error = hanko.hanko().authenticate(token).await.unwrap_err();
    /// assert_eq!(error, AuthenticateError::Token(TokenError::InvalidSignature));
    /// # Ok(())
    /// # }
    /// ```
    pub fn forged_token(&self, person: &Person) -> String {
        let (claims, _session) = self.state.create_session(person, Source::Flow);
        SigningKey::foreign().sign_as(&self.kid(), &claims)
    }

    /// Returns a token that Hanko has signed with the same key for another purpose: that of a webhook.
    ///
    /// ```
    /// use poem_hanko::testing::TestHanko;
    ///
    /// # async fn example(hanko: &TestHanko) {
    /// let token = hanko.token_of_wrong_kind();
    /// assert!(hanko.hanko().authenticate(token).await.is_err());
    /// # }
    /// ```
    pub fn token_of_wrong_kind(&self) -> String {
        self.state.webhook_token("user.login", &json!({}))
    }

    /// Signs any claims as Hanko signs its tokens.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let mut claims = hanko.claims_of(&Person::default());
    /// claims.remove("session_id");
    /// let token = hanko.sign_claims(&claims);
    /// assert!(hanko.hanko().authenticate(token).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn sign_claims(&self, claims: &Map<String, Value>) -> String {
        self.state.sign_claims(claims)
    }

    /// Signs any bytes under any header, with the current key and RS256.
    ///
    /// ```
    /// use poem_hanko::testing::TestHanko;
    ///
    /// # async fn example(hanko: &TestHanko) {
    /// let token = hanko.sign_raw(br#"{"alg":"none"}"#, br#"{"sub":"ada"}"#);
    /// assert!(hanko.hanko().authenticate(token).await.is_err());
    /// # }
    /// ```
    pub fn sign_raw(&self, header: &[u8], payload: &[u8]) -> String {
        let key = self.state.inner().keys.signing_key();
        key.sign_raw(header, payload)
    }

    /// Sends webhooks to this URL from now on: one at a time in the order of the events, each once, never again after a
    /// failure, and with a timeout of 10 s of its clock, as Hanko does.
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # fn example(local_hanko: &LocalHanko) {
    /// local_hanko.send_webhooks_to("http://localhost:8000/webhooks/hanko");
    /// # }
    /// ```
    pub fn send_webhooks_to(&self, url: impl Into<String>) {
        self.state.inner().subscription.target = Some(Target::Url(url.into()));
    }

    /// Passes webhooks to [`Hanko::receive_webhook`] from now on, without HTTP: in a test, the endpoint then needs no port.
    /// They are delivered in the same order and with the same timeout as [by HTTP](Self::send_webhooks_to).
    ///
    /// ```
    /// use poem_hanko::{Hanko, testing::LocalHanko};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let local_hanko = LocalHanko::builder().start().await?;
    /// let hanko = Hanko::builder(local_hanko.hanko_url()).build()?;
    /// local_hanko.send_webhooks_to_hanko(&hanko);
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_webhooks_to_hanko(&self, hanko: &Hanko) {
        self.state.inner().subscription.target = Some(Target::Hanko(hanko.clone()));
    }

    /// Sends no webhooks from now on. Those in the queue are still sent.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # async fn example(hanko: &TestHanko) -> Result<(), Box<dyn std::error::Error>> {
    /// hanko.stop_webhooks();
    /// let ada = hanko.sign_in(&Person::default());
    /// hanko.end_session(&ada).await?;
    /// // Nothing has told the service, so it asks Hanko.
    /// assert!(hanko.hanko().authenticate_live(ada.token()).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop_webhooks(&self) {
        self.state.inner().subscription.target = None;
    }

    /// Sends the events that start with one of these names from now on, as the setting `events` of a webhook at Hanko
    /// selects them: `session` includes `session.delete.explicit.logout`.
    ///
    /// The local Hanko has the events `user.delete`, `session.delete.explicit.logout`, `session.delete.admin.revoke`,
    /// `session.delete.passive.limit`, `session.delete.passive.expire`, `session.create.flow` and `session.create.admin`.
    /// With `["user"]` it sends the same events as a released Hanko up to v3.0.4, which has no `session` events.
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # fn example(local_hanko: &LocalHanko) {
    /// local_hanko.set_webhook_events(&["user", "session"]);
    /// # }
    /// ```
    pub fn set_webhook_events(&self, events: &[&str]) {
        self.state.inner().subscription.events = owned(events);
    }

    /// Waits until every queued webhook has been delivered, or has failed.
    ///
    /// ```
    /// use poem_hanko::testing::{LocalHanko, Person};
    ///
    /// # async fn example(local_hanko: &LocalHanko) {
    /// local_hanko.set_webhook_events(&["session.create"]);
    /// let ada = local_hanko.sign_in(&Person::default());
    /// local_hanko.wait_for_webhooks().await;
    /// # }
    /// ```
    pub async fn wait_for_webhooks(&self) {
        self.state.webhooks.wait_until_idle().await;
    }

    /// Ends a session as its user does by signing out, and waits until the webhook `session.delete.explicit.logout` has
    /// been delivered. Returns `None` if there is no such session.
    ///
    /// ```
    /// use poem_hanko::{
    ///     AuthenticateError,
    ///     testing::{Person, TestHanko},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let ada = hanko.sign_in(&Person::default());
    /// hanko.end_session(&ada).await?;
    /// let error = hanko.hanko().authenticate(ada.token()).await.unwrap_err();
    /// assert_eq!(error, AuthenticateError::SessionEnded);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns an error if the webhook was not delivered. The session has ended all the same.
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
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # async fn example(hanko: &TestHanko) -> Result<(), Box<dyn std::error::Error>> {
    /// let ada = hanko.sign_in(&Person::default());
    /// hanko.revoke_session(&ada).await?;
    /// assert!(hanko.hanko().authenticate(ada.token()).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns an error if the webhook was not delivered. The session has ended all the same.
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
    /// is no webhook about the sessions. The user is deleted, and the webhook is sent, even if nobody was ever signed in
    /// under this id.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # async fn example(hanko: &TestHanko) -> Result<(), Box<dyn std::error::Error>> {
    /// let ada = hanko.sign_in(&Person::default());
    /// hanko.delete_user(&ada).await?;
    /// assert!(hanko.hanko().authenticate(ada.token()).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```
    /// use poem_hanko::{
    ///     Receipt,
    ///     testing::{Person, TestHanko},
    /// };
    /// use serde_json::json;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let data = json!({ "id": Person::default().id().to_string() });
    /// let body = hanko.webhook_body("user.update", &data).to_string();
    /// let receipt = hanko.hanko().receive_webhook(body.as_bytes()).await?;
    /// assert!(matches!(receipt, Receipt::Verified(_)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn webhook_body(&self, event: &str, data: &Value) -> Value {
        self.state.webhook_body(event, data)
    }

    /// Returns the `data` of a webhook about this session, or `None` if there is no such session.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let ada = hanko.sign_in(&Person::default());
    /// let data = hanko.session_data(&ada).ok_or("there is no such session")?;
    /// let body = hanko.webhook_body("session.delete.admin.revoke", &data).to_string();
    /// hanko.hanko().receive_webhook(body.as_bytes()).await?;
    /// assert!(hanko.hanko().authenticate(ada.token()).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn session_data(&self, session: impl Into<SessionId>) -> Option<Value> {
        let session_id = session.into().as_uuid();
        let session = self.state.inner().database.session(session_id)?;
        Some(session.webhook_data())
    }

    /// Sets how many sessions a user can have at the same time. The next sign-in of a user counts too: it deletes the
    /// oldest sessions above the limit, and sends `session.delete.passive.limit` for each. Zero counts as one.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// hanko.set_session_limit(1);
    /// let ada = Person::default();
    /// let (laptop, phone) = (hanko.sign_in(&ada), hanko.sign_in(&ada));
    /// hanko.settle().await;
    /// assert!(hanko.hanko().authenticate(laptop.token()).await.is_err());
    /// assert!(hanko.hanko().authenticate(phone.token()).await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_session_limit(&self, limit: usize) {
        self.state.inner().settings.session_limit = limit;
    }

    /// Sets how long a session can be unused; `None` means no limit. `POST /sessions/validate` renews a session and GET
    /// does not. As at Hanko, only a validation request about an idle session ends it, and sends
    /// `session.delete.passive.expire`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// hanko.set_idle_timeout(Some(Duration::from_secs(3600)));
    /// let ada = hanko.sign_in(&Person::default());
    /// hanko.advance(Duration::from_secs(2 * 3600)).await;
    /// assert!(hanko.hanko().authenticate_live(ada.token()).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.state.inner().settings.idle_timeout = timeout;
    }

    /// Makes the local Hanko fail in this way from now on. Requests in progress are not affected, except those that
    /// [hang](Fault::Hangs).
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
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # fn example(local_hanko: &LocalHanko) {
    /// local_hanko.set_validation_delay(Duration::from_millis(200));
    /// # }
    /// ```
    pub fn set_validation_delay(&self, delay: Duration) {
        self.state.inner().settings.validation_delay = delay;
    }

    /// Holds the responses to validation requests that arrive from now on, until the returned guard is dropped. A response
    /// is computed when its request arrives, so a response from before a sign-out can arrive after it. If
    /// this is called again, new responses are held by the new guard only.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let ada = hanko.sign_in(&Person::default());
    /// let held = hanko.hold_validations();
    /// let (session, ()) = tokio::join!(hanko.hanko().authenticate_live(ada.token()), async {
    ///     held.wait_for(1).await;
    ///     hanko.end_session(&ada).await.expect("the webhook is delivered");
    ///     held.release();
    /// });
    /// assert!(session.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn hold_validations(&self) -> HeldValidations {
        self.state.hold.begin()
    }

    /// Returns the `kid` of the key that signs.
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # fn example(local_hanko: &LocalHanko) {
    /// println!("tokens have the header `kid`: {}", local_hanko.kid());
    /// # }
    /// ```
    pub fn kid(&self) -> String {
        self.state.inner().keys.signing_key().kid.clone()
    }

    /// Signs with a new key from now on. The old ones stay in the JWK Set, as at Hanko, until
    /// [`retire_old_keys`](Self::retire_old_keys).
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// hanko.rotate_key().await?;
    /// let ada = hanko.sign_in(&Person::default());
    /// assert!(hanko.hanko().authenticate(ada.token()).await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns an error if no key can be generated.
    pub async fn rotate_key(&self) -> io::Result<()> {
        let key = generate(self.state.key_size).await?;
        self.state.inner().keys.add(key);
        Ok(())
    }

    /// Removes all keys but the one that signs from the JWK Set.
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let local_hanko = LocalHanko::builder().start().await?;
    /// local_hanko.rotate_key().await?;
    /// local_hanko.retire_old_keys();
    /// let keys = local_hanko.key_set();
    /// assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn retire_old_keys(&self) {
        self.state.inner().keys.retire_old();
    }

    /// Returns the JWK Set that is being served.
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # fn example(local_hanko: &LocalHanko) {
    /// let keys = local_hanko.key_set();
    /// assert_eq!(keys["keys"][0]["kid"], local_hanko.kid());
    /// # }
    /// ```
    pub fn key_set(&self) -> Value {
        self.state.inner().keys.jwk_set()
    }

    /// Returns how many requests for the JWK Set have arrived.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let requests = hanko.key_set_requests();
    /// let ada = hanko.sign_in(&Person::default());
    /// hanko.hanko().authenticate(ada.token()).await?;
    /// assert_eq!(hanko.key_set_requests(), requests);
    /// # Ok(())
    /// # }
    /// ```
    pub fn key_set_requests(&self) -> u64 {
        self.state.inner().key_set_requests
    }

    /// Returns how many requests to `/sessions/validate` have arrived.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hanko = TestHanko::start().await;
    /// let ada = hanko.sign_in(&Person::default());
    /// hanko.hanko().authenticate_live(ada.token()).await?;
    /// assert_eq!(hanko.validate_requests(), 1);
    /// assert_eq!(hanko.validate_requests_by_get(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn validate_requests(&self) -> u64 {
        self.state.validations.counts().all
    }

    /// Returns how many of the [`validate_requests`](Self::validate_requests) were GET requests.
    ///
    /// ```
    /// use poem_hanko::testing::LocalHanko;
    ///
    /// # fn example(local_hanko: &LocalHanko) {
    /// let by_post = local_hanko.validate_requests() - local_hanko.validate_requests_by_get();
    /// println!("{by_post} requests have renewed a session");
    /// # }
    /// ```
    pub fn validate_requests_by_get(&self) -> u64 {
        self.state.validations.counts().by_get
    }

    /// Waits until at least `count` requests to `/sessions/validate` have arrived. Their responses may not have been
    /// computed; [`HeldValidations::wait_for`] waits for that.
    ///
    /// ```
    /// use poem_hanko::testing::{Fault, LocalHanko};
    ///
    /// /// Lets Hanko work again once a request waits for it.
    /// async fn recover(local_hanko: &LocalHanko) {
    ///     local_hanko.wait_for_validate_requests(1).await;
    ///     local_hanko.set_fault(Fault::None);
    /// }
    /// ```
    pub async fn wait_for_validate_requests(&self, count: u64) {
        self.state.validations.wait_for(count).await;
    }

    /// Returns the highest number of requests to `/sessions/validate` that were in progress at the same time.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # async fn example(hanko: &TestHanko) {
    /// let ada = hanko.sign_in(&Person::default());
    /// let verify = || hanko.hanko().authenticate_live(ada.token());
    /// let _ = tokio::join!(verify(), verify());
    /// println!("{} validations at once", hanko.most_validations_at_once());
    /// # }
    /// ```
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
/// [`Person::default`] is a new user with the verified primary e-mail address `ada@example.com` and nothing else. Each
/// call returns another user with the same address, which the local Hanko allows and a real one does not.
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
    /// The names that a custom claim cannot have, because Hanko ignores them in a JWT template.
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
    ///
    /// ```
    /// use poem_hanko::testing::Person;
    ///
    /// let grace = Person::with_email("grace@example.com");
    /// assert_ne!(grace.id(), Person::with_email("grace@example.com").id());
    /// ```
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
    ///
    /// ```
    /// use poem_hanko::testing::{LocalHanko, Person};
    ///
    /// # fn example(local_hanko: &LocalHanko) {
    /// let ada = Person::default();
    /// assert_eq!(local_hanko.sign_in(&ada).user_id(), ada.id());
    /// # }
    /// ```
    pub fn id(&self) -> UserId {
        self.id.into()
    }

    /// Sets the id of the user. Default: a random UUID.
    ///
    /// ```
    /// use poem_hanko::{UserId, testing::Person};
    ///
    /// let id: UserId = "6c7f0b86-5d6a-4f0e-9d3f-0e4a7a8f2b11".parse()?;
    /// let ada = Person::default().with_id(id);
    /// assert_eq!(ada.id(), id);
    /// # Ok::<(), poem_hanko::IdError>(())
    /// ```
    pub fn with_id(mut self, id: impl Into<UserId>) -> Self {
        self.id = id.into().as_uuid();
        self
    }

    /// Sets the primary e-mail address, verified.
    ///
    /// ```
    /// use poem_hanko::testing::Person;
    ///
    /// let ada = Person::default().verified_email("ada@acme.example");
    /// ```
    pub fn verified_email(mut self, email: impl Into<String>) -> Self {
        self.email = Some(email.into());
        self.is_email_verified = true;
        self
    }

    /// Sets the primary e-mail address, not verified.
    ///
    /// ```
    /// use poem_hanko::testing::Person;
    ///
    /// let bob = Person::default().unverified_email("bob@example.com");
    /// ```
    pub fn unverified_email(mut self, email: impl Into<String>) -> Self {
        self.email = Some(email.into());
        self.is_email_verified = false;
        self
    }

    /// Removes the e-mail address. The token then has no `email`.
    ///
    /// ```
    /// use poem_hanko::testing::Person;
    ///
    /// let carol = Person::default().without_email().username("carol");
    /// ```
    pub fn without_email(mut self) -> Self {
        self.email = None;
        self
    }

    /// Sets the username. Default: none.
    ///
    /// ```
    /// use poem_hanko::testing::Person;
    ///
    /// let carol = Person::with_email("carol@example.com").username("carol");
    /// ```
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Sets a custom claim, as Hanko's JWT template adds it. Any JSON is allowed as its value.
    ///
    /// ```
    /// use poem_hanko::testing::Person;
    /// use serde_json::json;
    ///
    /// let admin = Person::default()
    ///     .claim("role", "admin")
    ///     .claim("org", json!({ "id": 7, "permissions": ["notes:edit"] }));
    /// ```
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
    /// ```
    /// use poem_hanko::testing::Person;
    /// use serde_json::{Map, json};
    ///
    /// let claims = Map::from_iter([
    ///     ("role".to_owned(), json!("admin")),
    ///     ("plan".to_owned(), json!("pro")),
    /// ]);
    /// let admin = Person::default().claims(claims);
    /// ```
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
    ///
    /// ```
    /// use poem_hanko::testing::Person;
    ///
    /// let with_passkey = Person::default().amr(["passkey"]);
    /// let with_second_factor = Person::default().amr(["pwd", "totp"]);
    /// ```
    pub fn amr(mut self, methods: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.amr = methods.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the time of the sign-in, claim `iat`. Default: now, on the clock of the local Hanko.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use poem_hanko::testing::Person;
    ///
    /// let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_268_800);
    /// let ada = Person::default().signed_in_at(time);
    /// ```
    pub fn signed_in_at(mut self, time: SystemTime) -> Self {
        self.signed_in = When::At(time.duration_since(UNIX_EPOCH).unwrap_or_default());
        self
    }

    /// Sets how long ago the sign-in was, claim `iat`. The session has been in use since then, so that it is not idle.
    /// Default: zero.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::testing::Person;
    ///
    /// let ada = Person::default().signed_in_ago(Duration::from_secs(3600));
    /// ```
    pub fn signed_in_ago(mut self, age: Duration) -> Self {
        self.signed_in = When::Ago(age);
        self
    }

    /// Sets how long the session and its token are valid from the sign-in on. Default: [`SESSION_LIFESPAN`].
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::testing::Person;
    ///
    /// let ada = Person::default().lifespan(Duration::from_secs(15 * 60));
    /// ```
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

    /// Returns the start and the end of a session that this person creates at `now`, since 1970-01-01T00:00:00Z.
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
    ///
    /// ```
    /// use poem_hanko::{Hanko, testing::SignedIn};
    ///
    /// # async fn example(hanko: &Hanko, ada: &SignedIn) -> Result<(), Box<dyn std::error::Error>> {
    /// let session = hanko.authenticate(ada.token()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Returns the id of the session.
    ///
    /// ```
    /// use poem_hanko::{Session, testing::SignedIn};
    ///
    /// fn assert_same(session: &Session, ada: &SignedIn) {
    ///     assert_eq!(session.id(), ada.session_id());
    /// }
    /// ```
    pub fn session_id(&self) -> SessionId {
        self.session_id.into()
    }

    /// Returns the id of the user whose session it is.
    ///
    /// ```
    /// use poem_hanko::{Session, testing::SignedIn};
    ///
    /// fn assert_same_user(session: &Session, ada: &SignedIn) {
    ///     assert_eq!(session.user_id(), ada.user_id());
    /// }
    /// ```
    pub fn user_id(&self) -> UserId {
        self.user_id.into()
    }

    /// Returns when the session and its token expire, in whole seconds.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # async fn example(hanko: &TestHanko) {
    /// let now = hanko.sign_in(&Person::default().lifespan(Duration::ZERO)).expires_at();
    /// let ada = hanko.sign_in(&Person::default().lifespan(Duration::from_secs(60)));
    /// assert_eq!(ada.expires_at(), now + Duration::from_secs(60));
    /// # }
    /// ```
    pub fn expires_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.expires_at.as_secs())
    }

    /// Returns the value of a `Cookie` header with the token, as a browser sends it.
    ///
    /// ```
    /// use poem_hanko::testing::SignedIn;
    ///
    /// fn request_of_browser(ada: &SignedIn) -> poem::Request {
    ///     poem::Request::builder()
    ///         .header("Cookie", ada.cookie())
    ///         .header("Origin", "https://app.example.com")
    ///         .finish()
    /// }
    /// ```
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
