//! Authenticates a session token: the order of the steps is here and nowhere else.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    builder::HankoBuilder,
    claims::SessionClaims,
    cookie_name::CookieName,
    error::{AuthenticateError, counted_as},
    identified::Identified,
    liveness::{Liveness, SessionPolicy, Status, ValidationError, ValidationStatus},
    origin::is_loopback_origin,
    revocation::{RevocationStore, StoreStatus},
    session::{Authenticated, Session},
    streams::{EndReason, Streams},
    token_cache::TokenCache,
    url::HankoUrl,
    webhook::{self, Receipt, WebhookError, WebhookStatus, Webhooks},
};
use crate::{
    clock::Clock,
    jose::{
        ClaimsRules, MAX_TOKEN_BYTES, NumericDate, SignedPayload, TokenError, UnverifiedToken,
        Verified,
    },
    keys::{KeySetError, KeySetStatus, RemoteKeySet},
    metrics::{AuthenticationCounts, CacheLookup},
    sampling::Sampler,
    trace,
};
#[cfg(feature = "server")]
use {
    super::webhook::WebhookCounts,
    crate::metrics::{FetchCounts, ValidationCounts},
};

/// Authenticates the sessions of one Hanko API. A clone is cheap and shares the keys, the caches and the revocations.
///
/// ```no_run
/// # async fn example(token: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use poem_hanko::{Hanko, HankoUrl};
///
/// let url: HankoUrl = "https://f4ee0000-0000-4000-8000-000000000000.hanko.io".parse()?;
/// let hanko = Hanko::builder(url).build()?;
/// let session = hanko.authenticate(token).await?;
/// println!("{} is here", session.user_id());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Hanko(Arc<Inner>);

pub(super) struct Inner {
    pub(super) url: HankoUrl,
    pub(super) keys: Arc<RemoteKeySet>,
    pub(super) session_rules: ClaimsRules,
    pub(super) verified: Option<TokenCache>,
    pub(super) revocations: Arc<dyn RevocationStore>,
    pub(super) liveness: Liveness,
    pub(super) streams: Arc<Streams>,
    pub(super) webhooks: Webhooks,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) cookie_name: CookieName,
    pub(super) trusted_origins: Vec<String>,
    pub(super) trusts_loopback_origins: bool,
    pub(super) sampler: Sampler,
    pub(super) counts: AuthenticationCounts,
}

/// A time by both clocks, read once for all checks that do not wait: reading a clock takes as long as finding a token.
#[derive(Clone, Copy)]
struct Moment {
    unix: NumericDate,
    monotonic: Duration,
}

/// A session whose token was verified, now or before, and which was not revoked.
struct Found {
    session: Session,
    /// When its times and its key were checked, by the monotonic clock.
    checked_at: Duration,
}

impl fmt::Debug for Hanko {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Hanko")
            .field("url", &self.0.url)
            .field("keys", &self.0.keys)
            .finish_non_exhaustive()
    }
}

impl Hanko {
    /// Returns a builder with default settings for the Hanko API at `url`.
    ///
    /// ```
    /// use poem_hanko::{Hanko, HankoUrl};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let url: HankoUrl = "https://hanko.example.com".parse()?;
    /// let hanko = Hanko::builder(url).audiences(["app.example.com".to_owned()]).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(url: HankoUrl) -> HankoBuilder {
        HankoBuilder::new(url)
    }

    pub(super) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Authenticates a session token, as text or as the bytes that were sent.
    ///
    /// ```
    /// use poem_hanko::{AuthenticateError, Hanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// async fn greet(hanko: &Hanko, token: &str) -> Result<String, AuthenticateError> {
    ///     let session = hanko.authenticate(token).await?;
    ///     Ok(format!("Hello, {}!", session.user_id()))
    /// }
    /// # use poem_hanko::testing::{Person, TestHanko};
    /// # let hanko = TestHanko::start().await;
    /// # let ada = hanko.sign_in(&Person::default());
    /// # let greeting = greet(hanko.hanko(), ada.token()).await?;
    /// # assert_eq!(greeting, format!("Hello, {}!", ada.user_id()));
    /// # assert!(greet(hanko.hanko(), "no token").await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AuthenticateError::Token`] or [`AuthenticateError::SessionEnded`] if there is no such session. Any other error says
    /// why that is not known now.
    pub async fn authenticate(
        &self,
        token: impl AsRef<[u8]>,
    ) -> Result<Session, AuthenticateError> {
        self.authenticate_noting(token.as_ref(), None).await
    }

    /// Does the same as [`authenticate`](Self::authenticate), and notes the ids of the token.
    pub(crate) fn authenticate_noting(
        &self,
        token: &[u8],
        identified: Option<&Identified>,
    ) -> impl Future<Output = Result<Session, AuthenticateError>> {
        trace::authentication(self.authenticate_in_mode(token, identified), counted_as)
    }

    async fn authenticate_in_mode(
        &self,
        token: &[u8],
        identified: Option<&Identified>,
    ) -> Result<Session, AuthenticateError> {
        // Boxed, since few requests wait: the future of every other request carries no space for it.
        match self.cached(token, identified)? {
            Some(found) => match self.recall(&found) {
                Some(status) => status.accept(found.session),
                None => Box::pin(self.ask(found.session)).await,
            },
            None => Box::pin(self.authenticate_new(token, identified)).await,
        }
    }

    /// Authenticates a token that is not cached.
    async fn authenticate_new(
        &self,
        token: &[u8],
        identified: Option<&Identified>,
    ) -> Result<Session, AuthenticateError> {
        let found = self.verify(token, identified).await?;
        let status = self.recall(&found);
        // A token that is rejected every time would displace a useful one from the cache.
        if !matches!(status, Some(Status::Ended)) {
            self.remember(&found.session);
        }
        match status {
            Some(status) => status.accept(found.session),
            None => self.ask(found.session).await,
        }
    }

    /// Decides from memory whether the session is active; `None` if Hanko has to be asked.
    fn recall(&self, found: &Found) -> Option<Status> {
        (self.0.liveness).recall(&found.session, found.checked_at)
    }

    /// Waits for Hanko's answer about a session.
    async fn ask(&self, session: Session) -> Result<Session, AuthenticateError> {
        let outcome = self.0.liveness.wait(&session).await;
        self.check_again(session, outcome)
    }

    /// Authenticates a session token and asks Hanko whether the session is active now, in every
    /// [`SessionMode`](super::SessionMode) and whatever is cached. Only the response to a request that was sent after this
    /// call counts. For operations that cannot accept the delay of the session mode, such as a payment.
    ///
    /// ```
    /// use poem_hanko::{AuthenticateError, Hanko};
    ///
    /// async fn pay(hanko: &Hanko, token: &str) -> Result<String, AuthenticateError> {
    ///     let session = hanko.authenticate_live(token).await?;
    ///     Ok(format!("paid by {}", session.user_id()))
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`authenticate`](Self::authenticate), and [`AuthenticateError::Validation`] if Hanko does not respond.
    pub async fn authenticate_live(
        &self,
        token: impl AsRef<[u8]>,
    ) -> Result<Session, AuthenticateError> {
        self.authenticate_live_noting(token.as_ref(), None).await
    }

    /// Does the same as [`authenticate_live`](Self::authenticate_live), and notes the ids of the token.
    pub(crate) fn authenticate_live_noting(
        &self,
        token: &[u8],
        identified: Option<&Identified>,
    ) -> impl Future<Output = Result<Session, AuthenticateError>> {
        trace::authentication(self.ask_now(token, identified), counted_as)
    }

    async fn ask_now(
        &self,
        token: &[u8],
        identified: Option<&Identified>,
    ) -> Result<Session, AuthenticateError> {
        let session = match self.cached(token, identified)? {
            Some(found) => found.session,
            None => {
                let found = self.verify(token, identified).await?;
                self.remember(&found.session);
                found.session
            }
        };
        let outcome = self.0.liveness.ask_now(&session).await;
        self.check_again(session, outcome)
    }

    /// Caches the token of a session.
    fn remember(&self, session: &Session) {
        if let Some(cache) = &self.0.verified {
            cache.insert(session);
        }
    }

    /// Returns the session of a cached token; `None` if the token has to be verified.
    ///
    /// # Errors
    /// Those of a token that is too large or has expired, and of a session that was revoked.
    fn cached(
        &self,
        token: &[u8],
        identified: Option<&Identified>,
    ) -> Result<Option<Found>, AuthenticateError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge.into());
        }
        let Some(cache) = &self.0.verified else {
            return Ok(None);
        };
        let Some(session) = cache.get(token) else {
            self.0.counts.looked_up(CacheLookup::Miss);
            return Ok(None);
        };
        let now = self.0.moment();
        let holds = self.0.still_holds(session.verified(), now);
        self.0.counts.looked_up(if matches!(holds, Ok(true)) {
            CacheLookup::Hit
        } else {
            CacheLookup::Outdated
        });
        // Also for an expired token, but not if its key has been withdrawn.
        if let (Some(identified), Ok(true) | Err(_)) = (identified, holds) {
            identified.note_session(&session);
        }
        if !holds? {
            return Ok(None);
        }
        self.reject_revoked(&session)?;
        Ok(Some(Found {
            session,
            checked_at: now.monotonic,
        }))
    }

    /// Verifies a token, and rejects a session that was revoked.
    async fn verify(
        &self,
        token: &[u8],
        identified: Option<&Identified>,
    ) -> Result<Found, AuthenticateError> {
        let inner = &self.0;
        let text = std::str::from_utf8(token).map_err(|_| TokenError::NotCompact)?;
        let unverified = UnverifiedToken::parse(text)?;
        let payload = inner.verify_signature(unverified).await??;
        if let Some(identified) = identified {
            identified.note_payload(&payload);
        }
        let now = inner.moment();
        let verified = payload.validate(&inner.session_rules, now.unix)?;
        let session = Session::new(Arc::new(Authenticated::new(verified, inner)));
        self.reject_revoked(&session)?;
        Ok(Found {
            session,
            checked_at: now.monotonic,
        })
    }

    /// Applies Hanko's response about a session. Repeats the earlier checks, since their results may have changed meanwhile.
    fn check_again(
        &self,
        session: Session,
        outcome: Result<Status, ValidationError>,
    ) -> Result<Session, AuthenticateError> {
        let session = outcome?.accept(session)?;
        if !self.0.still_holds(session.verified(), self.0.moment())? {
            self.0.keys.current()?;
            return Err(TokenError::UnknownKey.into());
        }
        self.reject_revoked(&session)?;
        Ok(session)
    }

    fn reject_revoked(&self, session: &Session) -> Result<(), AuthenticateError> {
        if !self.knows_revocations() {
            return Err(AuthenticateError::RevocationsUnknown);
        }
        let revocations = &self.0.revocations;
        if revocations.is_revoked(session.id(), session.user_id(), session.issued_at()) {
            return Err(AuthenticateError::SessionEnded);
        }
        Ok(())
    }

    /// Receives the body of a webhook request of Hanko: verifies it and applies what it reports. When this is done, the
    /// sessions that it ends are rejected.
    ///
    /// A webhook that cannot be verified yet is held ([`Receipt::Held`]), because Hanko does not send it again.
    ///
    /// ```
    /// use poem_hanko::{Hanko, Receipt, WebhookError};
    ///
    /// async fn receive(hanko: &Hanko, body: &[u8]) -> Result<(), WebhookError> {
    ///     match hanko.receive_webhook(body).await? {
    ///         Receipt::Verified(event) => println!("{}: {}", event.kind(), event.id()),
    ///         Receipt::Held => println!("verified when the keys can be fetched"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`WebhookError`]
    pub async fn receive_webhook(&self, body: &[u8]) -> Result<Receipt, WebhookError> {
        webhook::receive(&self.0, Bytes::copy_from_slice(body), None).await
    }

    /// Receives the body of a webhook request from this client address, see [`receive_webhook`](Self::receive_webhook).
    /// If there is no room to hold more webhooks, those of the address that holds most are dropped.
    ///
    /// ```
    /// use std::net::IpAddr;
    ///
    /// use poem_hanko::{Hanko, WebhookError};
    ///
    /// async fn receive(hanko: &Hanko, body: &[u8], client: IpAddr) -> Result<(), WebhookError> {
    ///     let receipt = hanko.receive_webhook_from(body, client).await?;
    ///     println!("{receipt:?}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`WebhookError`]
    pub async fn receive_webhook_from(
        &self,
        body: &[u8],
        client: IpAddr,
    ) -> Result<Receipt, WebhookError> {
        webhook::receive(&self.0, Bytes::copy_from_slice(body), Some(client)).await
    }

    /// Does the same as [`receive_webhook_from`](Self::receive_webhook_from), without copying the body.
    pub(crate) async fn receive_webhook_bytes(
        &self,
        body: Bytes,
        client: Option<IpAddr>,
    ) -> Result<Receipt, WebhookError> {
        webhook::receive(&self.0, body, client).await
    }

    /// Counts and logs a webhook whose body cannot be read.
    pub(crate) fn reject_webhook_body(&self, reason: &'static str, detail: &'static str) {
        self.0.webhooks.reject(reason, detail);
    }

    /// Logs how many webhooks are lost if the process ends now; nothing if none is. Call it when no more requests are
    /// served. Without it, this is logged when the last clone is dropped, if that happens before the process ends.
    #[cfg(feature = "server")]
    pub(crate) fn report_lost(&self) {
        self.0.webhooks.report_lost();
    }

    /// Returns the counts of the requests that were authenticated.
    pub(crate) fn counts(&self) -> &AuthenticationCounts {
        &self.0.counts
    }

    /// Returns how many verified tokens are cached.
    #[cfg(feature = "server")]
    pub(crate) fn cached_tokens(&self) -> usize {
        self.0.verified.as_ref().map_or(0, TokenCache::len)
    }

    /// Returns the counts of the fetches of the keys.
    #[cfg(feature = "server")]
    pub(crate) fn fetch_counts(&self) -> &FetchCounts {
        self.0.keys.counts()
    }

    /// Returns how long the held keys are fresh; `None` if none are held.
    #[cfg(feature = "server")]
    pub(crate) fn key_set_lifetime(&self) -> Option<Duration> {
        self.0.keys.lifetime()
    }

    /// Returns the counts of the validation requests by outcome.
    #[cfg(feature = "server")]
    pub(crate) fn validation_counts(&self) -> &ValidationCounts {
        self.0.liveness.counts()
    }

    /// Returns the counts of the webhooks by event and outcome.
    #[cfg(feature = "server")]
    pub(crate) fn webhook_counts(&self) -> &WebhookCounts {
        self.0.webhooks.counts()
    }

    /// Returns when this process last had all revocations of the store, since 1970-01-01T00:00:00Z.
    #[cfg(feature = "server")]
    pub(crate) fn last_store_sync(&self) -> Option<Duration> {
        self.0.revocations.last_sync()
    }

    /// Returns the counts of the webhooks received so far.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).build()?;
    /// let webhooks = hanko.webhook_status();
    /// println!("{} accepted, {} rejected", webhooks.accepted, webhooks.rejected);
    /// # assert_eq!(webhooks.accepted, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn webhook_status(&self) -> WebhookStatus {
        self.0.webhooks.status()
    }

    /// Returns whether sessions can be authenticated: there are usable keys, and the revocations are known.
    ///
    /// ```
    /// use poem::{handler, http::StatusCode, web::Data};
    /// use poem_hanko::Hanko;
    ///
    /// #[handler]
    /// fn ready(hanko: Data<&Hanko>) -> StatusCode {
    ///     if hanko.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    /// }
    /// ```
    pub fn is_ready(&self) -> bool {
        self.0.keys.status().usable_keys > 0 && self.knows_revocations()
    }

    /// Returns whether all revocations made so far are known. Until then no session is accepted.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// // A store in memory is ready at once; Redis is not.
    /// let hanko = Hanko::builder(url).build()?;
    /// assert!(hanko.knows_revocations());
    /// # Ok(())
    /// # }
    /// ```
    pub fn knows_revocations(&self) -> bool {
        self.0.revocations.is_ready()
    }

    /// Returns whether the revocation store works.
    ///
    /// ```
    /// use poem_hanko::{Hanko, StoreStatus};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).build()?;
    /// if hanko.revocation_store_status() == StoreStatus::Unshared {
    ///     println!("run a single instance, or share the revocations through Redis");
    /// }
    /// # assert_eq!(hanko.revocation_store_status(), StoreStatus::Unshared);
    /// # Ok(())
    /// # }
    /// ```
    pub fn revocation_store_status(&self) -> StoreStatus {
        self.0.revocations.status()
    }

    /// Returns the number of revocations that are kept.
    ///
    /// ```
    /// use poem_hanko::testing::{Person, TestHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let test = TestHanko::start().await;
    /// let ada = test.sign_in(&Person::default());
    /// test.end_session(&ada).await?;
    /// assert_eq!(test.hanko().revocations(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn revocations(&self) -> usize {
        self.0.revocations.len()
    }

    /// Returns the URL of the Hanko API whose sessions are authenticated.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "https://hanko.example.com".parse()?;
    /// let hanko = Hanko::builder(url).build()?;
    /// assert_eq!(hanko.url().as_str(), "https://hanko.example.com/");
    /// # Ok(())
    /// # }
    /// ```
    pub fn url(&self) -> &HankoUrl {
        &self.0.url
    }

    /// Returns the state of the keys.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).build()?;
    /// let keys = hanko.key_set_status();
    /// println!("{} keys, fetched {:?} ago", keys.usable_keys, keys.age);
    /// # assert_eq!(keys.usable_keys, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn key_set_status(&self) -> KeySetStatus {
        self.0.keys.status()
    }

    /// Returns the counts of the validation requests sent to Hanko.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).build()?;
    /// let validations = hanko.validation_status();
    /// println!("{} ended, {} open", validations.validations, validations.in_flight);
    /// # assert_eq!(validations.validations, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn validation_status(&self) -> ValidationStatus {
        self.0.liveness.status()
    }

    /// Returns how sessions are validated.
    ///
    /// ```
    /// use poem_hanko::{Hanko, SessionMode};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).session_mode(SessionMode::Stateful).build()?;
    /// assert_eq!(hanko.session_policy().mode, SessionMode::Stateful);
    /// # Ok(())
    /// # }
    /// ```
    pub fn session_policy(&self) -> &SessionPolicy {
        self.0.liveness.policy()
    }

    /// Waits until `fetches` fetches of the JWK Set have ended since the start, whether they succeeded or failed.
    ///
    /// ```
    /// use poem_hanko::{Hanko, testing::LocalHanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let local_hanko = LocalHanko::builder().start().await?;
    /// let hanko = Hanko::builder(local_hanko.hanko_url()).build()?;
    /// hanko.wait_for_key_set_fetches(1).await;
    /// assert!(hanko.is_ready());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait_for_key_set_fetches(&self, fetches: u64) {
        self.0.keys.wait_for_fetches(fetches).await;
    }

    /// Removes the minimum intervals between fetches of the keys, for a clock that stands still.
    #[cfg(feature = "testing")]
    pub(crate) fn lift_limits(&self) {
        self.0.keys.lift_limits();
    }

    /// Returns whether a fetch of the keys or a validation request is in progress or due.
    #[cfg(feature = "testing")]
    pub(crate) fn is_busy(&self) -> bool {
        self.0.keys.is_busy() || self.0.liveness.status().in_flight > 0
    }

    /// Returns the rules that the registered claims of session tokens are validated by.
    #[cfg(feature = "server")]
    pub(crate) fn session_rules(&self) -> &ClaimsRules {
        &self.0.session_rules
    }

    /// Returns the name of the session cookie.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).build()?;
    /// assert_eq!(hanko.cookie_name(), "hanko");
    /// # Ok(())
    /// # }
    /// ```
    pub fn cookie_name(&self) -> &str {
        self.0.cookie_name.as_str()
    }

    /// Returns the values of the session cookies in a `Cookie` header, with the quotes that they may have.
    pub(crate) fn cookie_values<'a>(&'a self, header: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.0.cookie_name.values(header)
    }

    /// Returns the source of time.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// Returns the limiter of the log lines that clients can cause.
    pub(crate) fn sampler(&self) -> &Sampler {
        &self.0.sampler
    }

    /// Returns whether pages of this origin may send the cookie with requests that change something.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let app = "https://app.example.com";
    /// let hanko = Hanko::builder(url).trusted_origins([app.to_owned()]).build()?;
    /// assert!(hanko.trusts_origin(app));
    /// assert!(!hanko.trusts_origin("https://other.example.com"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn trusts_origin(&self, origin: &str) -> bool {
        self.0
            .trusted_origins
            .iter()
            .any(|trusted| trusted == origin)
            || (self.0.trusts_loopback_origins && is_loopback_origin(origin))
    }
}

impl Status {
    /// Returns the session if it is active.
    fn accept(self, session: Session) -> Result<Session, AuthenticateError> {
        match self {
            Self::Active => Ok(session),
            Self::Ended => Err(AuthenticateError::SessionEnded),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.streams.abandon();
        self.webhooks.report_lost();
    }
}

impl Inner {
    /// Returns why a session that was authenticated before has ended, as far as is known without asking Hanko.
    pub(super) fn end_of(&self, session: &Session) -> Option<EndReason> {
        if self
            .revocations
            .is_revoked(session.id(), session.user_id(), session.issued_at())
        {
            return Some(EndReason::Revoked);
        }
        match self.still_holds(session.verified(), self.moment()) {
            Err(_) => return Some(EndReason::Expired),
            Ok(false) if self.keys.current().is_ok() => return Some(EndReason::KeyWithdrawn),
            Ok(false) => return Some(EndReason::Unverifiable),
            Ok(true) => {}
        }
        self.liveness
            .is_found_ended(session.id())
            .then_some(EndReason::FoundEnded)
    }

    pub(super) fn now(&self) -> NumericDate {
        NumericDate::from(self.clock.unix_time())
    }

    fn moment(&self) -> Moment {
        Moment {
            unix: self.now(),
            monotonic: self.clock.monotonic(),
        }
    }

    /// Returns whether the key that signed a verified token is still in the current set. Withdrawing a key also withdraws
    /// every token that it has signed.
    ///
    /// # Errors
    /// [`TokenError`] if the token has expired since.
    fn still_holds(
        &self,
        verified: &Verified<SessionClaims>,
        now: Moment,
    ) -> Result<bool, TokenError> {
        if !self.keys.holds(verified.signed_by(), now.monotonic) {
            return Ok(false);
        }
        verified
            .registered()
            .check_times(now.unix, self.session_rules.leeway)?;
        Ok(true)
    }

    async fn verify_signature<'a>(
        &self,
        token: UnverifiedToken<'a>,
    ) -> Result<Result<SignedPayload<'a>, TokenError>, KeySetError> {
        let key_set = self.keys.with_key(token.kid()).await?;
        Ok(token.verify_signature(&key_set))
    }
}
