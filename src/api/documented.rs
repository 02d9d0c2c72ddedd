//! What all operations have in common, said in one place.

use std::collections::HashMap;

use poem::{
    EndpointExt,
    endpoint::{BoxEndpoint, make_sync},
    http::{HeaderValue, Method},
};
use poem_openapi::{
    OpenApi,
    registry::{MetaApi, MetaOperation, Registry},
};

use crate::problem::{self, Problem, ProblemType};

/// The methods that a path is asked for in practice. `HEAD` is answered wherever `GET` is; `OPTIONS` belongs to CORS.
const METHODS: [Method; 6] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::TRACE,
];

/// Wraps an API so that each of its operations documents the errors it can answer, and each of its paths answers 405 with
/// `Allow` to methods that it lacks.
///
/// Poem documents only what a handler's return type names, and an extractor's errors are not in it. With this the
/// handlers go on returning `Json<T>`.
pub struct Documented<A>(A);

impl<A: OpenApi> Documented<A> {
    /// Wraps `api`.
    pub fn new(api: A) -> Self {
        Self(api)
    }
}

impl<A: OpenApi> OpenApi for Documented<A> {
    fn meta() -> Vec<MetaApi> {
        let mut apis = A::meta();
        let operations = apis
            .iter_mut()
            .flat_map(|api| &mut api.paths)
            .flat_map(|path| &mut path.operations);
        for operation in operations {
            for problem_type in problems_of(operation) {
                document(operation, problem_type);
            }
            operation
                .responses
                .responses
                .sort_by_key(|response| response.status);
        }
        apis
    }

    fn register(registry: &mut Registry) {
        A::register(registry);
        Problem::register_schema(registry);
    }

    fn add_routes(self, routes: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {
        let mut own = HashMap::new();
        self.0.add_routes(&mut own);
        for (path, mut methods) in own {
            let allow = allow(methods.keys());
            for method in METHODS {
                let allow = allow.clone();
                methods.entry(method).or_insert_with(|| {
                    make_sync(move |_| problem::method_not_allowed(&allow)).boxed()
                });
            }
            routes.entry(path).or_default().extend(methods);
        }
    }
}

fn allow<'a>(methods: impl Iterator<Item = &'a Method>) -> HeaderValue {
    let mut methods: Vec<&str> = methods.map(Method::as_str).collect();
    if methods.contains(&"GET") && !methods.contains(&"HEAD") {
        methods.push("HEAD");
    }
    methods.sort_unstable();
    HeaderValue::try_from(methods.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

fn problems_of(operation: &MetaOperation) -> Vec<ProblemType> {
    let mut problems = Vec::new();
    let is_safe = matches!(
        operation.method,
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if !operation.security.is_empty() {
        problems.extend([
            ProblemType::AmbiguousCredentials,
            ProblemType::InvalidToken,
            ProblemType::AuthenticationUnavailable,
            ProblemType::InternalError,
        ]);
        if !is_safe {
            problems.push(ProblemType::CrossSiteRequest);
        }
    }
    if operation.request.is_some() {
        problems.extend([
            ProblemType::BadRequest,
            ProblemType::RequestTimeout,
            ProblemType::ContentTooLarge,
            ProblemType::UnsupportedMediaType,
        ]);
    } else if !operation.params.is_empty() {
        problems.push(ProblemType::BadRequest);
    }
    problems
}

/// Adds the response of a problem type, unless the operation has documented that status itself.
fn document(operation: &mut MetaOperation, problem_type: ProblemType) {
    let status = problem_type.status().as_u16();
    let responses = &mut operation.responses.responses;
    if responses
        .iter()
        .any(|response| response.status == Some(status))
    {
        return;
    }
    responses.push(problem_type.meta());
}
