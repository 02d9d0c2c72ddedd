//! Documents the errors that all operations have in common.

use std::collections::HashMap;

use poem::{endpoint::BoxEndpoint, http::Method};
use poem_openapi::{
    OpenApi,
    registry::{MetaApi, MetaOperation, Registry},
};

use crate::problem::{Problem, ProblemType};

/// Wraps an API so that each of its operations documents the errors of authentication and of reading the request. Routes are
/// left as they are, so that wrapped APIs can be combined in any order.
///
/// Poem documents only what a handler's return type names, which does not include the errors of an extractor. With this
/// wrapper, handlers still return `Json<T>`.
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
        self.0.add_routes(routes);
    }
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
    // Of every operation: too many requests, or a handler that is late.
    problems.push(ProblemType::Overloaded);
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

/// Adds the response of a problem type, unless the operation documents that status itself.
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
