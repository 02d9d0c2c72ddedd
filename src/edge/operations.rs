//! Finds the operation that a request is for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use poem::{
    Endpoint, EndpointExt, IntoEndpoint, PathPattern, Request, Response, Route,
    endpoint::{BoxEndpoint, DynEndpoint},
    error::MethodNotAllowedError,
    http::{Method, Uri, uri::PathAndQuery},
};
use poem_openapi::{
    OpenApi, OpenApiService,
    registry::{MetaApi, MetaOperation, MetaParamIn, Registry},
};

use super::{
    limits::{Exchange, with_current},
    routes::{RouteTable, pattern},
};
use crate::{
    metrics::UNMATCHED,
    openapi::{Conflict, RouteMap},
};

/// The operations of an API and the plain endpoints beside it, found by method and path.
///
/// Poem's router, with what poem-openapi puts around it, moves the request four times and parses a query even if there is
/// none. That takes 25% of the instructions of a small request (by callgrind, 22,470 with the router and 16,960 without).
///
/// So a request skips the router if it has no query, its path has no parameters, and its operation never reads the query:
/// the metadata name neither a query parameter nor an API key in the query. Such a request is looked up by path and method,
/// and gets the pattern of the path, which the router would have added. Poem routes all other requests, and those of
/// operations that name a cookie: an application may enable poem-openapi's feature `cookie`, which puts a cookie jar around
/// the router.
pub(crate) struct Operations {
    direct: HashMap<String, Direct>,
    routed: BoxEndpoint<'static>,
    routes: RouteTable,
    data: Vec<AddData>,
    paths: Paths,
}

/// The paths by which requests are counted.
#[derive(Default)]
struct Paths {
    /// The number of the first entry that serves each path, starting at 1. A nested endpoint serves two paths.
    numbers: HashMap<String, usize>,
    names: Vec<String>,
}

impl Paths {
    fn new(meta: &[MetaApi], plain: &[PlainEndpoint]) -> Result<Self, Conflict> {
        let mut paths = Self::default();
        for path in meta.iter().flat_map(|api| &api.paths) {
            paths.add(std::slice::from_ref(&path.path));
        }
        for endpoint in plain {
            paths.add(&endpoint.paths()?);
        }
        Ok(paths)
    }

    /// Adds the paths of one endpoint, under the name of the last one.
    fn add(&mut self, paths: &[String]) {
        let Some(name) = paths.last() else { return };
        if self.numbers.contains_key(name) {
            return;
        }
        self.names.push(name.clone());
        for path in paths {
            self.numbers.insert(path.clone(), self.names.len());
        }
    }

    fn number(&self, path: &str) -> usize {
        self.numbers.get(path).copied().unwrap_or(UNMATCHED)
    }
}

/// An endpoint behind Poem's router that notes the number of its route.
struct Routed<E> {
    number: usize,
    endpoint: E,
}

impl<E: Endpoint> Endpoint for Routed<E> {
    type Output = E::Output;

    // Not `async fn`: the endpoint has boxed its future already.
    fn call(&self, request: Request) -> impl Future<Output = poem::Result<E::Output>> + Send {
        with_current(|exchange| exchange.set_route(self.number));
        self.endpoint.call(request)
    }
}

/// The operations of one path that do not need the router.
struct Direct {
    route: usize,
    pattern: PathPattern,
    /// Shared with the router. Not boxed again: that would move the request once more.
    methods: Vec<(Method, Arc<BoxEndpoint<'static>>)>,
}

/// A plain endpoint beside the operations.
pub(crate) struct PlainEndpoint {
    pub(crate) path: String,
    /// Whether it also serves the paths below.
    pub(crate) is_nested: bool,
    pub(crate) endpoint: BoxEndpoint<'static>,
}

impl PlainEndpoint {
    /// Returns the paths that it serves, with parameters as in the document.
    ///
    /// # Errors
    /// [`Conflict::Path`]
    fn paths(&self) -> Result<Vec<String>, Conflict> {
        // Poem would panic.
        if self.is_nested && self.path.contains([':', '*', '<']) {
            return Err(Conflict::Path {
                path: self.path.clone(),
                reason: "a nested endpoint has a path without parameters".to_owned(),
            });
        }
        let segments: Vec<String> = self
            .path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| match segment.strip_prefix(':') {
                Some(name) if !name.contains(['<', '*']) => format!("{{{name}}}"),
                _ => segment.to_owned(),
            })
            .collect();
        let mut path = format!("/{}", segments.join("/"));
        if self.is_nested {
            let below = format!("{}/*rest", path.trim_end_matches('/'));
            return Ok(vec![path, below]);
        }
        if self.path.ends_with('/') && path != "/" {
            path.push('/');
        }
        Ok(vec![path])
    }

    /// Returns the paths of all of these.
    ///
    /// # Errors
    /// [`Conflict::Path`]
    pub(crate) fn all_paths(endpoints: &[Self]) -> Result<Vec<String>, Conflict> {
        let paths: Vec<Vec<String>> = endpoints
            .iter()
            .map(Self::paths)
            .collect::<Result<_, _>>()?;
        Ok(paths.concat())
    }

    /// Adds it to Poem's router.
    fn add_to(self, route: Route, paths: &Paths) -> Result<Route, Conflict> {
        let number = self
            .paths()?
            .last()
            .map_or(UNMATCHED, |path| paths.number(path));
        let endpoint = Routed {
            number,
            endpoint: self.endpoint,
        };
        let added = if self.is_nested {
            route.try_nest(&self.path, endpoint)
        } else {
            route.try_at(&self.path, endpoint)
        };
        added.map_err(|error| Conflict::Path {
            path: self.path,
            reason: error.to_string(),
        })
    }
}

/// What [`Operations`] are made of.
pub(crate) struct Endpoints {
    /// The metadata of the operations.
    pub(crate) meta: Vec<MetaApi>,
    /// Their endpoints.
    pub(crate) routes: RouteMap,
    /// The security schemes that need what Poem's router, or an endpoint around it, adds to a request.
    pub(crate) router_schemes: HashSet<String>,
    /// The endpoints beside them.
    pub(crate) plain: Vec<PlainEndpoint>,
    /// The paths of the pages, which come before all of these.
    pub(crate) pages: Vec<String>,
    /// Each adds the application's own data to a request.
    pub(crate) data: Vec<AddData>,
}

/// Adds something to the data of a request.
pub(crate) type AddData = Box<dyn Fn(&mut Request) + Send + Sync>;

#[cfg(test)]
impl Endpoints {
    /// Returns the endpoints of an API whose security scheme `Key`, if it has one, is in the query.
    pub(crate) fn of<A: OpenApi>(api: A) -> Self {
        let mut routes = RouteMap::new();
        api.add_routes(&mut routes);
        Self {
            meta: A::meta(),
            routes,
            router_schemes: HashSet::from(["Key".to_owned()]),
            plain: Vec::new(),
            pages: Vec::new(),
            data: Vec::new(),
        }
    }
}

/// An API whose endpoints exist already. Its metadata are elsewhere.
struct Existing(RouteMap);

impl OpenApi for Existing {
    fn meta() -> Vec<MetaApi> {
        Vec::new()
    }

    fn register(_registry: &mut Registry) {}

    fn add_routes(self, routes: &mut RouteMap) {
        routes.extend(self.0);
    }
}

impl Operations {
    /// Returns operations with one endpoint, which serves every request and has these routes.
    pub(crate) fn around(endpoint: impl Endpoint + 'static, routes: RouteTable) -> Self {
        Self {
            direct: HashMap::new(),
            routed: endpoint.map_to_response().boxed(),
            routes,
            data: Vec::new(),
            paths: Paths::default(),
        }
    }

    /// # Errors
    /// A [`Conflict`] of two routes.
    pub(crate) fn new(endpoints: Endpoints) -> Result<Self, Conflict> {
        let Endpoints {
            meta,
            routes: mut operations,
            router_schemes,
            plain,
            pages,
            data,
        } = endpoints;
        let plain_paths = PlainEndpoint::all_paths(&plain)?;
        let paths = Paths::new(&meta, &plain)?;
        let routes = RouteTable::from_meta(&meta, &plain_paths, &pages)?;
        // Poem's router prefers a catch-all that begins where a path ends.
        let catch_alls: Vec<String> = operations
            .keys()
            .chain(&plain_paths)
            .filter_map(|path| path.split_once('*'))
            .map(|(prefix, _)| prefix.to_owned())
            .collect();
        let mut direct = HashMap::new();
        for path in meta.iter().flat_map(|api| &api.paths) {
            if !is_fixed(&path.path) || catch_alls.contains(&path.path) {
                continue;
            }
            let methods: Vec<Method> = path
                .operations
                .iter()
                .filter(|operation| !needs_router(operation, &router_schemes))
                .map(|operation| operation.method.clone())
                .collect();
            let Some(endpoints) = operations.get_mut(&path.path) else {
                continue;
            };
            let found = direct.entry(path.path.clone()).or_insert_with(|| Direct {
                route: paths.number(&path.path),
                pattern: PathPattern(Arc::from(path.path.as_str())),
                methods: Vec::new(),
            });
            for method in methods {
                // The router needs the endpoint, too, for requests with a query.
                if let Some(endpoint) = endpoints.remove(&method) {
                    let shared: Arc<BoxEndpoint<'static>> = Arc::new(endpoint);
                    endpoints.insert(method.clone(), Arc::clone(&shared).boxed());
                    found.methods.push((method, shared));
                }
            }
        }
        for path in meta.iter().flat_map(|api| &api.paths) {
            let number = paths.number(&path.path);
            let Some(endpoints) = operations.get_mut(&pattern(&path.path)) else {
                continue;
            };
            *endpoints = std::mem::take(endpoints)
                .into_iter()
                .map(|(method, endpoint)| (method, Routed { number, endpoint }.boxed()))
                .collect();
        }
        let service = OpenApiService::new(Existing(operations), "", "").into_endpoint();
        let routed_by_poem = if plain.is_empty() {
            service
        } else {
            let plain = plain
                .into_iter()
                .try_fold(Route::new(), |route, endpoint| {
                    endpoint.add_to(route, &paths)
                })?;
            let beside = PlainBeside {
                routes: routes.clone(),
                plain,
                service,
            };
            beside.boxed()
        };
        Ok(Self {
            direct,
            routed: routed_by_poem,
            routes,
            data,
            paths,
        })
    }

    /// Returns the paths of the operations and endpoints. The number of each route is one more than its index.
    pub(crate) fn paths(&self) -> &[String] {
        &self.paths.names
    }

    /// Returns the response to a request for `path` that failed with `error`.
    pub(crate) async fn failed(
        &self,
        path: Option<PathAndQuery>,
        error: poem::Error,
        exchange: &Exchange,
    ) -> Response {
        let uri = path.map(Uri::from).unwrap_or_default();
        if error.is::<MethodNotAllowedError>()
            && let Some(path) = self.routes.template(&uri)
        {
            exchange.set_route(self.paths.number(&path));
        }
        self.routes.response(&uri, error).await
    }

    /// Returns the path in the document that matches `uri`.
    pub(crate) fn template(&self, uri: &Uri) -> Option<Arc<str>> {
        self.routes.template(uri)
    }

    /// Passes a request to its operation.
    pub(crate) fn call(
        &self,
        mut request: Request,
        exchange: &Exchange,
    ) -> BoxFuture<'_, poem::Result<Response>> {
        for add in &self.data {
            add(&mut request);
        }
        let Some((direct, endpoint)) = self.direct(&request) else {
            return DynEndpoint::call(&*self.routed, request);
        };
        exchange.set_route(direct.route);
        request.set_data(direct.pattern.clone());
        DynEndpoint::call(&***endpoint, request)
    }

    fn direct(&self, request: &Request) -> Option<(&Direct, &Arc<BoxEndpoint<'static>>)> {
        if request.uri().query().is_some() {
            return None;
        }
        let direct = self.direct.get(request.uri().path())?;
        direct
            .methods
            .iter()
            .find(|(method, _)| method == request.method())
            .map(|(_, endpoint)| (direct, endpoint))
    }
}

/// Plain endpoints and operations. A path is matched as if one router had them all. Poem's router cannot have them all,
/// since poem-openapi creates one of its own.
struct PlainBeside {
    routes: RouteTable,
    plain: Route,
    service: BoxEndpoint<'static>,
}

impl Endpoint for PlainBeside {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        if self.routes.is_operation(request.uri()).await == Some(false) {
            self.plain.call(request).await
        } else {
            DynEndpoint::call(&*self.service, request).await
        }
    }
}

/// Returns whether an operation reads what Poem's router, or an endpoint around it, adds to a request.
fn needs_router(operation: &MetaOperation, router_schemes: &HashSet<String>) -> bool {
    let has_parameter = operation
        .params
        .iter()
        .any(|parameter| !matches!(parameter.in_type, MetaParamIn::Header | MetaParamIn::Path));
    let mut schemes = operation.security.iter().flat_map(HashMap::keys);
    has_parameter || schemes.any(|scheme| router_schemes.contains(*scheme))
}

/// Returns whether a path of Poem's router matches only itself.
fn is_fixed(path: &str) -> bool {
    path.starts_with('/') && !path.contains("//") && !path.contains([':', '*', '<', '{'])
}

#[cfg(test)]
mod tests {
    use poem::{Endpoint, http::StatusCode, web::Data};
    use poem_openapi::{
        SecurityScheme,
        auth::ApiKey,
        param::{Path, Query},
        payload::PlainText,
    };

    use std::time::Duration;

    use super::*;
    use crate::{
        clock::ManualClock,
        edge::limits::{Connection, LimitSettings, Limits},
    };

    #[derive(SecurityScheme)]
    #[oai(ty = "api_key", key_name = "key", key_in = "query")]
    struct Key(ApiKey);

    fn operations<A: OpenApi>(api: A) -> Operations {
        Operations::new(Endpoints::of(api)).expect("no conflict")
    }

    struct Api;

    #[OpenApi]
    #[allow(clippy::unused_async, reason = "Poem wants async handlers")]
    impl Api {
        #[oai(path = "/pattern", method = "get")]
        async fn pattern(&self, pattern: Data<&PathPattern>) -> PlainText<String> {
            PlainText(pattern.0.0.to_string())
        }

        #[oai(path = "/search", method = "get")]
        async fn search(&self, words: Query<Option<String>>) -> PlainText<String> {
            PlainText(format!("{:?}", words.0))
        }

        #[oai(path = "/things/:id", method = "get")]
        async fn thing(&self, id: Path<u32>) -> PlainText<String> {
            PlainText(id.0.to_string())
        }

        #[oai(path = "/locked", method = "get")]
        async fn locked(&self, key: Key) -> PlainText<String> {
            PlainText(key.0.key)
        }
    }

    /// The status of a response, and its text.
    type Answer = (StatusCode, String);

    async fn answer(outcome: poem::Result<Response>) -> Answer {
        let response = outcome.unwrap_or_else(poem::Error::into_response);
        let status = response.status();
        let text = response.into_body().into_string().await.expect("text");
        (status, text)
    }

    fn exchange() -> Arc<Exchange> {
        let clock = Arc::new(ManualClock::new(Duration::ZERO));
        let limits = Arc::new(Limits::new(LimitSettings::default(), 0, clock));
        let connection = Arc::new(Connection::unknown(&limits));
        Exchange::begin(&limits, &connection).0
    }

    /// Returns the response to a request, and asserts that the router alone gives the same.
    async fn answer_as_routed<A: OpenApi + 'static>(
        operations: &Operations,
        service: OpenApiService<A, ()>,
        request: impl Fn() -> Request,
    ) -> Answer {
        let found = answer(operations.call(request(), &exchange()).await).await;
        let wanted = answer(service.into_endpoint().call(request()).await).await;
        assert_eq!(found, wanted, "{:?}", request());
        found
    }

    #[tokio::test]
    async fn direct_lookup_responds_as_the_router() {
        let service = || OpenApiService::new(Api, "test", "1");
        let operations = operations(Api);
        for (method, uri, is_direct, expected) in [
            (Method::GET, "/pattern", true, Some("/pattern")),
            (Method::GET, "/pattern?a=b", false, Some("/pattern")),
            (Method::GET, "/search", false, Some("None")),
            (Method::GET, "/search?", false, Some("None")),
            (
                Method::GET,
                "/search?words=two%20words",
                false,
                Some("Some(\"two words\")"),
            ),
            (Method::GET, "/things/7", false, Some("7")),
            (Method::GET, "/locked?key=open", false, Some("open")),
            (Method::HEAD, "/pattern", false, Some("")),
            (Method::GET, "/locked", false, None),
            (Method::POST, "/pattern", false, None),
            (Method::GET, "/things/:id", false, None),
            (Method::GET, "//pattern", false, None),
            (Method::GET, "/pattern/", false, None),
            (Method::GET, "/%70attern", false, None),
        ] {
            let request = || {
                Request::builder()
                    .method(method.clone())
                    .uri(uri.parse().expect("a URI"))
                    .finish()
            };
            assert_eq!(
                operations.direct(&request()).is_some(),
                is_direct,
                "{method} {uri}"
            );
            let found = answer_as_routed(&operations, service(), request).await;
            let text = (found.0 == StatusCode::OK).then_some(found.1);
            assert_eq!(text.as_deref(), expected, "{method} {uri}");
        }
    }

    struct CatchAll;

    #[OpenApi]
    #[allow(clippy::unused_async, reason = "Poem wants async handlers")]
    impl CatchAll {
        #[oai(path = "/", method = "get")]
        async fn root(&self) -> PlainText<&'static str> {
            PlainText("root")
        }

        #[oai(path = "/*rest", method = "get")]
        async fn rest(&self) -> PlainText<&'static str> {
            PlainText("rest")
        }
    }

    #[tokio::test]
    async fn catch_all_matches_the_path_before_it_as_in_the_router() {
        let service = || OpenApiService::new(CatchAll, "test", "1");
        let operations = operations(CatchAll);
        for path in ["/", "/a", "/a/b"] {
            let request = || {
                Request::builder()
                    .uri(path.parse().expect("a URI"))
                    .finish()
            };
            answer_as_routed(&operations, service(), request).await;
        }
    }
}
