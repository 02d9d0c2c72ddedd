//! The edge of a service: the code between clients and handlers, whichever server accepts the connections. It routes each
//! request, enforces limits, applies CORS, converts errors to problems, and adds the headers that every response has.

mod access_log;
mod client_address;
pub(crate) mod cors;
pub(crate) mod html;
pub(crate) mod limits;
mod operations;
mod pages;
mod routes;

use std::{convert::Infallible, fmt, io, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use http_body_util::combinators::BoxBody;
use hyper::body::Bytes;
use poem::{
    Endpoint, Middleware, Request, Response,
    endpoint::DynEndpoint,
    http::{
        self, HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{self, Entry},
    },
};
use tower::{Layer, ServiceExt};
use tower_http::cors::CorsLayer;
use tracing::Instrument;
use uuid::Uuid;

pub(crate) use self::client_address::client_address;
pub(crate) use self::operations::{AddData, Endpoints, Operations, PlainEndpoint};
use self::{
    access_log::AccessEntry,
    cors::Origin,
    limits::{Connection, Exchange, LimitError, LimitSettings, Limits, RequestBody},
};
pub use self::{
    client_address::{TrustedProxies, TrustedProxiesError},
    limits::{LimitedEndpoint, RequestLimits},
    pages::{Pages, WithPages},
    routes::{RouteTable, WithRouteTable},
};
use crate::{
    auth::forward::ForwardAuth,
    hanko::Hanko,
    metrics::Method,
    operations::Draining,
    problem::{self, Problem, ProblemType},
    trace::{self, Incoming, RequestSpan},
};

/// Identifies a request in our log and in those of proxies.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id than this is replaced by one of ours.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// The seconds after which a client may retry a request that was rejected for lack of capacity or time.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A middleware to put around a whole Poem app. `App` puts the same around its API.
///
/// - It puts the [`Hanko`] into the data of each request.
/// - It bounds requests, bodies and time; an operation can set [`RequestLimits`] of its own.
/// - It responds to CORS preflights, and allows the origins that the [`Hanko`] trusts, with credentials.
/// - It converts each error and each panic to a problem (RFC 9457). No other error text reaches a client.
/// - It adds `X-Request-Id`, `X-Content-Type-Options`, and `Cache-Control: no-store` unless the response has its own.
///
/// Poem's own server sets no limits on connections and heads: put it behind a proxy that does, or use `App`.
///
/// ```no_run
/// use poem::{EndpointExt, Route, Server, get, handler, listener::TcpListener};
/// use poem_hanko::{Edge, Hanko, HankoUrl, require, webhook_endpoint};
///
/// #[handler]
/// async fn hello(request: &poem::Request) -> poem::Result<String> {
///     let session = require::<()>(request).await?;
///     Ok(format!("Hello, {}!", session.user_id()))
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let url: HankoUrl = "https://example.hanko.io".parse()?;
/// let hanko = Hanko::builder(url).build()?;
/// let app = Route::new()
///     .at("/hello", get(hello))
///     .at("/webhooks/hanko", webhook_endpoint())
///     .with(Edge::new(&hanko));
/// Server::new(TcpListener::bind("127.0.0.1:8000")).run(app).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Edge {
    hanko: Hanko,
    limits: LimitSettings,
    routes: RouteTable,
    trusted_proxies: TrustedProxies,
    has_access_log: bool,
}

impl Edge {
    /// Returns a middleware for the sessions of `hanko`, with default limits: 4096 requests at a time, bodies of 256 KiB, and
    /// 30 s for body and handler together.
    ///
    /// ```
    /// use poem::{EndpointExt, Route};
    /// use poem_hanko::{Edge, Hanko};
    ///
    /// fn app(routes: Route, hanko: &Hanko) -> impl poem::Endpoint {
    ///     routes.with(Edge::new(hanko))
    /// }
    /// ```
    pub fn new(hanko: &Hanko) -> Self {
        Self {
            hanko: hanko.clone(),
            limits: LimitSettings::default(),
            routes: RouteTable::default(),
            trusted_proxies: TrustedProxies::default(),
            has_access_log: false,
        }
    }

    /// Sets the routes of the API inside. With them, a 405 names the methods of its path, a 400 names the invalid parameter, and
    /// the access log names the route.
    ///
    /// ```
    /// use poem_hanko::{Conflict, Edge, Hanko, MeApi, RouteTable};
    ///
    /// fn edge(hanko: &Hanko) -> Result<Edge, Conflict> {
    ///     Ok(Edge::new(hanko).routes(RouteTable::of(&MeApi)?))
    /// }
    /// ```
    #[must_use]
    pub fn routes(mut self, routes: RouteTable) -> Self {
        self.routes = routes;
        self
    }

    /// Sets the proxies whose `X-Forwarded-For` and `traceparent` are believed. Default: none.
    ///
    /// ```
    /// use poem_hanko::{Edge, Hanko, TrustedProxiesError};
    ///
    /// fn edge(hanko: &Hanko) -> Result<Edge, TrustedProxiesError> {
    ///     Ok(Edge::new(hanko).trusted_proxies("10.0.0.0/8".parse()?))
    /// }
    /// ```
    #[must_use]
    pub fn trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.trusted_proxies = proxies;
        self
    }

    /// Sets whether each request is logged in one line: method, route, status, duration, request id, client, and, if the
    /// signature of the token was valid, the session and its user. These lines are never sampled, and replace those about
    /// rejected requests. Default: false.
    ///
    /// ```
    /// use poem_hanko::{Edge, Hanko};
    ///
    /// fn edge(hanko: &Hanko) -> Edge {
    ///     Edge::new(hanko).access_log(true)
    /// }
    /// ```
    #[must_use]
    pub fn access_log(mut self, is_on: bool) -> Self {
        self.has_access_log = is_on;
        self
    }

    /// Sets how many requests may wait for their response at a time. Others get 503 `overloaded`. Default: 4096.
    ///
    /// ```
    /// use poem_hanko::{Edge, Hanko};
    ///
    /// fn edge(hanko: &Hanko) -> Edge {
    ///     Edge::new(hanko).max_requests(1_000)
    /// }
    /// ```
    #[must_use]
    pub fn max_requests(mut self, requests: usize) -> Self {
        self.limits.max_requests = requests;
        self
    }

    /// Sets the largest body, in bytes. A larger one gets 413 `content-too-large`. Default: 256 KiB.
    ///
    /// ```
    /// use poem_hanko::{Edge, Hanko};
    ///
    /// fn edge(hanko: &Hanko) -> Edge {
    ///     Edge::new(hanko).max_body(1024 * 1024)
    /// }
    /// ```
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.limits.max_body = bytes;
        self
    }

    /// Sets the time for body and handler together. A late body gets 408 `request-timeout`, a late handler 503
    /// `handler-timeout`. Default: 30 s.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::{Edge, Hanko};
    ///
    /// fn edge(hanko: &Hanko) -> Edge {
    ///     Edge::new(hanko).timeout(Duration::from_secs(10))
    /// }
    /// ```
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.request_timeout = timeout;
        self
    }
}

impl<E: Endpoint + 'static> Middleware<E> for Edge {
    type Output = EdgeEndpoint;

    fn transform(&self, endpoint: E) -> EdgeEndpoint {
        let operations = Operations::around(endpoint, self.routes.clone());
        let core = EdgeCore::new(self.hanko.clone(), operations, Pages::default())
            .trusting(self.trusted_proxies.clone())
            .logging_requests(self.has_access_log);
        EdgeEndpoint::new(core, self.limits)
    }
}

/// An endpoint with an [`Edge`] around it.
///
/// ```
/// use poem::{EndpointExt, Route, test::TestClient};
/// use poem_hanko::{Edge, EdgeEndpoint, Hanko};
///
/// fn client(routes: Route, hanko: &Hanko) -> TestClient<EdgeEndpoint> {
///     TestClient::new(routes.with(Edge::new(hanko)))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct EdgeEndpoint {
    core: Arc<EdgeCore>,
    limits: Arc<Limits>,
}

impl EdgeEndpoint {
    pub(crate) fn new(core: EdgeCore, settings: LimitSettings) -> Self {
        let clock = Arc::clone(core.hanko.clock());
        Self {
            core: Arc::new(core),
            limits: Arc::new(Limits::new(settings, 0, clock)),
        }
    }
}

impl Endpoint for EdgeEndpoint {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let connection = Arc::new(Connection::unknown(&self.limits));
        let (exchange, admitted) = Exchange::begin(&self.limits, &connection);
        let rejection = admitted.err().map(LimitError::problem_type);
        RequestBody::limit(&mut request, &exchange);
        let core = Arc::clone(&self.core);
        let (span, entry) = core.observe(&mut request);
        let of_core = Arc::clone(&exchange);
        let response = if core.applies_cors(&request) {
            span.enclose(core.respond_to_origin(request, of_core, rejection))
                .await
        } else {
            span.enclose(core.respond(request, of_core, rejection, Origin::None))
                .await
        };
        span.responded(response.status());
        if let Some(entry) = entry {
            let limit = rejection.or(exchange.error().map(LimitError::problem_type));
            entry.log(response.status(), limit);
        }
        Ok(response)
    }
}

/// Serves every request: passes it to a page or an operation, makes problems of errors and panics, and adds the headers that
/// every response has.
pub(crate) struct EdgeCore {
    hanko: Hanko,
    operations: Operations,
    pages: Pages,
    cors: CorsLayer,
    forward_auth: Option<ForwardAuth>,
    trusted_proxies: TrustedProxies,
    has_access_log: bool,
}

impl fmt::Debug for EdgeCore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EdgeCore").finish_non_exhaustive()
    }
}

impl EdgeCore {
    /// Requests for anything but a page go to `operations`. All of them have `hanko` in their data.
    pub(crate) fn new(hanko: Hanko, operations: Operations, pages: Pages) -> Self {
        Self {
            cors: cors::layer(hanko.clone()),
            hanko,
            operations,
            pages,
            forward_auth: None,
            trusted_proxies: TrustedProxies::default(),
            has_access_log: false,
        }
    }

    /// Sets the forward-auth endpoint, for the requests of proxies that protect other sites.
    #[cfg(feature = "server")]
    pub(crate) fn forward_auth(mut self, forward_auth: Option<ForwardAuth>) -> Self {
        self.forward_auth = forward_auth;
        self
    }

    /// Returns the forward-auth endpoint if it serves this path.
    fn forward_auth_of(&self, path: &str) -> Option<&ForwardAuth> {
        self.forward_auth
            .as_ref()
            .filter(|forward_auth| forward_auth.serves(path))
    }

    /// Returns whether CORS applies to a request. It never applies to forward-auth: a protected site responds to its own
    /// preflights, and a preflight without a session must not reach it.
    pub(crate) fn applies_cors(&self, request: &Request) -> bool {
        request.headers().contains_key(header::ORIGIN)
            && self.forward_auth_of(request.uri().path()).is_none()
    }

    /// Sets the proxies whose `X-Forwarded-For` is believed.
    pub(crate) fn trusting(mut self, proxies: TrustedProxies) -> Self {
        self.trusted_proxies = proxies;
        self
    }

    /// Sets whether requests have a line in the access log.
    pub(crate) fn logging_requests(mut self, is_on: bool) -> Self {
        self.has_access_log = is_on;
        self
    }

    /// Starts the span of a request, and its line in the access log if that is on. The caller ends the span and logs the line
    /// when it sends the response.
    pub(crate) fn observe(&self, request: &mut Request) -> (RequestSpan, Option<Box<AccessEntry>>) {
        if !self.has_access_log && !trace::is_on() {
            return (RequestSpan::default(), None);
        }
        // The response gets the same.
        let request_id = request_id(request.headers());
        request.headers_mut().insert(REQUEST_ID, request_id.clone());
        let route = self.route_of(request);
        let client = self.trusted_proxies.client_of(request);
        let span = if trace::is_on() {
            let is_trusted = self.trusted_proxies.sent(request);
            RequestSpan::begin(&Incoming {
                method: request.method().into(),
                route: route.as_deref(),
                version: request.version(),
                request_id: &request_id,
                client,
                trusted: is_trusted.then(|| request.headers()),
            })
        } else {
            RequestSpan::default()
        };
        let entry = self.has_access_log.then(|| {
            let trace_id = span.trace_id();
            let clock = self.hanko.clock();
            let entry = AccessEntry::begin(request, request_id, route, client, trace_id, clock);
            Box::new(entry)
        });
        (span, entry)
    }

    /// Returns the path in the document that a request is for.
    fn route_of(&self, request: &Request) -> Option<Arc<str>> {
        match self.forward_auth_of(request.uri().path()) {
            Some(forward_auth) => Some(forward_auth.path().into()),
            None => self.operations.template(request.uri()),
        }
    }

    /// Returns the routes by which requests are counted, in the order of their numbers.
    #[cfg(feature = "server")]
    pub(crate) fn routes(&self) -> Vec<String> {
        let paths = self.operations.paths().iter().map(String::as_str);
        let pages = self.pages.paths();
        let forward_auth = self.forward_auth.iter().map(ForwardAuth::path);
        let all = paths.chain(pages).chain(forward_auth);
        all.map(ToOwned::to_owned).collect()
    }

    /// Returns the number of the route `/`, which has a page for browsers beside its operation.
    fn root_route(&self) -> usize {
        let paths = self.operations.paths();
        paths
            .iter()
            .position(|path| path == "/")
            .map_or(0, |index| index + 1)
    }

    /// Returns what authenticates its requests.
    #[cfg(feature = "server")]
    pub(crate) fn hanko(&self) -> &Hanko {
        &self.hanko
    }

    /// Responds to a request that has an `Origin`.
    pub(crate) fn respond_to_origin(
        self: Arc<Self>,
        request: Request,
        exchange: Arc<Exchange>,
        rejection: Option<ProblemType>,
    ) -> BoxFuture<'static, Response> {
        // The layer reads the method and the headers only.
        let mut head = http::Request::new(());
        *head.method_mut() = request.method().clone();
        head.headers_mut().clone_from(request.headers());
        let cors = self.cors.clone();
        // The layer responds to a preflight itself, without a request id.
        let preflight_id =
            (request.method() == http::Method::OPTIONS).then(|| request_id(request.headers()));
        let mut request = Some(request);
        let inner = tower::service_fn(move |_head: http::Request<()>| {
            // Called at most once: never for a preflight, to which the layer responds.
            let response = request.take().map(|request| {
                Arc::clone(&self).respond(request, Arc::clone(&exchange), rejection, Origin::Some)
            });
            async move {
                let response = match response {
                    Some(response) => response.await,
                    None => problem_response(ProblemType::INTERNAL_ERROR),
                };
                Ok::<_, Infallible>(http::Response::<BoxBody<Bytes, io::Error>>::from(response))
            }
        });
        let response = cors.layer(inner).oneshot(head);
        Box::pin(response.map(|outcome| {
            let Ok(response) = outcome;
            let mut response = Response::from(response);
            if let Some(id) = preflight_id {
                response.headers_mut().entry(REQUEST_ID).or_insert(id);
            }
            response
        }))
    }

    /// Responds to a request, with `rejection` if there is one.
    ///
    /// Not `async fn`: its state machine would hold several copies of `Request`.
    pub(crate) fn respond(
        self: Arc<Self>,
        mut request: Request,
        exchange: Arc<Exchange>,
        rejection: Option<ProblemType>,
        origin: Origin,
    ) -> impl Future<Output = Response> + Send + use<> {
        let request_id = request_id(request.headers());
        let method = request.method().clone();
        let path = request.uri().path_and_query().cloned();
        request.set_data(self.hanko.clone());
        if !self.trusted_proxies.is_empty() {
            request.set_data(self.trusted_proxies.clone());
        }
        if exchange.is_draining() {
            request.set_data(Draining);
        }
        let span = tracing::debug_span!("request", id = request_id.to_str().unwrap_or_default());
        async move {
            let root = self.pages.root(&request);
            let mut response = match rejection {
                Some(problem_type) => problem_response(problem_type),
                None => {
                    // Boxed: otherwise the state machine would hold several copies of `Request`.
                    let uri_path = request.uri().path();
                    let page = match root {
                        Some(root) => root.page(&request).map(|page| (self.root_route(), page)),
                        None => self.pages.get(uri_path).map(|(number, page)| {
                            (self.operations.paths().len() + 1 + number, page)
                        }),
                    };
                    let outcome: BoxFuture<'_, poem::Result<Response>> =
                        if let Some(forward_auth) = self.forward_auth_of(uri_path) {
                            let others = self.operations.paths().len() + self.pages.len();
                            exchange.set_route(others + 1);
                            Box::pin(async move { Ok(forward_auth.respond(&request).await) })
                        } else if let Some((route, page)) = page {
                            exchange.set_route(route);
                            DynEndpoint::call(page, request)
                        } else {
                            self.operations.call(request, &exchange)
                        };
                    let outcome = AssertUnwindSafe(outcome).catch_unwind();
                    let outcome = exchange.limit(outcome).instrument(span.clone()).await;
                    let response = match outcome {
                        Ok(Ok(Ok(response))) => response,
                        Ok(Ok(Err(error))) => {
                            Box::pin(self.operations.failed(path, error, &exchange))
                                .instrument(span.clone())
                                .await
                        }
                        Ok(Err(_panic)) => problem::from_panic(),
                        Err(error) => problem_response(error.problem_type()),
                    };
                    limited(response, &exchange)
                }
            };
            if let Some(root) = root {
                root.complete(&mut response);
            }
            let _entered = span.enter();
            // Never the path, nor an unknown method: either may contain a token.
            let method = Method::from(&method).name();
            tracing::debug!(
                event = "responded",
                method,
                status = response.status().as_u16(),
                "sent the response"
            );
            let headers = response.headers_mut();
            headers.insert(REQUEST_ID, request_id);
            headers.insert(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
            // A response may depend on a session unless it says otherwise.
            match headers.entry(header::CACHE_CONTROL) {
                Entry::Vacant(entry) => {
                    entry.insert(HeaderValue::from_static("no-store"));
                }
                Entry::Occupied(_) if origin == Origin::None => cors::vary(headers),
                Entry::Occupied(_) => {}
            }
            response
        }
    }
}

/// Returns the response of a handler. If it is an error and the body has reached a limit, returns the problem of that limit
/// instead: to the handler, the limit looked like a lost connection.
fn limited(response: Response, exchange: &Exchange) -> Response {
    match exchange.error() {
        Some(error)
            if response.status().is_client_error() || response.status().is_server_error() =>
        {
            problem_response(error.problem_type())
        }
        _ => response,
    }
}

fn problem_response(problem_type: ProblemType) -> Response {
    let mut response = Problem::from(problem_type).into_response();
    if problem_type.status() == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// Rejects a streaming response, or an upgrade, that had these headers.
pub(crate) fn reject_stream(headers: HeaderMap) -> Response {
    let mut response = problem_response(ProblemType::OVERLOADED);
    let about_stream = |name: &HeaderName| {
        name == header::CONNECTION
            || name == header::UPGRADE
            || name.as_str().starts_with("content-")
            || name.as_str().starts_with("sec-websocket-")
    };
    let mut last = None;
    for (name, value) in headers {
        // The iterator yields the name of a repeated field only once.
        last = name.or(last);
        if let Some(name) = last.clone().filter(|name| !about_stream(name)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Returns the id that came with the request if it is well-formed, otherwise a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_harmless = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=MAX_REQUEST_ID_BYTES).contains(&bytes.len())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    headers
        .get(REQUEST_ID)
        .filter(is_harmless)
        .cloned()
        .unwrap_or_else(|| {
            let mut text = [0; uuid::fmt::Simple::LENGTH];
            let id = Uuid::new_v4().simple().encode_lower(&mut text);
            HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("unknown"))
        })
}
