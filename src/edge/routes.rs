//! The routes of an API, which add what the framework's errors lack.

use std::{collections::BTreeMap, fmt, sync::Arc};

use futures_util::FutureExt;
use poem::{
    Endpoint, IntoResponse, Middleware, Request, Response, Route,
    endpoint::make_sync,
    error::{MethodNotAllowedError, RouteError},
    http::{HeaderValue, Method, Uri},
};
use poem_openapi::{OpenApi, error::ParsePathError, registry::MetaApi};

use crate::{
    openapi::Conflict,
    problem::{self, Problem, ProblemType},
};

/// The routes of a whole API, made from its metadata.
///
/// As a middleware around the API, it converts every error to a problem. A 405 then has `Allow` (RFC 9110 section 15.5.6),
/// which Poem's own lacks, and an error about a path parameter has its name, which Poem does not know. Put it around all APIs
/// together, since one of them does not know the methods of another:
///
/// ```
/// # use poem::{EndpointExt, IntoEndpoint, Route};
/// # use poem_openapi::{OpenApi, OpenApiService, payload::PlainText};
/// # struct Api;
/// # #[OpenApi]
/// # impl Api {
/// #     #[oai(path = "/hello", method = "get")]
/// #     async fn hello(&self) -> PlainText<&'static str> { PlainText("hello") }
/// # }
/// use poem_hanko::{RouteTable, WithProblems};
///
/// let api = WithProblems(Api);
/// let routes = RouteTable::of(&api)?;
/// let service = OpenApiService::new(api, "hello", "1.0");
/// let app = Route::new().nest("/api", service.into_endpoint().with(routes));
/// # Ok::<(), poem_hanko::Conflict>(())
/// ```
#[derive(Clone, Default)]
pub struct RouteTable(Arc<Route>);

/// Information about one path.
#[derive(Debug)]
struct PathInfo {
    /// As in the document.
    path: Arc<str>,
    /// `None` if only the endpoint knows its methods.
    allow: Option<HeaderValue>,
    /// The names of the parameters in the path, in their order.
    parameters: Vec<String>,
}

/// An operation or another endpoint, to be named in a conflict.
struct Operation {
    /// `None` stands for all methods.
    method: Option<Method>,
    path: String,
    name: String,
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RouteTable").finish_non_exhaustive()
    }
}

impl RouteTable {
    /// Returns the routes of `api`.
    ///
    /// ```
    /// use poem_hanko::{HealthApi, MeApi, RouteTable};
    ///
    /// let routes = RouteTable::of(&(MeApi, HealthApi))?;
    /// assert!(RouteTable::of(&(MeApi, MeApi)).is_err());
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    ///
    /// # Errors
    /// [`Conflict`] if two operations have the same method and path, or paths that differ only in the names of their
    /// parameters.
    pub fn of<A: OpenApi>(_api: &A) -> Result<Self, Conflict> {
        Self::from_meta(&A::meta(), &[], &[])
    }

    /// Returns the routes of these APIs, and of plain endpoints and pages, which serve whole paths.
    pub(crate) fn from_meta(
        apis: &[MetaApi],
        plain: &[String],
        pages: &[String],
    ) -> Result<Self, Conflict> {
        let plain = plain.iter().map(|path| (path, "endpoint"));
        let others = plain.chain(pages.iter().map(|path| (path, "page")));
        let mut by_pattern: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
        for (path, kind) in others {
            let rivals = by_pattern.entry(pattern(path)).or_default();
            let name = format!("the {kind} at {path}");
            if let Some(rival) = rivals.first() {
                return Err(conflict(&rival.name, &name));
            }
            rivals.push(Operation {
                method: None,
                path: path.clone(),
                name,
            });
        }
        for path in apis.iter().flat_map(|api| &api.paths) {
            let operations = by_pattern.entry(pattern(&path.path)).or_default();
            for operation in &path.operations {
                let id = operation.operation_id.or(operation.summary);
                let name = id.map_or_else(String::new, |id| format!(" ({id})"));
                let added = Operation {
                    method: Some(operation.method.clone()),
                    path: path.path.clone(),
                    name: format!("{} {}{name}", operation.method, path.path),
                };
                let rival = operations.iter().find(|known| {
                    known.path != added.path
                        || known.method.is_none()
                        || known.method == added.method
                });
                if let Some(rival) = rival {
                    return Err(conflict(&rival.name, &added.name));
                }
                operations.push(added);
            }
        }
        let mut routes = Route::new();
        let mut added: Vec<&[Operation]> = Vec::new();
        for (pattern, operations) in &by_pattern {
            let Some(first) = operations.first() else {
                continue;
            };
            let info = Arc::new(PathInfo {
                path: Arc::from(first.path.as_str()),
                allow: allow(operations),
                parameters: parameters(&first.path),
            });
            let endpoint =
                make_sync(move |_| Response::builder().extension(Arc::clone(&info)).finish());
            routes = routes.try_at(pattern, endpoint).map_err(|error| {
                if !matches!(error, RouteError::Duplicate(_)) {
                    return Conflict::Path {
                        path: first.path.clone(),
                        reason: error.to_string(),
                    };
                }
                // For example two catch-alls that differ in their names: the text before them is the same.
                let prefix = pattern.split('*').next().unwrap_or_default();
                let rival = added
                    .iter()
                    .flat_map(|operations| operations.iter())
                    .find(|operation| operation.path.split('*').next() == Some(prefix));
                match rival {
                    Some(rival) => conflict(&rival.name, &first.name),
                    None => conflict(&error.to_string(), &first.name),
                }
            })?;
            added.push(operations);
        }
        Ok(Self(Arc::new(routes)))
    }

    /// Returns the response to a request for `uri` that failed with `error`.
    pub(crate) async fn response(&self, uri: &Uri, error: poem::Error) -> Response {
        if error.is::<MethodNotAllowedError>() {
            let info = self.find(uri).await;
            return match info.as_ref().and_then(|info| info.allow.as_ref()) {
                Some(allow) => problem::method_not_allowed(allow),
                None => problem::from_error(error),
            };
        }
        if let Some(position) = error
            .downcast_ref::<ParsePathError>()
            .and_then(|error| problem::path_parameter_position(error.name))
            && let Some(info) = self.find(uri).await
            && let Some(name) = info.parameters.get(position)
        {
            return Problem::from(ProblemType::BAD_REQUEST)
                .with_detail(problem::parameter_detail(name))
                .into_response();
        }
        problem::from_error(error)
    }

    /// Returns whether an operation serves the path, rather than a plain endpoint or a page; `None` if nothing serves it.
    pub(crate) async fn is_operation(&self, uri: &Uri) -> Option<bool> {
        self.find(uri).await.map(|info| info.allow.is_some())
    }

    /// Returns the path in the document that matches `uri`, with the names of its parameters.
    pub(crate) fn template(&self, uri: &Uri) -> Option<Arc<str>> {
        // Poem's router never waits.
        let info = self.find(uri).now_or_never().flatten()?;
        Some(Arc::clone(&info.path))
    }

    async fn find(&self, uri: &Uri) -> Option<Arc<PathInfo>> {
        let request = Request::builder().uri(uri.clone()).finish();
        let response = self.0.call(request).await.ok()?;
        response.extensions().get().cloned()
    }
}

impl<E: Endpoint> Middleware<E> for RouteTable {
    type Output = WithRouteTable<E>;

    fn transform(&self, endpoint: E) -> Self::Output {
        WithRouteTable {
            endpoint,
            routes: self.clone(),
        }
    }
}

/// An endpoint whose errors are problems: see [`RouteTable`].
///
/// ```
/// use poem::{EndpointExt, Route};
/// use poem_hanko::{RouteTable, WithRouteTable};
///
/// fn with_problems(routes: Route, table: RouteTable) -> WithRouteTable<Route> {
///     routes.with(table)
/// }
/// ```
#[derive(Debug)]
pub struct WithRouteTable<E> {
    endpoint: E,
    routes: RouteTable,
}

impl<E: Endpoint> Endpoint for WithRouteTable<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let uri = request.uri().clone();
        Ok(match self.endpoint.call(request).await {
            Ok(output) => output.into_response(),
            Err(error) => self.routes.response(&uri, error).await,
        })
    }
}

fn conflict(first: &str, second: &str) -> Conflict {
    Conflict::Route {
        first: first.to_owned(),
        second: second.to_owned(),
    }
}

/// Returns the path as poem-openapi gives it to Poem's router, where parameters are called `param0`, `param1` and so on.
pub(super) fn pattern(path: &str) -> String {
    let mut count = 0;
    let segments: Vec<String> = path
        .split('/')
        .map(|segment| {
            if parameter(segment).is_none() {
                return segment.to_owned();
            }
            count += 1;
            format!(":param{}", count - 1)
        })
        .collect();
    segments.join("/")
}

/// Returns the name of the parameter if the segment is one.
fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

fn parameters(path: &str) -> Vec<String> {
    path.split('/')
        .filter_map(parameter)
        .map(ToOwned::to_owned)
        .collect()
}

/// Returns the value of `Allow`. `HEAD` is served wherever `GET` is; `OPTIONS` belongs to CORS.
fn allow(operations: &[Operation]) -> Option<HeaderValue> {
    let mut methods: Vec<&str> = operations
        .iter()
        .map(|operation| operation.method.as_ref().map(Method::as_str))
        .collect::<Option<_>>()?;
    if methods.contains(&"GET") && !methods.contains(&"HEAD") {
        methods.push("HEAD");
    }
    methods.sort_unstable();
    HeaderValue::try_from(methods.join(", ")).ok()
}

#[cfg(test)]
mod tests {
    use poem_openapi::payload::PlainText;

    use super::*;

    macro_rules! api {
        ($name:ident, $method:literal, $path:literal, $id:literal) => {
            struct $name;

            #[OpenApi]
            #[allow(clippy::unused_async, reason = "Poem wants async handlers")]
            impl $name {
                #[oai(path = $path, method = $method, operation_id = $id)]
                async fn handle(&self) -> PlainText<&'static str> {
                    PlainText("")
                }
            }
        };
    }

    api!(GetThing, "get", "/things/:id", "getThing");
    api!(ReadThing, "get", "/things/:id", "readThing");
    api!(DeleteThing, "delete", "/things/:id", "deleteThing");
    api!(DeleteNamed, "delete", "/things/:name", "deleteNamed");
    api!(GetFile, "get", "/files/*path", "getFile");
    api!(PutFile, "put", "/files/*name", "putFile");

    #[test]
    fn conflicting_routes_are_named() {
        for (error, first, second) in [
            (
                RouteTable::of(&(GetThing, ReadThing)).unwrap_err(),
                "GET /things/{id} (getThing)",
                "GET /things/{id} (readThing)",
            ),
            (
                RouteTable::of(&(GetThing, DeleteNamed)).unwrap_err(),
                "GET /things/{id} (getThing)",
                "DELETE /things/{name} (deleteNamed)",
            ),
            (
                RouteTable::of(&(GetFile, PutFile)).unwrap_err(),
                "PUT /files/*name (putFile)",
                "GET /files/*path (getFile)",
            ),
        ] {
            let expected = Conflict::Route {
                first: first.to_owned(),
                second: second.to_owned(),
            };
            assert_eq!(error, expected);
            let text = error.to_string();
            assert!(text.contains(first) && text.contains(second), "{text}");
        }
        assert!(RouteTable::of(&(GetThing, DeleteThing, GetFile)).is_ok());
    }
}
