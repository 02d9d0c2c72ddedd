//! The security schemes as handler parameters.

use std::{
    ops::Deref,
    sync::{Arc, LazyLock},
};

use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};

use super::{credentials::Credentials, rejection::Rejection};
use crate::{
    clock::SystemClock,
    hanko::{DEFAULT_COOKIE_NAME, Hanko, Session},
    sampling::{Line, Sampler},
};

/// The name of the Bearer scheme in the OpenAPI document.
pub const BEARER_SCHEME: &str = "bearer";
/// The name of the cookie scheme in the OpenAPI document.
pub const COOKIE_SCHEME: &str = "cookie";

/// Requires a session. Make it the first parameter of a handler, so that a request is authenticated before anything else of
/// it is read.
///
/// The routes need a [`Hanko`] in their data: `.data(hanko)`.
///
/// # Errors
/// [`Rejection`]
#[derive(Clone, Debug)]
pub struct HankoAuth(Session);

impl HankoAuth {
    /// Returns the session.
    pub fn into_session(self) -> Session {
        self.0
    }
}

impl Deref for HankoAuth {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

/// Accepts a session if there is one. A request **without any credential** is anonymous; one with an invalid credential is
/// rejected, as with [`HankoAuth`].
///
/// # Errors
/// [`Rejection`]
#[derive(Clone, Debug)]
pub struct OptionalHankoAuth(Option<Session>);

impl OptionalHankoAuth {
    /// Returns the session, or `None` for an anonymous request.
    pub fn session(&self) -> Option<&Session> {
        self.0.as_ref()
    }

    /// Returns the session, or `None` for an anonymous request.
    pub fn into_session(self) -> Option<Session> {
        self.0
    }
}

/// Requires a session that Hanko confirms now, whatever is cached, in every [`SessionMode`](crate::hanko::SessionMode):
/// for operations where a minute is too long, such as a payment or the deletion of an account. Each request waits for
/// Hanko; without its answer the response is 503.
///
/// # Errors
/// As a parameter it fails with a [`Rejection`].
#[derive(Clone, Debug)]
pub struct LiveHankoAuth(Session);

impl LiveHankoAuth {
    /// Returns the session.
    pub fn into_session(self) -> Session {
        self.0
    }
}

impl Deref for LiveHankoAuth {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

/// Authenticates a request as [`OptionalHankoAuth`] does, for handlers and middleware of plain Poem. Returns `None` if the
/// request has no credential.
///
/// # Errors
/// [`Rejection`], which converts into a `poem::Error`.
pub async fn authenticate(request: &Request) -> Result<Option<Session>, Rejection> {
    try_authenticate(request)
        .await
        .inspect_err(|rejection| log(request, rejection))
}

/// Authenticates a request as [`LiveHankoAuth`] does.
///
/// # Errors
/// A [`Rejection`].
pub async fn authenticate_live(request: &Request) -> Result<Session, Rejection> {
    try_authenticate_live(request)
        .await
        .inspect_err(|rejection| log(request, rejection))
}

fn log(request: &Request, rejection: &Rejection) {
    // An application without a `Hanko` has no clock either.
    static MISCONFIGURED: LazyLock<Sampler> =
        LazyLock::new(|| Sampler::new(Arc::new(SystemClock::new())));
    match request.data::<Hanko>() {
        Some(hanko) => hanko.sampler().log(Line::RejectedRequest, rejection),
        None => MISCONFIGURED.log(Line::Misconfigured, rejection),
    }
}

async fn try_authenticate(request: &Request) -> Result<Option<Session>, Rejection> {
    let hanko: &Hanko = request.data().ok_or(Rejection::NotConfigured)?;
    let credentials = Credentials::from_request(request.method(), request.headers(), hanko)?;
    match credentials {
        None => Ok(None),
        Some(credentials) => Ok(Some(hanko.authenticate(credentials.token()).await?)),
    }
}

async fn try_authenticate_live(request: &Request) -> Result<Session, Rejection> {
    let hanko: &Hanko = request.data().ok_or(Rejection::NotConfigured)?;
    let credentials = Credentials::from_request(request.method(), request.headers(), hanko)?
        .ok_or(Rejection::MissingCredentials)?;
    Ok(hanko.authenticate_live(credentials.token()).await?)
}

async fn require_session(request: &Request) -> Result<Session, Rejection> {
    authenticate(request).await?.ok_or_else(|| {
        let rejection = Rejection::MissingCredentials;
        log(request, &rejection);
        rejection
    })
}

/// Makes a type a handler parameter that documents both security schemes as alternatives. `derive(SecurityScheme)` tries the
/// next scheme after any error, so a valid cookie would be used instead of an invalid Bearer token.
macro_rules! security_scheme {
    ($name:ident, optional: $optional:literal, $authenticate:path) => {
        impl<'a> ApiExtractor<'a> for $name {
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
                $optional
            }

            async fn from_request(
                request: &'a Request,
                _body: &mut RequestBody,
                _options: ExtractParamOptions<()>,
            ) -> poem::Result<Self> {
                Ok(Self($authenticate(request).await?))
            }
        }
    };
}

security_scheme!(HankoAuth, optional: false, require_session);
security_scheme!(LiveHankoAuth, optional: false, authenticate_live);
security_scheme!(OptionalHankoAuth, optional: true, authenticate);

fn register_schemes(registry: &mut Registry) {
    registry.create_security_scheme(
        BEARER_SCHEME,
        MetaSecurityScheme {
            ty: "http",
            description: Some("A Hanko session token in the `Authorization` header."),
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
                "A Hanko session token in the cookie that Hanko sets. It is not looked at where a Bearer token is \
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
