//! From a session token to a session: the one place where the steps are put in order.

use std::{
    fmt::{self, Display},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use super::{
    claims::SessionClaims,
    http_client::{HttpClientError, http_client},
    liveness::{
        Liveness, SessionMode, SessionPolicy, SessionPolicyError, Status, ValidationError,
        ValidationStatus,
    },
    origin::is_loopback_origin,
    revocation::{MemoryStore, RevocationStore, StoreStatus},
    session::{Authenticated, Session},
    streams::{EndReason, Streams},
    token_cache::TokenCache,
    url::HankoUrl,
    webhook::{self, Event, Listener, Queue, Receipt, WebhookError, WebhookStatus, Webhooks},
};
use crate::{
    clock::{Clock, SystemClock},
    jose::{
        ClaimsRules, MAX_TOKEN_BYTES, NumericDate, SignedPayload, TokenError, UnverifiedToken,
        Verified,
    },
    keys::{FetchPolicy, KeySetError, KeySetStatus, RemoteKeySet},
    sampling::Sampler,
};

/// The name of Hanko's session cookie, unless the operator has changed it.
pub const DEFAULT_COOKIE_NAME: &str = "hanko";
/// The allowed clock skew between Hanko and us.
pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
/// How many verified tokens are remembered.
pub const DEFAULT_TOKEN_CACHE_CAPACITY: usize = 10_000;
/// After this time it is worth asking again where Hanko or the revocation store did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// The token is not that of a session. Sending it again will not help.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The session has ended, though its token has not expired.
    #[error("the session has ended")]
    SessionEnded,
    /// There are no keys to verify the token with.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    /// Hanko did not say whether the session is alive.
    #[error(transparent)]
    Validation(#[from] ValidationError),
    /// The revocation store has not told yet which sessions have ended.
    #[error("the revocations are not known yet")]
    RevocationsUnknown,
}

impl AuthenticateError {
    /// After which time it may be worth trying again; `None` where trying again will not help.
    ///
    /// Where this is `Some`, whether the token is good cannot be known now. Nothing is let in for that reason.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Token(_) | Self::SessionEnded => None,
            Self::KeySet(error) => Some(error.retry_after),
            Self::Validation(_) | Self::RevocationsUnknown => Some(RETRY_AFTER),
        }
    }
}

/// Authenticates the sessions of one Hanko tenant. Clones share their keys.
///
/// ```no_run
/// # async fn example(token: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use poem_hanko::{Hanko, HankoUrl};
///
/// let tenant = HankoUrl::parse("https://f4ee0000-0000-4000-8000-000000000000.hanko.io", Default::default())?;
/// let hanko = Hanko::builder(tenant).build()?;
/// let session = hanko.authenticate(token).await?;
/// println!("{} is here", session.user_id());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Hanko(Arc<Inner>);

pub(super) struct Inner {
    tenant: HankoUrl,
    pub(super) keys: Arc<RemoteKeySet>,
    pub(super) session_rules: ClaimsRules,
    verified: Option<TokenCache>,
    pub(super) revocations: Arc<dyn RevocationStore>,
    pub(super) liveness: Liveness,
    pub(super) streams: Arc<Streams>,
    pub(super) webhooks: Webhooks,
    pub(super) clock: Arc<dyn Clock>,
    cookie_name: String,
    trusted_origins: Vec<String>,
    trusts_loopback_origins: bool,
    sampler: Sampler,
}

impl fmt::Debug for Hanko {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Hanko")
            .field("tenant", &self.0.tenant)
            .field("keys", &self.0.keys)
            .finish_non_exhaustive()
    }
}

impl Hanko {
    /// Sets out to authenticate the sessions of `tenant`, with the defaults of the README's configuration table.
    pub fn builder(tenant: HankoUrl) -> HankoBuilder {
        HankoBuilder {
            tenant,
            rules: ClaimsRules {
                leeway: DEFAULT_LEEWAY,
                ..ClaimsRules::default()
            },
            fetch_policy: FetchPolicy::default(),
            token_cache_capacity: DEFAULT_TOKEN_CACHE_CAPACITY,
            session_policy: SessionPolicy::default(),
            revocation_store: None,
            listeners: Vec::new(),
            clock: Arc::new(SystemClock::new()),
            cookie_name: DEFAULT_COOKIE_NAME.to_owned(),
            trusted_origins: Vec::new(),
            trusts_loopback_origins: false,
        }
    }

    /// Authenticates a session token, as text or as the bytes that were sent.
    ///
    /// # Errors
    /// [`AuthenticateError::Token`] or [`AuthenticateError::SessionEnded`] if there is no such session, otherwise the
    /// reason why that cannot be known now.
    pub async fn authenticate(
        &self,
        token: impl AsRef<[u8]>,
    ) -> Result<Session, AuthenticateError> {
        let session = self.verify(token.as_ref()).await?;
        match self.0.liveness.recall(&session) {
            Some(Status::Active) => Ok(session),
            Some(Status::Ended) => Err(AuthenticateError::SessionEnded),
            // Boxed, as is all that few requests need, so that the future of every other request has no space for it.
            None => {
                Box::pin(async {
                    let outcome = self.0.liveness.wait(&session).await;
                    self.check_again(session, outcome)
                })
                .await
            }
        }
    }

    /// Authenticates a session token and asks Hanko whether the session is active now, whatever is known of it, in every
    /// [`SessionMode`]. Only Hanko's answer to a request that was sent after this call counts. For operations where the
    /// delay of the session mode is too long, such as a payment.
    ///
    /// # Errors
    /// Those of [`authenticate`](Self::authenticate); without an answer of Hanko, [`AuthenticateError::Validation`].
    pub async fn authenticate_live(
        &self,
        token: impl AsRef<[u8]>,
    ) -> Result<Session, AuthenticateError> {
        let session = self.verify(token.as_ref()).await?;
        let outcome = self.0.liveness.ask_now(&session).await;
        self.check_again(session, outcome)
    }

    /// Verifies a token, or finds that it was verified before, and rejects a session that was revoked.
    async fn verify(&self, token: &[u8]) -> Result<Session, AuthenticateError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge.into());
        }
        let session = match self.cached(token)? {
            Some(session) => session,
            None => Box::pin(self.verify_session_token(token)).await?,
        };
        self.refuse_revoked(&session)?;
        Ok(session)
    }

    /// The session of a token that was verified before, if that still holds.
    fn cached(&self, token: &[u8]) -> Result<Option<Session>, TokenError> {
        let cache = self.0.verified.as_ref();
        match cache.and_then(|cache| cache.get(token)) {
            Some(session) if self.0.still_holds(session.verified())? => Ok(Some(session)),
            _ => Ok(None),
        }
    }

    async fn verify_session_token(&self, token: &[u8]) -> Result<Session, AuthenticateError> {
        let inner = &self.0;
        let text = std::str::from_utf8(token).map_err(|_| TokenError::NotCompact)?;
        let unverified = UnverifiedToken::parse(text)?;
        let payload = inner.verify_signature(unverified).await??;
        let verified = payload.validate(&inner.session_rules, inner.now())?;
        let session = Session::new(Arc::new(Authenticated::new(verified, text, inner)));
        if let Some(cache) = &inner.verified {
            cache.insert(&session);
        }
        Ok(session)
    }

    /// Takes Hanko's answer about a session. While it was on its way, any of what was checked before may have changed.
    fn check_again(
        &self,
        session: Session,
        outcome: Result<Status, ValidationError>,
    ) -> Result<Session, AuthenticateError> {
        match outcome? {
            Status::Active => {}
            Status::Ended => return Err(AuthenticateError::SessionEnded),
        }
        if !self.0.still_holds(session.verified())? {
            self.0.keys.current()?;
            return Err(TokenError::UnknownKey.into());
        }
        self.refuse_revoked(&session)?;
        Ok(session)
    }

    fn refuse_revoked(&self, session: &Session) -> Result<(), AuthenticateError> {
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
    /// # Errors
    /// [`WebhookError`]
    pub async fn receive_webhook(&self, body: &[u8]) -> Result<Receipt, WebhookError> {
        webhook::receive(&self.0, body, None).await
    }

    /// Receives the body of a webhook request from this client address, see [`receive_webhook`](Self::receive_webhook).
    /// If there is no room to hold more webhooks, those of the address that holds most are dropped.
    ///
    /// # Errors
    /// [`WebhookError`]
    pub async fn receive_webhook_from(
        &self,
        body: &[u8],
        client: IpAddr,
    ) -> Result<Receipt, WebhookError> {
        webhook::receive(&self.0, body, Some(client)).await
    }

    /// Counts and logs a webhook whose body cannot be read.
    pub(crate) fn reject_webhook_body(&self, reason: &'static str) {
        self.0.webhooks.reject(&reason);
    }

    /// How the webhooks so far have gone.
    pub fn webhook_status(&self) -> WebhookStatus {
        self.0.webhooks.status()
    }

    /// Whether sessions can be authenticated: usable keys are held, and the revocations are known.
    pub fn is_ready(&self) -> bool {
        self.0.keys.status().usable_keys > 0 && self.knows_revocations()
    }

    /// Whether all revocations made so far are known. While they are not, no session is let in.
    pub fn knows_revocations(&self) -> bool {
        self.0.revocations.is_ready()
    }

    /// Whether the revocation store works.
    pub fn revocation_store_status(&self) -> StoreStatus {
        self.0.revocations.status()
    }

    /// How many revocations are remembered.
    pub fn revocations(&self) -> usize {
        self.0.revocations.len()
    }

    /// Whose sessions are authenticated.
    pub fn tenant(&self) -> &HankoUrl {
        &self.0.tenant
    }

    /// The state of the keys.
    pub fn key_set_status(&self) -> KeySetStatus {
        self.0.keys.status()
    }

    /// How validation requests about sessions have gone.
    pub fn validation_status(&self) -> ValidationStatus {
        self.0.liveness.status()
    }

    /// How sessions are validated.
    pub fn session_policy(&self) -> &SessionPolicy {
        self.0.liveness.policy()
    }

    /// Waits until the JWK Set was fetched, well or badly, `fetches` times in all.
    pub async fn wait_for_key_set_fetches(&self, fetches: u64) {
        self.0.keys.wait_for_fetches(fetches).await;
    }

    /// Prepares for a clock that stands still: waits for no limit of the fetches of the keys.
    #[cfg(feature = "testing")]
    pub(crate) fn lift_limits(&self) {
        self.0.keys.lift_limits();
    }

    /// Returns whether a fetch of the keys or a validation request is in progress or due.
    #[cfg(feature = "testing")]
    pub(crate) fn is_busy(&self) -> bool {
        self.0.keys.is_busy() || self.0.liveness.status().in_flight > 0
    }

    /// The name of the session cookie.
    pub fn cookie_name(&self) -> &str {
        &self.0.cookie_name
    }

    /// What logs lines that clients can cause.
    pub(crate) fn sampler(&self) -> &Sampler {
        &self.0.sampler
    }

    /// Whether pages of this origin may use the cookie for requests that change something.
    pub fn trusts_origin(&self, origin: &str) -> bool {
        self.0
            .trusted_origins
            .iter()
            .any(|trusted| trusted == origin)
            || (self.0.trusts_loopback_origins && is_loopback_origin(origin))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.streams.abandon();
    }
}

impl Inner {
    /// Why a session that was authenticated before has ended, as far as is known without asking Hanko.
    pub(super) fn end_of(&self, session: &Session) -> Option<EndReason> {
        if self
            .revocations
            .is_revoked(session.id(), session.user_id(), session.issued_at())
        {
            return Some(EndReason::Revoked);
        }
        match self.still_holds(session.verified()) {
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

    /// Whether what was verified before is still signed by a key of the current set. A key that has left the set proves
    /// nothing any more, not even what it proved before.
    ///
    /// # Errors
    /// [`TokenError`] where the token's time has passed since.
    fn still_holds(&self, verified: &Verified<SessionClaims>) -> Result<bool, TokenError> {
        if !self.keys.holds(verified.signed_by()) {
            return Ok(false);
        }
        verified
            .registered()
            .check_times(self.now(), self.session_rules.leeway)?;
        Ok(true)
    }

    async fn verify_signature(
        &self,
        token: UnverifiedToken<'_>,
    ) -> Result<Result<SignedPayload, TokenError>, KeySetError> {
        let key_set = self.keys.with_key(token.kid()).await?;
        Ok(token.verify_signature(&key_set))
    }
}

/// A [`Hanko`] that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no HTTP client to call Hanko with.
    #[error(transparent)]
    Client(#[from] HttpClientError),
    /// The session policy contradicts itself.
    #[error(transparent)]
    SessionPolicy(#[from] SessionPolicyError),
}

/// Makes a [`Hanko`].
#[derive(Clone)]
#[must_use]
pub struct HankoBuilder {
    tenant: HankoUrl,
    rules: ClaimsRules,
    fetch_policy: FetchPolicy,
    token_cache_capacity: usize,
    session_policy: SessionPolicy,
    revocation_store: Option<Arc<dyn RevocationStore>>,
    listeners: Vec<Listener>,
    clock: Arc<dyn Clock>,
    cookie_name: String,
    trusted_origins: Vec<String>,
    trusts_loopback_origins: bool,
}

impl HankoBuilder {
    /// `aud` must contain one of these. Default: not looked at.
    pub fn audiences(mut self, audiences: impl IntoIterator<Item = String>) -> Self {
        self.rules.audiences = audiences.into_iter().collect();
        self
    }

    /// `iss` must equal this. Default: not looked at.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.rules.issuer = Some(issuer.into());
        self
    }

    /// The allowed clock skew for `exp`, `nbf` and `iat`. Default: [`DEFAULT_LEEWAY`].
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.rules.leeway = leeway;
        self
    }

    /// How the JWK Set is fetched.
    pub fn fetch_policy(mut self, fetch_policy: FetchPolicy) -> Self {
        self.fetch_policy = fetch_policy;
        self
    }

    /// How many verified tokens are remembered; 0 verifies every token anew. Default:
    /// [`DEFAULT_TOKEN_CACHE_CAPACITY`].
    pub fn token_cache_capacity(mut self, capacity: usize) -> Self {
        self.token_cache_capacity = capacity;
        self
    }

    /// How the end of a session is noticed. Default: [`SessionMode::Hybrid`].
    pub fn session_mode(mut self, session_mode: SessionMode) -> Self {
        self.session_policy.mode = session_mode;
        self
    }

    /// How sessions are validated at Hanko. Default: [`SessionPolicy::default`].
    pub fn session_policy(mut self, session_policy: SessionPolicy) -> Self {
        self.session_policy = session_policy;
        self
    }

    /// Where revocations are kept. Default: a [`MemoryStore`].
    pub fn revocation_store(mut self, store: Arc<dyn RevocationStore>) -> Self {
        self.revocation_store = Some(store);
        self
    }

    /// Passes every verified event to `listener`, at least once while the process runs. Hanko does not wait for it.
    ///
    /// Up to 1,000 events are queued. One whose listener fails, panics or takes longer than 30 s is retried for 10 minutes,
    /// beside those that follow it; then it is given up, which is logged. Use [`Event::id`] to recognise an event that comes
    /// again. A further call adds a further listener.
    pub fn on_event<F, Fut, E>(mut self, listener: F) -> Self
    where
        F: Fn(Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.listeners.push(Listener::new(listener));
        self
    }

    /// The name of the session cookie. Default: [`DEFAULT_COOKIE_NAME`].
    pub fn cookie_name(mut self, cookie_name: impl Into<String>) -> Self {
        self.cookie_name = cookie_name.into();
        self
    }

    /// The origins, such as `https://app.example`, whose pages may use the cookie for requests that change something,
    /// beside pages of the API's own origin. Default: none.
    pub fn trusted_origins(mut self, origins: impl IntoIterator<Item = String>) -> Self {
        self.trusted_origins = origins.into_iter().collect();
        self
    }

    /// Trusts pages of every `http` origin on this machine as well (`localhost`, `127.0.0.1`, `[::1]`, any port), for
    /// development. Default: false.
    pub fn trust_loopback_origins(mut self, trust: bool) -> Self {
        self.trusts_loopback_origins = trust;
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Starts to fetch the keys, without waiting for them. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BuildError`]
    pub fn build(self) -> Result<Hanko, BuildError> {
        self.session_policy.validate()?;
        let client = http_client(&self.tenant)?;
        let clock = self.clock;
        let sampler = Sampler::new(Arc::clone(&clock));
        let keys = Arc::new(RemoteKeySet::start(
            self.tenant.jwks_url(),
            client.clone(),
            self.fetch_policy,
            Arc::clone(&clock),
        ));
        let revocations = self
            .revocation_store
            .unwrap_or_else(|| Arc::new(MemoryStore::new(Arc::clone(&clock))));
        let streams = Arc::new(Streams::default());
        let liveness = Liveness::new(
            self.session_policy,
            self.tenant.validate_session_url(),
            client,
            Arc::clone(&keys),
            Arc::clone(&revocations),
            Arc::clone(&streams),
            Arc::clone(&clock),
        );
        let capacity = self.token_cache_capacity;
        // Hanko puts no issuer into its webhook tokens.
        let webhook_rules = ClaimsRules {
            issuer: None,
            ..self.rules.clone()
        };
        let counters = Arc::new(webhook::Counters::default());
        let queues = self
            .listeners
            .into_iter()
            .map(|listener| {
                Queue::start(
                    listener,
                    Arc::clone(&clock),
                    Arc::clone(&counters),
                    sampler.clone(),
                )
            })
            .collect();
        let webhooks = Webhooks::new(webhook_rules, queues, counters, sampler.clone());
        Ok(Hanko(Arc::new(Inner {
            tenant: self.tenant,
            keys,
            session_rules: self.rules,
            verified: (capacity > 0).then(|| TokenCache::new(capacity)),
            revocations,
            liveness,
            streams,
            webhooks,
            clock,
            cookie_name: self.cookie_name,
            trusted_origins: self.trusted_origins,
            trusts_loopback_origins: self.trusts_loopback_origins,
            sampler,
        })))
    }
}
