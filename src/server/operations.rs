//! Passes a request to its operation.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::BoxFuture;
use poem::{
    IntoEndpoint, PathPattern, Request, Response,
    endpoint::{BoxEndpoint, DynEndpoint},
    http::{Method, Uri, uri::PathAndQuery},
};
use poem_openapi::{__private::UrlQuery, OpenApi, OpenApiService};

use crate::openapi::{RouteConflict, RouteTable};

/// The operations of an API.
///
/// Poem's router passes a request through three more boxed futures than the operation needs, each of which holds several
/// copies of it: for a small response that costs as much as the operation. A request without a query whose path has no
/// parameters needs nothing of the router. It is looked up by path and method, and gets what the router would have added: an
/// empty query, and the pattern of the path. With poem-openapi's feature `cookie`, which is off, it would also need the cookie
/// jar. All other requests are routed by Poem.
pub(super) struct Operations {
    direct: HashMap<String, Direct>,
    routed: BoxEndpoint<'static>,
    routes: RouteTable,
}

/// The operations of one path.
struct Direct {
    pattern: PathPattern,
    methods: Vec<(Method, BoxEndpoint<'static>)>,
}

impl Operations {
    /// Creates it from the operations of `service`, and the service itself.
    ///
    /// # Errors
    /// [`RouteConflict`]
    pub(super) fn new<A: OpenApi + 'static>(
        operations: A,
        service: OpenApiService<A, ()>,
    ) -> Result<Self, RouteConflict> {
        let routes = RouteTable::of(&operations)?;
        let mut endpoints = HashMap::new();
        operations.add_routes(&mut endpoints);
        let catch_alls: Vec<String> = endpoints
            .keys()
            .filter_map(|path| path.split_once('*'))
            .map(|(prefix, _)| prefix.to_owned())
            .collect();
        let direct = endpoints
            .into_iter()
            // Poem's router prefers a catch-all that begins where a path ends.
            .filter(|(path, _)| is_fixed(path) && !catch_alls.contains(path))
            .map(|(path, methods)| {
                let direct = Direct {
                    pattern: PathPattern(Arc::from(path.as_str())),
                    methods: methods.into_iter().collect(),
                };
                (path, direct)
            })
            .collect();
        Ok(Self {
            direct,
            routed: service.into_endpoint(),
            routes,
        })
    }

    /// Returns the response to a request for `path` that failed with `error`.
    pub(super) async fn failed(&self, path: Option<PathAndQuery>, error: poem::Error) -> Response {
        self.routes
            .response(&path.map(Uri::from).unwrap_or_default(), error)
            .await
    }

    /// Passes a request to its operation.
    pub(super) fn call(&self, mut request: Request) -> BoxFuture<'_, poem::Result<Response>> {
        let Some((pattern, endpoint)) = self.direct(&request) else {
            return DynEndpoint::call(&*self.routed, request);
        };
        request.set_data(UrlQuery(Vec::new()));
        request.set_data(pattern.clone());
        DynEndpoint::call(&**endpoint, request)
    }

    fn direct(&self, request: &Request) -> Option<(&PathPattern, &BoxEndpoint<'static>)> {
        if request.uri().query().is_some() {
            return None;
        }
        let direct = self.direct.get(request.uri().path())?;
        direct
            .methods
            .iter()
            .find(|(method, _)| method == request.method())
            .map(|(_, endpoint)| (&direct.pattern, endpoint))
    }
}

/// Returns whether a path of Poem's router matches only itself.
fn is_fixed(path: &str) -> bool {
    path.starts_with('/') && !path.contains("//") && !path.contains([':', '*', '<'])
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

    use super::*;

    #[derive(SecurityScheme)]
    #[oai(ty = "api_key", key_name = "key", key_in = "query")]
    struct Key(ApiKey);

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

    /// The status of an answer, and its text.
    type Answer = (StatusCode, String);

    async fn answer(outcome: poem::Result<Response>) -> Answer {
        let response = outcome.unwrap_or_else(poem::Error::into_response);
        let status = response.status();
        let text = response.into_body().into_string().await.expect("text");
        (status, text)
    }

    /// The answer to a request on the way that it takes, which is asserted to be that of the router.
    async fn answer_as_routed<A: OpenApi + 'static>(
        operations: &Operations,
        service: OpenApiService<A, ()>,
        request: impl Fn() -> Request,
    ) -> Answer {
        let found = answer(operations.call(request()).await).await;
        let wanted = answer(service.into_endpoint().call(request()).await).await;
        assert_eq!(found, wanted, "{:?}", request());
        found
    }

    #[tokio::test]
    async fn the_direct_way_leads_where_the_router_leads() {
        let service = || OpenApiService::new(Api, "test", "1");
        let operations = Operations::new(Api, service()).expect("no conflict");
        for (method, uri, is_direct, expected) in [
            (Method::GET, "/pattern", true, Some("/pattern")),
            (Method::GET, "/pattern?a=b", false, Some("/pattern")),
            (Method::GET, "/search", true, Some("None")),
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
            (Method::GET, "/locked", true, None),
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
    async fn a_catch_all_takes_the_path_it_begins_at_as_with_the_router() {
        let service = || OpenApiService::new(CatchAll, "test", "1");
        let operations = Operations::new(CatchAll, service()).expect("no conflict");
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
