//! A Hanko on loopback, for `poem-hanko dev`, for our tests and for yours.
//!
//! It answers as Hanko does, field by field: the JWK Set, `/sessions/validate`, `/logout`, and session tokens with all of
//! Hanko's claims. Pages on loopback may call it with credentials, as Hanko's frontend SDK does. People are made up by
//! signing them in. Its key is generated at start and never leaves memory. It is not for production: whoever can reach it
//! can be anybody.

#![allow(
    clippy::needless_pass_by_value,
    reason = "Poem hands extractors to its handlers by value"
)]

use std::{
    collections::HashMap,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer,
    rsa::{KeyPair, KeySize},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use chrono::{DateTime, SecondsFormat, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk};
use poem::{
    Endpoint, EndpointExt, IntoEndpoint, IntoResponse, Request, Response, Result, Route, Server,
    get, handler,
    http::{HeaderValue, Method, StatusCode, header},
    listener::{Acceptor, TcpAcceptor},
    post,
    web::{Data, Json},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{sync::oneshot, task::JoinHandle};
use url::Url;
use uuid::Uuid;

use crate::{
    clock::{Clock, SystemClock},
    hanko::{DEFAULT_COOKIE_NAME, PlainHttp, Tenant},
    jose::{self, KeySetDocument, UnverifiedToken},
};

/// How long its session tokens live: Hanko's default.
pub const SESSION_LIFESPAN: Duration = Duration::from_hours(12);

/// How long its webhook tokens live: Hanko's constant.
const WEBHOOK_LIFESPAN: Duration = Duration::from_mins(5);
/// How long it waits for the answer to a webhook, as Hanko does.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// A person to sign in. Without a change it is a new user with a verified primary e-mail address.
#[derive(Clone, Debug)]
pub struct Person {
    /// The user id, `sub`.
    pub id: Uuid,
    /// The primary e-mail address, if the person has one.
    pub email: Option<String>,
    /// The user name, if the person has one.
    pub username: Option<String>,
    /// What a JWT template would add.
    pub custom_claims: Map<String, Value>,
}

impl Person {
    /// A new user with this e-mail address.
    pub fn with_email(email: impl Into<String>) -> Self {
        Self {
            id: Uuid::new_v4(),
            email: Some(email.into()),
            username: None,
            custom_claims: Map::new(),
        }
    }
}

/// A session that has just begun.
#[derive(Clone)]
pub struct SignedIn {
    /// The session token.
    pub token: String,
    /// The id of the session.
    pub session_id: Uuid,
    /// When both end, in seconds since 1970-01-01T00:00:00Z.
    pub expires_at: u64,
}

impl fmt::Debug for SignedIn {
    /// Leaves the token out.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SignedIn")
            .field("session_id", &self.session_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A running local Hanko. It stops when this is dropped.
#[derive(Debug)]
pub struct LocalHanko {
    address: SocketAddr,
    state: Arc<State>,
    _stop: oneshot::Sender<()>,
    _server: JoinHandle<io::Result<()>>,
}

/// Starts a [`LocalHanko`].
#[derive(Debug)]
#[must_use]
pub struct LocalHankoBuilder {
    clock: Arc<dyn Clock>,
    key_size: KeySize,
    audience: String,
    issuer: Option<String>,
    cookie_name: String,
}

impl LocalHankoBuilder {
    /// Where the time in its tokens comes from. Default: [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Signs with RSA 4096, as Hanko does. Default: RSA 2048, whose keys are made in a fraction of the time.
    pub fn rsa_4096(mut self) -> Self {
        self.key_size = KeySize::Rsa4096;
        self
    }

    /// The `aud` of its tokens. Default: `localhost`.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = audience.into();
        self
    }

    /// The `iss` of its session tokens. Default: none, as with Hanko.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// The name of its session cookie. Default: `hanko`.
    pub fn cookie_name(mut self, cookie_name: impl Into<String>) -> Self {
        self.cookie_name = cookie_name.into();
        self
    }

    /// Listens on a free port of `127.0.0.1`, and on nothing else.
    ///
    /// # Errors
    /// Where the port cannot be bound or the key cannot be generated.
    pub async fn start(self) -> io::Result<LocalHanko> {
        let key_size = self.key_size;
        let key = tokio::task::spawn_blocking(move || SigningKey::generate(key_size))
            .await
            .map_err(io::Error::other)??;
        let state = Arc::new(State {
            clock: self.clock,
            key_size,
            audience: self.audience,
            issuer: self.issuer,
            cookie_name: self.cookie_name,
            inner: Mutex::new(Inner {
                keys: vec![Arc::new(key)],
                sessions: HashMap::new(),
                webhook_url: None,
                key_set_requests: 0,
                validate_requests: 0,
            }),
        });

        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let acceptor = TcpAcceptor::from_std(listener)?;
        let address = acceptor
            .local_addr()
            .iter()
            .find_map(|address| address.as_socket_addr().copied())
            .ok_or_else(|| io::Error::other("the listener has no socket address"))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let routes = routes(Arc::clone(&state));
        let server = tokio::spawn(
            Server::new_with_acceptor(acceptor)
                .name("local Hanko")
                .run_with_graceful_shutdown(
                    routes,
                    async move {
                        let _dropped = stopped.await;
                    },
                    Some(Duration::ZERO),
                ),
        );
        Ok(LocalHanko {
            address,
            state,
            _stop: stop,
            _server: server,
        })
    }
}

impl LocalHanko {
    /// Sets out to start one.
    pub fn builder() -> LocalHankoBuilder {
        LocalHankoBuilder {
            clock: Arc::new(SystemClock::new()),
            key_size: KeySize::Rsa2048,
            audience: "localhost".to_owned(),
            issuer: None,
            cookie_name: DEFAULT_COOKIE_NAME.to_owned(),
        }
    }

    /// What `HANKO_API_URL` would be.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same as a [`Tenant`].
    ///
    /// # Panics
    /// Never: the URL is well-formed and loopback.
    pub fn tenant(&self) -> Tenant {
        Tenant::parse(&self.url(), PlainHttp::LoopbackOnly)
            .expect("a loopback address makes a Hanko API URL")
    }

    /// Signs a person in: begins a session and returns its token.
    pub fn sign_in(&self, person: &Person) -> SignedIn {
        self.state.sign_in(person)
    }

    /// The claims that a session token of this person would have, to be changed by a test and signed with
    /// [`sign_claims`](Self::sign_claims). No session begins.
    pub fn claims_of(&self, person: &Person) -> Map<String, Value> {
        self.state.claims_of(person, Uuid::new_v4())
    }

    /// Signs any claims as Hanko signs its tokens.
    pub fn sign_claims(&self, claims: &Map<String, Value>) -> String {
        self.state.sign_claims(claims)
    }

    /// Signs any octets under any header, with the current key and RS256.
    pub fn sign_raw(&self, header: &[u8], payload: &[u8]) -> String {
        let key = self.state.inner().signing_key();
        key.sign_raw(header, payload)
    }

    /// Sends webhooks to this URL from now on.
    pub fn send_webhooks_to(&self, url: impl Into<String>) {
        self.state.inner().webhook_url = Some(url.into());
    }

    /// Ends a session, as when its user signs out, and tells the webhook. `None` where there is no such session.
    ///
    /// # Errors
    /// Where the webhook cannot be reached or does not answer with success.
    pub async fn end_session(&self, session_id: Uuid) -> Result<Option<()>, reqwest::Error> {
        self.state.end_session(session_id).await
    }

    /// Deletes a user with all sessions, and tells the webhook.
    ///
    /// # Errors
    /// Where the webhook cannot be reached or does not answer with success.
    pub async fn delete_user(&self, user_id: Uuid) -> Result<(), reqwest::Error> {
        self.state
            .inner()
            .sessions
            .retain(|_, session| session.user_id != user_id);
        self.state
            .send_webhook("user.delete", &json!({ "id": user_id, "emails": [] }))
            .await
    }

    /// The body of the webhook request that Hanko would send for this event.
    pub fn webhook_body(&self, event: &str, data: &Value) -> Value {
        self.state.webhook_body(event, data)
    }

    /// The `data` of a webhook about this session; `None` where there is no such session.
    pub fn session_data(&self, session_id: Uuid) -> Option<Value> {
        let session = *self.state.inner().sessions.get(&session_id)?;
        Some(self.state.session_data(session_id, session))
    }

    /// The `kid` of the key that signs.
    pub fn kid(&self) -> String {
        self.state.inner().signing_key().kid.clone()
    }

    /// Signs with a new key from now on. The old ones stay in the JWK Set, as at Hanko, until
    /// [`retire_old_keys`](Self::retire_old_keys).
    ///
    /// # Errors
    /// Where no key can be generated.
    pub async fn rotate_key(&self) -> io::Result<()> {
        let key_size = self.state.key_size;
        let key = tokio::task::spawn_blocking(move || SigningKey::generate(key_size))
            .await
            .map_err(io::Error::other)??;
        self.state.inner().keys.push(Arc::new(key));
        Ok(())
    }

    /// Takes all keys but the one that signs out of the JWK Set.
    pub fn retire_old_keys(&self) {
        let mut inner = self.state.inner();
        let signing_key = inner.keys.len() - 1;
        inner.keys.drain(..signing_key);
    }

    /// The JWK Set that is being served.
    pub fn key_set(&self) -> Value {
        self.state.inner().key_set()
    }

    /// How often the JWK Set was asked for.
    pub fn key_set_requests(&self) -> u64 {
        self.state.inner().key_set_requests
    }

    /// How often `/sessions/validate` was asked.
    pub fn validate_requests(&self) -> u64 {
        self.state.inner().validate_requests
    }
}

#[derive(Debug)]
struct State {
    clock: Arc<dyn Clock>,
    key_size: KeySize,
    audience: String,
    issuer: Option<String>,
    cookie_name: String,
    inner: Mutex<Inner>,
}

/// A session as Hanko's database has it. Times are seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug)]
struct SessionRecord {
    user_id: Uuid,
    created_at: u64,
    expires_at: u64,
}

#[derive(Debug)]
struct Inner {
    /// The last one signs. There is always one.
    keys: Vec<Arc<SigningKey>>,
    sessions: HashMap<Uuid, SessionRecord>,
    webhook_url: Option<String>,
    key_set_requests: u64,
    validate_requests: u64,
}

impl Inner {
    /// To be used without the lock: a signature takes milliseconds.
    fn signing_key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.keys[self.keys.len() - 1])
    }

    fn key_set(&self) -> Value {
        let keys: Vec<&jwk::Jwk> = self.keys.iter().map(|key| &key.public).collect();
        json!({ "keys": keys })
    }
}

impl State {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.clock.unix_time().as_secs()
    }

    fn claims_of(&self, person: &Person, session_id: Uuid) -> Map<String, Value> {
        let now = self.now();
        let mut claims = person.custom_claims.clone();
        claims.insert("sub".to_owned(), json!(person.id));
        claims.insert("iat".to_owned(), json!(now));
        claims.insert("exp".to_owned(), json!(now + SESSION_LIFESPAN.as_secs()));
        claims.insert("aud".to_owned(), json!([self.audience]));
        claims.insert("session_id".to_owned(), json!(session_id));
        if let Some(issuer) = &self.issuer {
            claims.insert("iss".to_owned(), json!(issuer));
        }
        if let Some(email) = &person.email {
            claims.insert(
                "email".to_owned(),
                json!({ "address": email, "is_primary": true, "is_verified": true }),
            );
        }
        if let Some(username) = &person.username {
            claims.insert("username".to_owned(), json!(username));
        }
        claims
    }

    fn sign_in(&self, person: &Person) -> SignedIn {
        let session_id = Uuid::new_v4();
        let claims = self.claims_of(person, session_id);
        let now = self.now();
        let expires_at = now + SESSION_LIFESPAN.as_secs();
        let mut inner = self.inner();
        inner.sessions.retain(|_, session| session.expires_at > now);
        inner.sessions.insert(
            session_id,
            SessionRecord {
                user_id: person.id,
                created_at: now,
                expires_at,
            },
        );
        let key = inner.signing_key();
        drop(inner);
        SignedIn {
            token: key.sign(&claims),
            session_id,
            expires_at,
        }
    }

    fn sign_claims(&self, claims: &Map<String, Value>) -> String {
        let key = self.inner().signing_key();
        key.sign(claims)
    }

    async fn end_session(&self, session_id: Uuid) -> Result<Option<()>, reqwest::Error> {
        let Some(session) = self.inner().sessions.remove(&session_id) else {
            return Ok(None);
        };
        let data = self.session_data(session_id, session);
        self.send_webhook("session.delete.explicit.logout", &data)
            .await?;
        Ok(Some(()))
    }

    fn webhook_body(&self, event: &str, data: &Value) -> Value {
        let now = self.now();
        let claims = json!({
            "sub": "hanko webhooks",
            "iat": now,
            "exp": now + WEBHOOK_LIFESPAN.as_secs(),
            "aud": [self.audience],
            "evt": event,
            "data": data,
        });
        let claims = claims.as_object().cloned().unwrap_or_default();
        json!({ "token": self.sign_claims(&claims), "event": event })
    }

    async fn send_webhook(&self, event: &str, data: &Value) -> Result<(), reqwest::Error> {
        let Some(url) = self.inner().webhook_url.clone() else {
            return Ok(());
        };
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(WEBHOOK_TIMEOUT);
        // Without TLS, the root certificates of the platform are not needed, and may be missing.
        let client = if url.starts_with("http://") {
            client.tls_certs_only([])
        } else {
            client
        };
        client
            .build()?
            .post(url)
            .json(&self.webhook_body(event, data))
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }

    /// A session as Hanko describes it in webhooks.
    fn session_data(&self, session_id: Uuid, session: SessionRecord) -> Value {
        json!({
            "id": session_id,
            "user_id": session.user_id,
            "user_agent": "poem-hanko local Hanko",
            "ip_address": "127.0.0.1",
            "created_at": rfc3339(session.created_at),
            "updated_at": rfc3339(session.created_at),
            "expires_at": rfc3339(session.expires_at),
            "last_used": rfc3339(self.now()),
        })
    }

    /// The answer of `/sessions/validate` (Hanko `backend/dto/session.go`): times are RFC 3339 here.
    fn validate(&self, token: &str) -> Value {
        self.inner().validate_requests += 1;
        self.claims_of_live_session(token)
            .map_or_else(|| json!({ "is_valid": false }), |claims| answer(&claims))
    }

    fn claims_of_live_session(&self, token: &str) -> Option<Map<String, Value>> {
        let inner = self.inner();
        let document = KeySetDocument::parse(inner.key_set().to_string().as_bytes())?;
        UnverifiedToken::parse(token)
            .ok()?
            .verify_signature(&document.key_set)
            .ok()?;
        let payload = BASE64_URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1)?)
            .ok()?;
        let claims: Map<String, Value> = serde_json::from_slice(&payload).ok()?;
        let session_id: Uuid = claims.get("session_id")?.as_str()?.parse().ok()?;
        let is_alive = inner
            .sessions
            .get(&session_id)
            .is_some_and(|session| session.expires_at > self.now());
        is_alive.then_some(claims)
    }
}

fn answer(claims: &Map<String, Value>) -> Value {
    let time = |name: &str| Some(rfc3339(claims.get(name)?.as_u64()?));
    let mut answer = Map::new();
    for (name, value) in claims {
        match name.as_str() {
            "sub" => answer.insert("subject".to_owned(), value.clone()),
            "aud" => answer.insert("audience".to_owned(), value.clone()),
            "iss" => answer.insert("issuer".to_owned(), value.clone()),
            "iat" => time("iat").and_then(|time| answer.insert("issued_at".to_owned(), time)),
            "exp" => time("exp").and_then(|time| answer.insert("expiration".to_owned(), time)),
            _ => answer.insert(name.clone(), value.clone()),
        };
    }
    json!({
        "is_valid": true,
        "claims": answer,
        "expiration_time": time("exp"),
        "user_id": claims.get("sub"),
    })
}

fn rfc3339(seconds: u64) -> Value {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds, 0))
        .unwrap_or_default();
    json!(time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

struct SigningKey {
    kid: String,
    private: EncodingKey,
    public: jwk::Jwk,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SigningKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    fn generate(size: KeySize) -> io::Result<Self> {
        let failed = |error: &dyn fmt::Display| {
            io::Error::other(format!("no RSA key could be generated: {error}"))
        };
        jose::ensure_crypto_provider();
        let key_pair = KeyPair::generate(size).map_err(|error| failed(&error))?;
        let der = key_pair.as_der().map_err(|error| failed(&error))?;
        // PKCS #8, which jsonwebtoken reads only from PEM.
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            BASE64_STANDARD.encode(der.as_ref())
        );
        let private = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|error| failed(&error))?;
        let mut public = jwk::Jwk::from_encoding_key(&private, Algorithm::RS256)
            .map_err(|error| failed(&error))?;
        let kid = Uuid::new_v4().to_string();
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(jwk::PublicKeyUse::Signature);
        public.common.key_algorithm = Some(jwk::KeyAlgorithm::RS256);
        Ok(Self {
            kid,
            private,
            public,
        })
    }

    fn sign(&self, claims: &Map<String, Value>) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.private)
            .expect("a key that this process generated signs any JSON")
    }

    fn sign_raw(&self, header: &[u8], payload: &[u8]) -> String {
        let signing_input = format!(
            "{}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(header),
            BASE64_URL_SAFE_NO_PAD.encode(payload)
        );
        let signature =
            jsonwebtoken::crypto::sign(signing_input.as_bytes(), &self.private, Algorithm::RS256)
                .expect("a key that this process generated signs any octets");
        format!("{signing_input}.{signature}")
    }
}

fn routes(state: Arc<State>) -> impl IntoEndpoint<Endpoint = impl Endpoint + 'static> {
    Route::new()
        .at("/.well-known/jwks.json", get(jwks))
        .at(
            "/sessions/validate",
            get(validate_session).post(validate_session_from_body),
        )
        .at("/logout", post(logout))
        .around(allow_loopback_pages)
        .data(state)
}

/// Cross-origin access as Hanko grants it to the origins in its configuration: with credentials, and any header.
async fn allow_loopback_pages(endpoint: Arc<impl Endpoint>, request: Request) -> Result<Response> {
    let origin = request
        .headers()
        .get(header::ORIGIN)
        .filter(|origin| origin.to_str().is_ok_and(is_on_loopback))
        .cloned();
    let is_preflight = request.method() == Method::OPTIONS;
    let requested_headers = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .cloned();
    let mut response = if is_preflight {
        StatusCode::NO_CONTENT.into()
    } else {
        endpoint.get_response(request).await
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin else {
        return Ok(response);
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    if is_preflight {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE"),
        );
        headers.insert(
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static("7200"),
        );
        if let Some(names) = requested_headers {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
    }
    Ok(response)
}

/// Whether a page of this origin came from a server on this machine.
fn is_on_loopback(origin: &str) -> bool {
    Url::parse(origin).is_ok_and(|url| {
        url.scheme() == "http"
            && matches!(url.host_str(), Some("localhost" | "127.0.0.1"))
            && url.origin().ascii_serialization() == origin
    })
}

#[handler]
fn jwks(state: Data<&Arc<State>>) -> Response {
    let mut inner = state.inner();
    inner.key_set_requests += 1;
    Json(inner.key_set())
        .with_header(header::CACHE_CONTROL, "max-age=600")
        .into_response()
}

/// The tokens of a request in the order in which Hanko tries them: the Bearer header, then the cookie.
fn tokens<'a>(request: &'a Request, cookie_name: &'a str) -> impl Iterator<Item = &'a str> {
    let bearer = request
        .header(header::AUTHORIZATION)
        .and_then(|value| value.strip_prefix("Bearer "));
    let cookies = request
        .headers()
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split("; "))
        .filter_map(|cookie| cookie.split_once('='))
        .filter_map(move |(name, value)| (name == cookie_name).then_some(value));
    bearer.into_iter().chain(cookies)
}

#[handler]
fn validate_session(request: &Request, state: Data<&Arc<State>>) -> Json<Value> {
    let answer = tokens(request, &state.cookie_name)
        .map(|token| state.validate(token))
        .find(|answer| answer["is_valid"] == true)
        .unwrap_or_else(|| json!({ "is_valid": false }));
    Json(answer)
}

/// Ends the session, tells the webhook, and takes the cookie away.
#[handler]
async fn logout(request: &Request, state: Data<&Arc<State>>) -> Response {
    let session_id = tokens(request, &state.cookie_name)
        .find_map(|token| state.claims_of_live_session(token))
        .and_then(|claims| claims["session_id"].as_str()?.parse().ok());
    let Some(session_id) = session_id else {
        return Json(json!({ "code": 401, "message": "Unauthorized" }))
            .with_status(StatusCode::UNAUTHORIZED)
            .into_response();
    };
    // As at Hanko, the session has ended whether the webhook gets through or not.
    if let Err(error) = state.end_session(session_id).await {
        tracing::warn!(%error, "the webhook was not delivered");
    }
    let cookie = format!("{}=; Path=/; Max-Age=0; SameSite=Lax", state.cookie_name);
    StatusCode::NO_CONTENT
        .with_header(header::SET_COOKIE, cookie)
        .into_response()
}

/// A session token and some JSON around it.
const MAX_BODY_BYTES: usize = 64 * 1024;

#[derive(Deserialize)]
struct ValidateSessionRequest {
    session_token: String,
}

#[handler]
async fn validate_session_from_body(body: poem::Body, state: Data<&Arc<State>>) -> Response {
    let octets = body
        .into_bytes_limit(MAX_BODY_BYTES)
        .await
        .unwrap_or_default();
    match serde_json::from_slice::<ValidateSessionRequest>(&octets) {
        Ok(request) if !request.session_token.is_empty() => {
            Json(state.validate(&request.session_token)).into_response()
        }
        _ => Json(json!({ "code": 400, "message": "Bad Request" }))
            .with_status(StatusCode::BAD_REQUEST)
            .into_response(),
    }
}
