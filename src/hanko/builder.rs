//! The settings of a `Hanko`, and how it is built from them.

use std::{
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use tokio::runtime::Handle;

use super::{
    authenticate::{Hanko, Inner},
    cookie_name::CookieName,
    error::BuildError,
    http_client::http_client,
    liveness::{Liveness, SessionMode, SessionPolicy},
    revocation::{MemoryStore, RevocationStore},
    streams::Streams,
    token_cache::TokenCache,
    url::HankoUrl,
    webhook::{self, Event, Listener, Queue, Webhooks},
};
use crate::{
    clock::{Clock, SystemClock},
    jose::ClaimsRules,
    keys::{FetchPolicy, MAX_WAITING, RemoteKeySet},
    metrics::AuthenticationCounts,
    sampling::Sampler,
};

/// The default name of Hanko's session cookie.
pub const DEFAULT_COOKIE_NAME: &str = "hanko";
/// The default of the allowed clock skew between Hanko and this process.
pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
/// The default number of verified tokens that are cached.
pub const DEFAULT_TOKEN_CACHE_CAPACITY: usize = 10_000;

/// Configures and builds a [`Hanko`].
///
/// ```
/// use poem_hanko::{Hanko, HankoUrl, SessionMode};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url: HankoUrl = "https://hanko.example.com".parse()?;
/// let hanko = Hanko::builder(url)
///     .audiences(["acme-api".to_owned()])
///     .issuer("https://hanko.example.com")
///     .trusted_origins(["https://app.example.com".to_owned()])
///     .session_mode(SessionMode::Stateful)
///     .build()?;
/// # assert_eq!(hanko.cookie_name(), "hanko");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct HankoBuilder {
    url: HankoUrl,
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
    max_waiting: usize,
}

impl HankoBuilder {
    pub(super) fn new(url: HankoUrl) -> Self {
        Self {
            url,
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
            max_waiting: MAX_WAITING,
        }
    }

    /// Sets the accepted audiences: `aud` must contain one of them. Default: `aud` is not checked.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// // By default, the audience of Hanko's tokens is the id of the WebAuthn relying party.
    /// let hanko = Hanko::builder(url).audiences(["app.example.com".to_owned()]).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn audiences(mut self, audiences: impl IntoIterator<Item = String>) -> Self {
        self.rules.audiences = audiences.into_iter().collect();
        self
    }

    /// Sets the issuer: `iss` must equal it. Default: `iss` is not checked.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// // The value of `session.issuer` in the configuration of Hanko.
    /// let hanko = Hanko::builder(url).issuer("https://hanko.example.com").build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.rules.issuer = Some(issuer.into());
        self
    }

    /// Sets the allowed clock skew for `exp`, `nbf` and `iat`. Default: [`DEFAULT_LEEWAY`].
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).leeway(Duration::from_secs(5)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.rules.leeway = leeway;
        self
    }

    /// Sets how the JWK Set is fetched. Default: [`FetchPolicy::default`].
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::{FetchPolicy, Hanko};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let mut policy = FetchPolicy::default();
    /// policy.timeout = Duration::from_secs(2);
    /// let hanko = Hanko::builder(url).fetch_policy(policy).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn fetch_policy(mut self, fetch_policy: FetchPolicy) -> Self {
        self.fetch_policy = fetch_policy;
        self
    }

    /// Sets how many verified tokens are cached; 0 verifies the token of every request. Default:
    /// [`DEFAULT_TOKEN_CACHE_CAPACITY`].
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).token_cache_capacity(100_000).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn token_cache_capacity(mut self, capacity: usize) -> Self {
        self.token_cache_capacity = capacity;
        self
    }

    /// Sets how the end of a session is noticed. Default: [`SessionMode::Hybrid`].
    ///
    /// ```
    /// use poem_hanko::{Hanko, SessionMode};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).session_mode(SessionMode::Stateless).build()?;
    /// assert_eq!(hanko.session_policy().mode, SessionMode::Stateless);
    /// # Ok(())
    /// # }
    /// ```
    pub fn session_mode(mut self, session_mode: SessionMode) -> Self {
        self.session_policy.mode = session_mode;
        self
    }

    /// Sets how sessions are validated at Hanko. Default: [`SessionPolicy::default`].
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::{Hanko, SessionPolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let mut policy = SessionPolicy::default();
    /// policy.cache_ttl = Duration::from_secs(10);
    /// let hanko = Hanko::builder(url).session_policy(policy).build()?;
    /// assert_eq!(hanko.session_policy().cache_ttl, Duration::from_secs(10));
    /// # Ok(())
    /// # }
    /// ```
    pub fn session_policy(mut self, session_policy: SessionPolicy) -> Self {
        self.session_policy = session_policy;
        self
    }

    /// Sets where revocations are kept. Default: a [`MemoryStore`].
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use poem_hanko::{Hanko, RedisStore, SystemClock};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let store = RedisStore::start("redis://localhost:6379", Arc::new(SystemClock::new()))?;
    /// let hanko = Hanko::builder(url).revocation_store(Arc::new(store)).build()?;
    /// # assert!(!hanko.knows_revocations());
    /// # Ok(())
    /// # }
    /// ```
    pub fn revocation_store(mut self, store: Arc<dyn RevocationStore>) -> Self {
        self.revocation_store = Some(store);
        self
    }

    /// Passes every verified event to `listener`, at least once while the process runs. Hanko does not wait for it.
    ///
    /// Up to 1,000 events are queued. If the listener fails, panics or takes longer than 30 s, the event is retried for
    /// 10 minutes, while later events are still passed on; then it is given up, which is logged. Use [`Event::id`] to
    /// recognize an event that is delivered again.
    ///
    /// Another call adds another listener. Each has its own queue and receives every event.
    ///
    /// ```
    /// use poem_hanko::{Event, EventKind, HankoBuilder};
    ///
    /// async fn forget(event: Event) -> std::io::Result<()> {
    ///     if *event.kind() == EventKind::UserDelete {
    ///         println!("delete what belongs to {:?}", event.subject_id());
    ///     }
    ///     Ok(())
    /// }
    ///
    /// fn with_events(builder: HankoBuilder) -> HankoBuilder {
    ///     builder.on_event(forget)
    /// }
    /// ```
    pub fn on_event<F, Fut, E>(mut self, listener: F) -> Self
    where
        F: Fn(Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.listeners.push(Listener::new(listener));
        self
    }

    /// Sets the name of the session cookie. Default: [`DEFAULT_COOKIE_NAME`].
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).cookie_name("session").build()?;
    /// assert_eq!(hanko.cookie_name(), "session");
    /// # Ok(())
    /// # }
    /// ```
    pub fn cookie_name(mut self, cookie_name: impl Into<String>) -> Self {
        self.cookie_name = cookie_name.into();
        self
    }

    /// Returns the name of the session cookie that is set now.
    #[cfg(feature = "server")]
    pub(crate) fn cookie_name_so_far(&self) -> &str {
        &self.cookie_name
    }

    /// Returns the URL of the Hanko API.
    #[cfg(all(feature = "server", feature = "testing"))]
    pub(crate) fn url_so_far(&self) -> HankoUrl {
        self.url.clone()
    }

    /// Sets the URL of the Hanko API.
    #[cfg(feature = "server")]
    pub(crate) fn url(mut self, url: HankoUrl) -> Self {
        self.url = url;
        self
    }

    /// Sets the origins, such as `https://app.example`, whose pages may send the cookie with requests that change
    /// something. Pages of the API's own origin always may. Default: none.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let origins = ["https://app.example.com", "https://admin.example.com"].map(str::to_owned);
    /// let hanko = Hanko::builder(url).trusted_origins(origins).build()?;
    /// assert!(hanko.trusts_origin("https://app.example.com"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn trusted_origins(mut self, origins: impl IntoIterator<Item = String>) -> Self {
        self.trusted_origins = origins.into_iter().collect();
        self
    }

    /// Sets whether pages of every `http` origin on this machine are trusted as well (`localhost`, `127.0.0.1`, `[::1]`, any port), for
    /// development. Default: false.
    ///
    /// ```
    /// use poem_hanko::Hanko;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let hanko = Hanko::builder(url).trust_loopback_origins(cfg!(debug_assertions)).build()?;
    /// # assert_eq!(hanko.trusts_origin("http://localhost:5173"), cfg!(debug_assertions));
    /// # Ok(())
    /// # }
    /// ```
    pub fn trust_loopback_origins(mut self, trust: bool) -> Self {
        self.trusts_loopback_origins = trust;
        self
    }

    /// Sets how many session tokens, and how many webhooks, may wait for a fetch of the keys. Fewer than 256 if there are few
    /// connections, because waiting requests could occupy all of them.
    #[cfg(feature = "server")]
    pub(crate) fn max_waiting(mut self, requests: usize) -> Self {
        self.max_waiting = requests.clamp(1, MAX_WAITING);
        self
    }

    /// Sets the clock. Default: [`SystemClock`].
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use poem_hanko::{Hanko, ManualClock};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let url: poem_hanko::HankoUrl = "http://localhost:8000".parse()?;
    /// let clock = ManualClock::new(Duration::from_secs(1_767_268_800));
    /// let hanko = Hanko::builder(url).clock(Arc::new(clock.clone())).build()?;
    /// clock.advance(Duration::from_secs(60));
    /// # Ok(())
    /// # }
    /// ```
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Builds the [`Hanko`] and starts to fetch its keys, without waiting for them.
    ///
    /// ```
    /// use poem_hanko::{Hanko, HankoUrl};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let url: HankoUrl = "https://hanko.example.com".parse()?;
    /// let hanko = Hanko::builder(url).build()?;
    /// // The first requests wait until the keys have been fetched.
    /// assert_eq!(hanko.key_set_status().fetches, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BuildError`], such as [`BuildError::NoRuntime`] if this is not called within a tokio runtime.
    pub fn build(self) -> Result<Hanko, BuildError> {
        // Without a runtime, starting the tasks below would panic.
        Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        self.session_policy.validate()?;
        let client = http_client(&self.url)?;
        let clock = self.clock;
        let sampler = Sampler::new(Arc::clone(&clock));
        let keys = Arc::new(RemoteKeySet::start(
            self.url.jwks_url(),
            client.clone(),
            self.fetch_policy,
            self.max_waiting,
            Arc::clone(&clock),
        ));
        let revocations = self
            .revocation_store
            .unwrap_or_else(|| Arc::new(MemoryStore::new(Arc::clone(&clock))));
        let streams = Arc::new(Streams::default());
        let liveness = Liveness::new(
            self.session_policy,
            self.url.validate_session_url(),
            client,
            Arc::clone(&keys),
            Arc::clone(&revocations),
            Arc::clone(&streams),
            Arc::clone(&clock),
        );
        let capacity = self.token_cache_capacity;
        // Hanko's webhook tokens never have an issuer.
        let webhook_rules = ClaimsRules {
            issuer: None,
            ..self.rules.clone()
        };
        let counts = Arc::new(webhook::WebhookCounts::default());
        let queues = self
            .listeners
            .into_iter()
            .map(|listener| Queue::start(listener, Arc::clone(&clock), sampler.clone()))
            .collect();
        let webhooks = Webhooks::new(
            webhook_rules,
            queues,
            counts,
            self.max_waiting,
            sampler.clone(),
        );
        Ok(Hanko::new(Inner {
            url: self.url,
            keys,
            session_rules: self.rules,
            verified: (capacity > 0).then(|| TokenCache::new(capacity)),
            revocations,
            liveness,
            streams,
            webhooks,
            clock,
            cookie_name: CookieName::new(self.cookie_name),
            trusted_origins: self.trusted_origins,
            trusts_loopback_origins: self.trusts_loopback_origins,
            sampler,
            counts: AuthenticationCounts::default(),
        }))
    }
}

impl fmt::Debug for HankoBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HankoBuilder")
            .field("url", &self.url)
            .field("audiences", &self.rules.audiences)
            .field("issuer", &self.rules.issuer)
            .field("leeway", &self.rules.leeway)
            .field("session_policy", &self.session_policy)
            .field("cookie_name", &self.cookie_name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> HankoBuilder {
        // Nothing listens there.
        Hanko::builder("http://127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn building_outside_of_a_runtime_is_an_error() {
        let error = builder().build().unwrap_err();
        assert!(matches!(error, BuildError::NoRuntime), "{error}");
        assert!(error.to_string().contains("tokio runtime"));
        #[cfg(feature = "redis")]
        {
            use crate::hanko::{RedisStore, RedisStoreError};

            let clock = Arc::new(SystemClock::new());
            let store = RedisStore::start("redis://127.0.0.1:1", clock);
            assert_eq!(store.unwrap_err(), RedisStoreError::NoRuntime);
        }
    }

    #[tokio::test]
    async fn building_within_a_runtime_succeeds() {
        let hanko = builder().build().unwrap();
        assert_eq!(hanko.url().as_str(), "http://127.0.0.1:1/");
    }
}
