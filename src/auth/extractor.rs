//! The security schemes as handler parameters.

use std::{
    fmt,
    marker::PhantomData,
    ops::Deref,
    sync::{Arc, LazyLock},
};

use poem::{Endpoint, Middleware, PathPattern, Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};

use super::{
    credentials::Credentials,
    documented,
    guard::Guard,
    record::AuthRecord,
    rejection::Rejection,
    requirement::{Outcome, Rule, Unmet},
};
use crate::{
    clock::SystemClock,
    hanko::{AuthenticateError, DEFAULT_COOKIE_NAME, Hanko, Identified, Session, counted_as},
    metrics::Authentication,
    sampling::{Line, Sampler},
};

/// The name of the Bearer scheme in the OpenAPI document.
pub const BEARER_SCHEME: &str = "bearer";
/// The name of the cookie scheme in the OpenAPI document.
pub const COOKIE_SCHEME: &str = "cookie";

/// Requires a session, and what a [`Guard`] requires beyond it. Make it the first parameter of a handler, so that a request is
/// authenticated before anything else of it is read.
///
/// The routes need a [`Hanko`] in their data: `.data(hanko)`.
///
/// ```
/// use poem_hanko::{HankoAuth, JsonBody, VerifiedEmail};
/// use poem_openapi::OpenApi;
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Greet the user by id
///     #[oai(path = "/hello", method = "get", operation_id = "getHello")]
///     async fn hello(&self, auth: HankoAuth) -> JsonBody<String> {
///         JsonBody(format!("Hello, {}!", auth.user_id()))
///     }
///
///     /// Subscribe to the newsletter
///     #[oai(path = "/newsletter", method = "post", operation_id = "subscribe")]
///     async fn subscribe(&self, auth: HankoAuth<VerifiedEmail>) -> JsonBody<String> {
///         let address = auth.email().map_or("", |email| &email.address);
///         JsonBody(format!("subscribed: {address}"))
///     }
/// }
/// ```
///
/// # Errors
/// [`Rejection`]. A handler that declares its body before its guard responds with 500.
pub struct HankoAuth<G = ()>(Session, PhantomData<fn() -> G>);

impl<G> HankoAuth<G> {
    /// Returns the session.
    ///
    /// ```
    /// # use poem_hanko::{HankoAuth, JsonBody};
    /// # use poem_openapi::OpenApi;
    /// # struct Api;
    /// #[OpenApi]
    /// impl Api {
    ///     /// Export your notes
    ///     #[oai(path = "/export", method = "post", operation_id = "export")]
    ///     async fn export(&self, auth: HankoAuth) -> JsonBody<&'static str> {
    ///         let session = auth.into_session();
    ///         tokio::spawn(async move { println!("exporting for {}", session.user_id()) });
    ///         JsonBody("started")
    ///     }
    /// }
    /// ```
    pub fn into_session(self) -> Session {
        self.0
    }
}

impl<G> Clone for HankoAuth<G> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<G> fmt::Debug for HankoAuth<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("HankoAuth").field(&self.0).finish()
    }
}

impl<G> Deref for HankoAuth<G> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

/// Accepts a session if there is one. A request **without any credential** is anonymous; one with an invalid credential is
/// rejected, as with [`HankoAuth`].
///
/// ```
/// use poem_hanko::{JsonBody, OptionalHankoAuth};
/// use poem_openapi::OpenApi;
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Greet the user, or anybody
///     #[oai(path = "/greeting", method = "get", operation_id = "getGreeting")]
///     async fn greet(&self, auth: OptionalHankoAuth) -> JsonBody<String> {
///         let name = auth.session().and_then(|session| session.username());
///         JsonBody(format!("Hello, {}!", name.unwrap_or("stranger")))
///     }
/// }
/// ```
///
/// # Errors
/// [`Rejection`]
#[derive(Clone, Debug)]
pub struct OptionalHankoAuth(Option<Session>);

impl OptionalHankoAuth {
    /// Returns the session, or `None` for an anonymous request.
    ///
    /// ```
    /// use poem_hanko::{OptionalHankoAuth, UserId};
    ///
    /// fn viewer(auth: &OptionalHankoAuth) -> Option<UserId> {
    ///     auth.session().map(|session| session.user_id())
    /// }
    /// ```
    pub fn session(&self) -> Option<&Session> {
        self.0.as_ref()
    }

    /// Returns the session, or `None` for an anonymous request.
    ///
    /// ```
    /// use poem_hanko::{OptionalHankoAuth, Session};
    ///
    /// struct Viewer(Option<Session>);
    ///
    /// impl From<OptionalHankoAuth> for Viewer {
    ///     fn from(auth: OptionalHankoAuth) -> Self {
    ///         Self(auth.into_session())
    ///     }
    /// }
    /// ```
    pub fn into_session(self) -> Option<Session> {
        self.0
    }
}

/// Authenticates a request as [`OptionalHankoAuth`] does, for handlers and middleware of plain Poem. Returns `None` if the
/// request has no credential.
///
/// ```
/// use poem::{Request, handler};
/// use poem_hanko::authenticate;
///
/// #[handler]
/// async fn greet(request: &Request) -> poem::Result<String> {
///     Ok(match authenticate(request).await? {
///         Some(session) => format!("Hello, {}!", session.user_id()),
///         None => "Hello, stranger!".to_owned(),
///     })
/// }
/// ```
///
/// # Errors
/// [`Rejection`], which converts into a `poem::Error`.
pub async fn authenticate(request: &Request) -> Result<Option<Session>, Rejection> {
    try_authenticate(request)
        .await
        .inspect_err(|rejection| log(request, rejection))
}

/// Requires a session and a [`Guard`], as [`HankoAuth`] does, for handlers of plain Poem. [`Require`] does the same for a
/// whole tree of routes.
///
/// ```
/// use poem::{Request, handler};
/// use poem_hanko::{VerifiedEmail, require};
///
/// #[handler]
/// async fn newsletter(request: &Request) -> poem::Result<String> {
///     let session = require::<VerifiedEmail>(request).await?;
///     Ok(format!("subscribed: {}", session.user_id()))
/// }
/// ```
///
/// # Errors
/// [`Rejection`], which converts into a `poem::Error`.
pub async fn require<G: Guard>(request: &Request) -> Result<Session, Rejection> {
    try_require(request, &G::REQUIRES.0)
        .await
        .inspect_err(|rejection| log(request, rejection))
}

/// Requires a session and a [`Guard`] for every route below. Handlers find the [`Session`] in the request's data.
///
/// ```
/// use poem::{EndpointExt, Route, get, handler, web::Data};
/// use poem_hanko::{Guard, Hanko, Require, Requirement, Session};
///
/// struct Admin;
///
/// impl Guard for Admin {
///     const REQUIRES: Requirement = Requirement::claim("role").equals("admin");
/// }
///
/// #[handler]
/// fn statistics(session: Data<&Session>) -> String {
///     format!("for {}", session.user_id())
/// }
///
/// fn app(hanko: Hanko) -> impl poem::Endpoint {
///     let admin = Route::new().at("/statistics", get(statistics)).with(Require::<Admin>::new());
///     Route::new().nest("/admin", admin).data(hanko)
/// }
/// ```
pub struct Require<G = ()>(PhantomData<fn() -> G>);

/// The endpoint that [`Require`] makes.
///
/// ```
/// use poem::{EndpointExt, Route};
/// use poem_hanko::{Require, Required, VerifiedEmail};
///
/// /// Puts the guard around all routes of the members' area.
/// fn members_only(routes: Route) -> Required<Route, VerifiedEmail> {
///     routes.with(Require::new())
/// }
/// ```
pub struct Required<E, G> {
    inner: E,
    guard: PhantomData<fn() -> G>,
}

impl<G: Guard> Require<G> {
    /// Returns the middleware.
    ///
    /// ```
    /// use poem::{EndpointExt, Route, get, handler};
    /// use poem_hanko::{Fresh, Require};
    ///
    /// #[handler]
    /// fn keys() -> &'static str {
    ///     "the API keys of the account"
    /// }
    ///
    /// let settings = Route::new().at("/keys", get(keys)).with(Require::<Fresh<300>>::new());
    /// ```
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<G: Guard> Default for Require<G> {
    fn default() -> Self {
        Self::new()
    }
}

impl<G> fmt::Debug for Require<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Require").finish()
    }
}

impl<E, G> fmt::Debug for Required<E, G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Required").finish_non_exhaustive()
    }
}

impl<E: Endpoint, G: Guard> Middleware<E> for Require<G> {
    type Output = Required<E, G>;

    fn transform(&self, inner: E) -> Required<E, G> {
        Required {
            inner,
            guard: PhantomData,
        }
    }
}

impl<E: Endpoint, G: Guard> Endpoint for Required<E, G> {
    type Output = E::Output;

    async fn call(&self, mut request: Request) -> poem::Result<E::Output> {
        let session = require::<G>(&request).await?;
        request.set_data(session);
        self.inner.call(request).await
    }
}

pub(super) fn log(request: &Request, rejection: &Rejection) {
    // An application without a `Hanko` has no clock either.
    static MISCONFIGURED: LazyLock<Sampler> =
        LazyLock::new(|| Sampler::new(Arc::new(SystemClock::new())));
    let sampler = request.data::<Hanko>().map(Hanko::sampler);
    let sampler = sampler.unwrap_or(&MISCONFIGURED);
    let is_misconfigured = matches!(
        rejection,
        Rejection::NotConfigured | Rejection::BodyReadBeforeGuard { .. }
    );
    if let Some(record) = AuthRecord::of(request) {
        record.reject(rejection.reason(), rejection);
        if !is_misconfigured {
            // The access log has the reason.
            return;
        }
    }
    if is_misconfigured {
        sampler.log(Line::Misconfigured, rejection);
    } else {
        sampler.log_as(Line::RejectedRequest, &rejection.reason(), rejection);
    }
}

fn identified(request: &Request) -> Option<&Identified> {
    AuthRecord::of(request).map(AuthRecord::identified)
}

/// Authenticates credentials, and notes whose they are.
pub(super) async fn verify(
    request: &Request,
    hanko: &Hanko,
    credentials: &Credentials<'_>,
) -> Result<Session, Rejection> {
    let identified = identified(request);
    let outcome = hanko
        .authenticate_noting(credentials.token(), identified)
        .await;
    hanko.counts().authenticated(counted_as(&outcome));
    outcome.map_err(|error| Rejection::new(error, credentials.credential()))
}

/// Returns the rejection of a request without credentials, and counts it.
pub(super) fn missing_credentials(hanko: &Hanko) -> Rejection {
    hanko.counts().authenticated(Authentication::Missing);
    Rejection::MissingCredentials {
        cookie_name: hanko.cookie_name().to_owned(),
    }
}

async fn try_authenticate(request: &Request) -> Result<Option<Session>, Rejection> {
    let Some(hanko) = request.data::<Hanko>() else {
        return Err(Rejection::NotConfigured);
    };
    let Some(credentials) = credentials(request, hanko)? else {
        hanko.counts().authenticated(Authentication::Anonymous);
        return Ok(None);
    };
    Ok(Some(verify(request, hanko, &credentials).await?))
}

async fn try_require(request: &Request, rule: &Rule<'_>) -> Result<Session, Rejection> {
    let Some(hanko) = request.data::<Hanko>() else {
        return Err(Rejection::NotConfigured);
    };
    let Some(credentials) = credentials(request, hanko)? else {
        return Err(missing_credentials(hanko));
    };
    let outcome = authenticate_for(hanko, credentials.token(), rule, identified(request)).await;
    hanko.counts().authenticated(counted_as(&outcome));
    let rejected = |error| Rejection::new(error, credentials.credential());
    let (session, unmet) = outcome.map_err(rejected)?;
    match unmet {
        None => Ok(session),
        Some(unmet) => {
            hanko.counts().guard_rejected(unmet.guard());
            let credential = credentials.credential();
            Err(Rejection::GuardNotMet(unmet, credential))
        }
    }
}

/// Authenticates a token, and returns the requirement that its session does not meet, if any.
async fn authenticate_for(
    hanko: &Hanko,
    token: &[u8],
    rule: &Rule<'_>,
    identified: Option<&Identified>,
) -> Result<(Session, Option<Box<Unmet>>), AuthenticateError> {
    let is_live = rule.is_always_live();
    let session = if is_live {
        Box::pin(hanko.authenticate_live_noting(token, identified)).await?
    } else {
        hanko.authenticate_noting(token, identified).await?
    };
    match rule.evaluate(&session, is_live) {
        Outcome::Met => Ok((session, None)),
        Outcome::IfLive => Ok((Box::pin(hanko.authenticate_live(token)).await?, None)),
        Outcome::Unmet(unmet) => Ok((session, Some(unmet))),
    }
}

/// Returns the credentials of a request, and counts those that are rejected.
fn credentials<'a>(
    request: &'a Request,
    hanko: &'a Hanko,
) -> Result<Option<Credentials<'a>>, Rejection> {
    Credentials::from_request(request.method(), request.headers(), hanko)
        .inspect_err(|rejection| count_rejected_credentials(hanko, rejection))
}

pub(super) fn count_rejected_credentials(hanko: &Hanko, rejection: &Rejection) {
    hanko.counts().authenticated(match rejection {
        Rejection::CrossSiteRequest { .. } => Authentication::CrossSite,
        _ => Authentication::Ambiguous,
    });
}

/// Rejects a request whose body has been read, so that a mistake in the order of the parameters is found at once.
fn reject_read_body(request: &Request, body: &RequestBody) -> Result<(), Rejection> {
    if body.is_some() {
        return Ok(());
    }
    let path = request
        .data::<PathPattern>()
        .map_or(request.uri().path(), |pattern| &*pattern.0);
    let rejection = Rejection::BodyReadBeforeGuard {
        operation: format!("{} {path}", request.method()),
    };
    log(request, &rejection);
    Err(rejection)
}

// `derive(SecurityScheme)` tries the next scheme after any error, so a valid cookie would be used instead of an invalid Bearer
// token. Written by hand, both schemes are alternatives in the document and one credential is examined.
impl<'a, G: Guard> ApiExtractor<'a> for HankoAuth<G> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_schemes(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        let marker = documented::marker(&G::REQUIRES);
        [BEARER_SCHEME, COOKIE_SCHEME]
            .into_iter()
            .chain(marker)
            .collect()
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        if !G::REQUIRES.0.is_empty() {
            reject_read_body(request, body)?;
        }
        Ok(Self(require::<G>(request).await?, PhantomData))
    }
}

impl<'a> ApiExtractor<'a> for OptionalHankoAuth {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_schemes(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![BEARER_SCHEME, COOKIE_SCHEME]
    }

    fn has_security_fallback() -> bool {
        true
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self(authenticate(request).await?))
    }
}

fn register_schemes(registry: &mut Registry) {
    registry.create_security_scheme(
        BEARER_SCHEME,
        MetaSecurityScheme {
            ty: "http",
            description: Some(
                "A Hanko session token in the `Authorization` header. An application gets it from Hanko's frontend SDK, by \
                 `hanko.getSessionToken()`, if Hanko has `session.enable_auth_token_header` on. In development, the command \
                 `dev` prints one.",
            ),
            name: None,
            key_in: None,
            scheme: Some("bearer"),
            bearer_format: Some("JWT"),
            flows: None,
            openid_connect_url: None,
        },
    );
    registry.create_security_scheme(
        COOKIE_SCHEME,
        MetaSecurityScheme {
            ty: "apiKey",
            description: Some(
                "A Hanko session token in the cookie that Hanko sets. It is ignored if a Bearer token is \
                 sent. Methods other than GET, HEAD and OPTIONS need a request from a trusted origin.",
            ),
            name: Some(DEFAULT_COOKIE_NAME),
            key_in: Some("cookie"),
            scheme: None,
            bearer_format: None,
            flows: None,
            openid_connect_url: None,
        },
    );
}
