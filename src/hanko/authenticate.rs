//! From a session token to a session: the one place where the steps are put in order.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use quick_cache::sync::Cache;

use super::{
    claims::SessionClaims,
    http_client::{HttpClientError, http_client},
    origin::is_loopback_origin,
    revocation::{MemoryStore, RevocationStore, StoreUnavailable},
    session::Session,
    tenant::Tenant,
    validation::{Status, ValidationError, Validator},
    webhook::{Event, MAX_WEBHOOK_TOKEN_BYTES, WebhookBody, WebhookClaims},
};
use crate::{
    clock::{Clock, SystemClock},
    jose::{
        ClaimsRules, FetchPolicy, KeySetError, KeySetStatus, MAX_TOKEN_BYTES, NumericDate,
        RemoteKeySet, SignedPayload, TokenError, UnverifiedToken, Verified,
    },
    sampling::Sampler,
};

/// The name of Hanko's session cookie, unless the operator has changed it.
pub const DEFAULT_COOKIE_NAME: &str = "hanko";
/// The allowed clock skew between Hanko and us.
pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
/// How many verified tokens are remembered.
pub const DEFAULT_TOKEN_CACHE_CAPACITY: usize = 10_000;
/// How long Hanko may take to say whether a session is alive.
const DEFAULT_VALIDATION_TIMEOUT: Duration = Duration::from_secs(5);
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

/// Why a webhook was not accepted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// Not a JSON object `{"token": …, "event": …}`.
    #[error("the body is not that of a Hanko webhook")]
    Malformed,
    /// The token is not that of this event.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// There are no keys to verify the token with.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    /// The revocation was not stored.
    #[error(transparent)]
    Store(#[from] StoreUnavailable),
}

impl WebhookError {
    /// After which time it may be worth trying again; `None` where trying again will not help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Malformed | Self::Token(_) => None,
            Self::KeySet(error) => Some(error.retry_after),
            Self::Store(_) => Some(RETRY_AFTER),
        }
    }
}

/// How it is known that a session has not ended before its token expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionMode {
    /// By the revocations that Hanko tells by webhook.
    #[default]
    Stateless,
    /// By these, and by asking Hanko.
    Stateful {
        /// How long an answer may be reused. Zero asks every time.
        time_to_live: Duration,
    },
}

/// The SHA-256 of a whole token.
type TokenDigest = [u8; 32];

/// What was verified. Only verified tokens enter.
type TokenCache = Cache<TokenDigest, Arc<Verified<SessionClaims>>>;

/// Where a token is remembered, or would be.
type CachePlace<'a> = (&'a TokenCache, TokenDigest);

/// What is called with every event that Hanko tells by webhook.
type EventListener = Arc<dyn Fn(&Event) + Send + Sync>;

/// Authenticates the sessions of one Hanko tenant. Clones share their keys.
///
/// ```no_run
/// # async fn example(token: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use poem_hanko::{Hanko, Tenant};
///
/// let tenant = Tenant::parse("https://f4ee0000-0000-4000-8000-000000000000.hanko.io", Default::default())?;
/// let hanko = Hanko::builder(tenant).build()?;
/// let session = hanko.authenticate(token).await?;
/// println!("{} is here", session.user_id());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Hanko(Arc<Inner>);

struct Inner {
    tenant: Tenant,
    keys: RemoteKeySet,
    session_rules: ClaimsRules,
    webhook_rules: ClaimsRules,
    verified: Option<TokenCache>,
    revocations: Arc<dyn RevocationStore>,
    validator: Option<Validator>,
    listener: Option<EventListener>,
    clock: Arc<dyn Clock>,
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
    pub fn builder(tenant: Tenant) -> HankoBuilder {
        HankoBuilder {
            tenant,
            rules: ClaimsRules {
                leeway: DEFAULT_LEEWAY,
                ..ClaimsRules::default()
            },
            fetch_policy: FetchPolicy::default(),
            token_cache_capacity: DEFAULT_TOKEN_CACHE_CAPACITY,
            session_mode: SessionMode::default(),
            validation_timeout: DEFAULT_VALIDATION_TIMEOUT,
            revocation_store: None,
            listener: None,
            clock: Arc::new(SystemClock::new()),
            cookie_name: DEFAULT_COOKIE_NAME.to_owned(),
            trusted_origins: Vec::new(),
            trusts_loopback_origins: false,
        }
    }

    /// Authenticates a session token, as text or as the octets that were sent.
    ///
    /// # Errors
    /// [`AuthenticateError::Token`] or [`AuthenticateError::SessionEnded`] where there is no such session, else the
    /// reason why that cannot be known now.
    pub async fn authenticate(
        &self,
        token: impl AsRef<[u8]>,
    ) -> Result<Session, AuthenticateError> {
        let token = token.as_ref();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge.into());
        }
        let place = self.0.verified.as_ref().map(|cache| (cache, sha256(token)));
        let session = match self.remembered(place)? {
            Some(session) => session,
            // In a box, as is all that few requests need: else its future would be part of that of every request.
            None => Box::pin(self.verify_session_token(token, place)).await?,
        };
        self.refuse_revoked(&session)?;
        if let Some(validator) = &self.0.validator {
            Box::pin(self.confirm(&session, validator, token)).await?;
        }
        Ok(session)
    }

    /// The session of a token that was verified before, if it still holds.
    fn remembered(&self, place: Option<CachePlace<'_>>) -> Result<Option<Session>, TokenError> {
        match place.and_then(|(cache, digest)| cache.get(&digest)) {
            Some(verified) if self.0.still_holds(&verified)? => Ok(Some(Session::new(verified))),
            _ => Ok(None),
        }
    }

    async fn verify_session_token(
        &self,
        token: &[u8],
        place: Option<CachePlace<'_>>,
    ) -> Result<Session, AuthenticateError> {
        let inner = &*self.0;
        let token = UnverifiedToken::parse(text(token)?)?;
        let payload = inner.verify_signature(token).await??;
        let verified = Arc::new(payload.validate(&inner.session_rules, inner.now())?);
        if let Some((cache, digest)) = place {
            cache.insert(digest, Arc::clone(&verified));
        }
        Ok(Session::new(verified))
    }

    /// Asks Hanko whether the session is alive.
    async fn confirm(
        &self,
        session: &Session,
        validator: &Validator,
        token: &[u8],
    ) -> Result<(), AuthenticateError> {
        match validator.status(session.id(), text(token)?).await? {
            Status::Alive => {}
            Status::Ended => return Err(AuthenticateError::SessionEnded),
        }
        // While Hanko's answer was on its way, any of what was checked before may have changed.
        if !self.0.still_holds(session.verified())? {
            self.0.keys.current()?;
            return Err(TokenError::UnknownKey.into());
        }
        self.refuse_revoked(session)
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

    /// Takes the body of a webhook request of Hanko: verifies it, and remembers which sessions have ended by it. When this
    /// is done, they are refused.
    ///
    /// # Errors
    /// [`WebhookError`]
    pub async fn receive_webhook(&self, body: &[u8]) -> Result<Event, WebhookError> {
        let inner = &*self.0;
        let body = WebhookBody::parse(body).ok_or(WebhookError::Malformed)?;
        let token = UnverifiedToken::parse_within(&body.token, MAX_WEBHOOK_TOKEN_BYTES)?;
        let payload = inner.verify_signature(token).await?;
        let verified: Verified<WebhookClaims> =
            payload?.validate(&inner.webhook_rules, inner.now())?;
        let event = Event::from_verified(&verified, &body.event)?;
        match event.revocation(inner.session_rules.leeway) {
            Ok(Some(revocation)) => inner.revocations.revoke(revocation).await?,
            Ok(None) => {}
            // Hanko has signed it and would send the same again.
            Err(()) => {
                tracing::error!(event = %event.kind(), "an event does not tell what has ended");
            }
        }
        tracing::info!(event = %event.kind(), id = event.subject_id().map(tracing::field::display), "Hanko told of an event");
        if let Some(listener) = &inner.listener {
            listener(&event);
        }
        Ok(event)
    }

    /// Whether sessions can be authenticated: usable keys are held, and the revocations are known.
    pub fn is_ready(&self) -> bool {
        self.0.keys.status().usable_keys > 0 && self.knows_revocations()
    }

    /// Whether all revocations made so far are known. While they are not, no session is let in.
    pub fn knows_revocations(&self) -> bool {
        self.0.revocations.is_ready()
    }

    /// How many revocations are remembered.
    pub fn revocations(&self) -> usize {
        self.0.revocations.len()
    }

    /// Whose sessions are authenticated.
    pub fn tenant(&self) -> &Tenant {
        &self.0.tenant
    }

    /// The state of the keys.
    pub fn key_set_status(&self) -> KeySetStatus {
        self.0.keys.status()
    }

    /// Waits until the JWK Set was fetched, well or badly, `fetches` times in all.
    pub async fn wait_for_key_set_fetches(&self, fetches: u64) {
        self.0.keys.wait_for_fetches(fetches).await;
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

impl Inner {
    fn now(&self) -> NumericDate {
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
}

/// Makes a [`Hanko`].
#[derive(Clone)]
#[must_use]
pub struct HankoBuilder {
    tenant: Tenant,
    rules: ClaimsRules,
    fetch_policy: FetchPolicy,
    token_cache_capacity: usize,
    session_mode: SessionMode,
    validation_timeout: Duration,
    revocation_store: Option<Arc<dyn RevocationStore>>,
    listener: Option<EventListener>,
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

    /// How it is known that a session has not ended. Default: [`SessionMode::Stateless`].
    pub fn session_mode(mut self, session_mode: SessionMode) -> Self {
        self.session_mode = session_mode;
        self
    }

    /// How long Hanko may take to say whether a session is alive. Default: 5 s.
    pub fn validation_timeout(mut self, timeout: Duration) -> Self {
        self.validation_timeout = timeout;
        self
    }

    /// Where revocations are kept. Default: a [`MemoryStore`].
    pub fn revocation_store(mut self, store: Arc<dyn RevocationStore>) -> Self {
        self.revocation_store = Some(store);
        self
    }

    /// Calls `listener` with every event that Hanko tells by webhook, after what follows from it was done and before
    /// Hanko gets its answer. It should be quick: Hanko waits.
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
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
        let client = http_client(&self.tenant)?;
        let clock = self.clock;
        let sampler = Sampler::new(Arc::clone(&clock));
        let keys = RemoteKeySet::start(
            self.tenant.jwks_url(),
            client.clone(),
            self.fetch_policy,
            Arc::clone(&clock),
        );
        let capacity = self.token_cache_capacity;
        let validator = match self.session_mode {
            SessionMode::Stateless => None,
            SessionMode::Stateful { time_to_live } => Some(Validator::new(
                self.tenant.validate_session_url(),
                client,
                Arc::clone(&clock),
                self.validation_timeout,
                time_to_live,
                capacity.max(DEFAULT_TOKEN_CACHE_CAPACITY),
            )),
        };
        // Hanko puts no issuer into its webhook tokens.
        let webhook_rules = ClaimsRules {
            issuer: None,
            ..self.rules.clone()
        };
        Ok(Hanko(Arc::new(Inner {
            tenant: self.tenant,
            keys,
            session_rules: self.rules,
            webhook_rules,
            verified: (capacity > 0).then(|| Cache::new(capacity)),
            revocations: self
                .revocation_store
                .unwrap_or_else(|| Arc::new(MemoryStore::new(Arc::clone(&clock)))),
            validator,
            listener: self.listener,
            clock,
            cookie_name: self.cookie_name,
            trusted_origins: self.trusted_origins,
            trusts_loopback_origins: self.trusts_loopback_origins,
            sampler,
        })))
    }
}

fn sha256(token: &[u8]) -> TokenDigest {
    digest::digest(&digest::SHA256, token)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 octets")
}

/// A token as text. What is no text is no token.
fn text(token: &[u8]) -> Result<&str, TokenError> {
    std::str::from_utf8(token).map_err(|_| TokenError::NotCompact)
}
