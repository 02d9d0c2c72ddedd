//! From a session token to a session: the one place where the steps are put in order.

use std::{fmt, sync::Arc, time::Duration};

use super::{claims::SessionClaims, session::Session, tenant::Tenant};
use crate::{
    clock::{Clock, SystemClock},
    jose::{
        ClaimsRules, FetchPolicy, KeySetError, KeySetStatus, NumericDate, RemoteKeySet, TokenError,
        UnverifiedToken,
    },
};

/// The name of Hanko's session cookie, unless the operator has changed it.
pub const DEFAULT_COOKIE_NAME: &str = "hanko";
/// The allowed clock skew between Hanko and us.
pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// The token is not that of a session. Sending it again will not help.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Whether the token is good cannot be known now. Nothing is let in for that reason.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

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
    rules: ClaimsRules,
    clock: Arc<dyn Clock>,
    cookie_name: String,
    trusted_origins: Vec<String>,
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
            clock: Arc::new(SystemClock::new()),
            cookie_name: DEFAULT_COOKIE_NAME.to_owned(),
            trusted_origins: Vec::new(),
        }
    }

    /// Authenticates a session token.
    ///
    /// # Errors
    /// [`AuthenticateError::Token`] where the token is at fault, else the reason why that cannot be known now.
    pub async fn authenticate(&self, token: &str) -> Result<Session, AuthenticateError> {
        let inner = &*self.0;
        let unverified = UnverifiedToken::parse(token)?;
        let key_set = inner.keys.with_key(unverified.kid()).await?;
        let now = NumericDate::from(inner.clock.unix_time());
        let verified = unverified
            .verify_signature(&key_set)?
            .validate::<SessionClaims>(&inner.rules, now)?;
        Ok(Session::new(Arc::new(verified)))
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

    /// Whether pages of this origin may use the cookie for requests that change something.
    pub fn trusts_origin(&self, origin: &str) -> bool {
        self.0
            .trusted_origins
            .iter()
            .any(|trusted| trusted == origin)
    }
}

/// Makes a [`Hanko`].
#[derive(Clone, Debug)]
#[must_use]
pub struct HankoBuilder {
    tenant: Tenant,
    rules: ClaimsRules,
    fetch_policy: FetchPolicy,
    clock: Arc<dyn Clock>,
    cookie_name: String,
    trusted_origins: Vec<String>,
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

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Starts to fetch the keys, without waiting for them. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the TLS backend cannot be initialised.
    pub fn build(self) -> Result<Hanko, reqwest::Error> {
        let client = http_client(&self.tenant)?;
        let keys = RemoteKeySet::start(
            self.tenant.jwks_url(),
            client,
            self.fetch_policy,
            Arc::clone(&self.clock),
        );
        Ok(Hanko(Arc::new(Inner {
            tenant: self.tenant,
            keys,
            rules: self.rules,
            clock: self.clock,
            cookie_name: self.cookie_name,
            trusted_origins: self.trusted_origins,
        })))
    }
}

fn http_client(tenant: &Tenant) -> Result<reqwest::Client, reqwest::Error> {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("poem-hanko/", env!("CARGO_PKG_VERSION")));
    // A proxy is somewhere else, and has another loopback.
    let builder = if tenant.is_loopback() {
        builder.no_proxy()
    } else {
        builder
    };
    builder.build()
}
