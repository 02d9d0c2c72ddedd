//! Documents the errors of operations.

use std::{collections::HashMap, fmt, marker::PhantomData};

use poem::{endpoint::BoxEndpoint, http::Method};
use poem_openapi::{
    ApiResponse, OpenApi,
    registry::{MetaApi, MetaMediaType, MetaOperation, MetaResponse, MetaResponses, Registry},
    types::Type,
};

use super::headers::{CHALLENGE, RETRY_AFTER};
use crate::{
    auth::{
        BEARER_SCHEME, COOKIE_SCHEME, Requirement,
        documented::{self, Requirements},
        is_safe,
    },
    interned::intern,
    problem::{CONTENT_TYPE_PROBLEM, Problem, ProblemType},
};

/// Wraps an API so that each of its operations documents the errors of authentication and of reading the request. Routes are
/// left as they are, so wrapped APIs can be combined in any order.
///
/// Poem documents only what a handler's return type names, which does not include the errors of an extractor. With this
/// wrapper, handlers still return `JsonBody<T>`. `App` does this for its API.
///
/// ```
/// use poem::Route;
/// use poem_hanko::{HankoAuth, JsonBody, WithProblems};
/// use poem_openapi::{OpenApi, OpenApiService};
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
/// }
///
/// let service = OpenApiService::new(WithProblems(Api), "hello", "1.0");
/// assert!(service.spec().contains("\"401\""));
/// let app = Route::new().nest("/", service);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct WithProblems<A>(pub A);

impl<A: OpenApi> OpenApi for WithProblems<A> {
    fn meta() -> Vec<MetaApi> {
        let (mut apis, requirements) = documented::collect(A::meta);
        let operations = apis
            .iter_mut()
            .flat_map(|api| &mut api.paths)
            .flat_map(|path| &mut path.operations);
        for operation in operations {
            let required = take_requirements(operation, &requirements);
            for problem_type in problems_of(operation) {
                document(&mut operation.responses.responses, problem_type);
            }
            for requirement in required {
                document_requirement(operation, requirement);
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

/// Removes the markers of guards from the security of an operation, and returns their requirements.
fn take_requirements<'a>(
    operation: &mut MetaOperation,
    requirements: &'a Requirements,
) -> Vec<&'a Requirement> {
    let mut taken = Vec::new();
    operation.security.retain(|alternative| {
        let requirement = alternative
            .keys()
            .find_map(|scheme| requirements.of_marker(scheme));
        taken.extend(requirement);
        requirement.is_none()
    });
    taken
}

fn document_requirement(operation: &mut MetaOperation, requirement: &Requirement) {
    let sentence = format!("Requires {}.", requirement.rule());
    operation.description = Some(intern(match operation.description {
        None => sentence,
        Some(description) => format!("{description}\n\n{sentence}"),
    }));
    for problem_type in requirement.rule().problem_types() {
        problem_type.remember();
        let responses = &mut operation.responses.responses;
        // The handler may document a response of its own with this status.
        let status = Some(problem_type.status().as_u16());
        if let Some(response) = responses.iter_mut().find(|known| known.status == status)
            && !is_problem(response)
        {
            response.content.push(problem_content());
        }
        document(responses, problem_type);
    }
}

fn is_problem(response: &MetaResponse) -> bool {
    response
        .content
        .iter()
        .any(|content| content.content_type == CONTENT_TYPE_PROBLEM)
}

fn problem_content() -> MetaMediaType {
    MetaMediaType {
        content_type: CONTENT_TYPE_PROBLEM,
        schema: Problem::schema_ref(),
    }
}

fn problems_of(operation: &MetaOperation) -> Vec<ProblemType> {
    let mut problems = Vec::new();
    let is_ours = |scheme: &&str| *scheme == BEARER_SCHEME || *scheme == COOKIE_SCHEME;
    if operation
        .security
        .iter()
        .flat_map(HashMap::keys)
        .any(is_ours)
    {
        problems.extend([
            ProblemType::MISSING_CREDENTIALS,
            ProblemType::INVALID_TOKEN,
            ProblemType::AMBIGUOUS_CREDENTIALS,
            ProblemType::AUTHENTICATION_UNAVAILABLE,
        ]);
        if !is_safe(&operation.method) {
            problems.push(ProblemType::CROSS_SITE_REQUEST);
        }
    }
    // Every operation can fail, take too long, or be rejected because there are too many requests.
    problems.extend([
        ProblemType::INTERNAL_ERROR,
        ProblemType::HANDLER_TIMEOUT,
        ProblemType::OVERLOADED,
    ]);
    if operation.request.is_some() {
        problems.extend([
            ProblemType::BAD_REQUEST,
            ProblemType::REQUEST_TIMEOUT,
            ProblemType::CONTENT_TOO_LARGE,
            ProblemType::UNSUPPORTED_MEDIA_TYPE,
        ]);
    } else if !operation.params.is_empty() {
        problems.push(ProblemType::BAD_REQUEST);
    }
    problems
}

/// Adds a problem type to the response of its status, unless that response lists it already or is not a problem.
fn document(responses: &mut Vec<MetaResponse>, problem_type: ProblemType) {
    let added = response_of(problem_type);
    let Some(response) = responses
        .iter_mut()
        .find(|response| response.status == added.status)
    else {
        responses.push(added);
        return;
    };
    let (_, listed) = split_problem_types(response.description);
    if is_problem(response) && !listed.contains(&problem_type.uri()) {
        response.description = add_problem_type(
            add_text(response.description, added.description),
            problem_type,
        );
        for header in added.headers {
            if response
                .headers
                .iter()
                .all(|known| known.name != header.name)
            {
                response.headers.push(header);
            }
        }
    }
}

/// Returns the responses of these problem types, one for each status.
pub(crate) fn responses_of(problem_types: &[ProblemType]) -> Vec<MetaResponse> {
    let mut responses = Vec::new();
    for problem_type in problem_types {
        document(&mut responses, *problem_type);
    }
    responses
}

fn response_of(problem_type: ProblemType) -> MetaResponse {
    let challenge = || vec![CHALLENGE.meta()];
    let retry_after = || vec![RETRY_AFTER.meta()];
    let (description, headers) = match problem_type {
        ProblemType::MISSING_CREDENTIALS | ProblemType::INVALID_TOKEN => (
            "No credential was sent, or the session token is not valid.",
            challenge(),
        ),
        ProblemType::AMBIGUOUS_CREDENTIALS => (
            "Several credentials were sent where one is allowed.",
            challenge(),
        ),
        ProblemType::INSUFFICIENT_PERMISSION | ProblemType::SIGN_IN_TOO_OLD => {
            (problem_type.default_detail(), challenge())
        }
        ProblemType::AUTHENTICATION_UNAVAILABLE => (
            "The keys, Hanko or the revocation store are unavailable, so sessions cannot be verified.",
            retry_after(),
        ),
        ProblemType::OVERLOADED | ProblemType::HANDLER_TIMEOUT => {
            ("The service is too busy, or took too long.", retry_after())
        }
        other => (other.default_detail(), vec![]),
    };
    MetaResponse {
        description: add_problem_type(description, problem_type),
        status: Some(problem_type.status().as_u16()),
        status_range: None,
        content: vec![problem_content()],
        headers,
    }
}

/// Starts the list of problem types at the end of a response's description, the only place in Poem's metadata that can hold
/// it. [`Document`](crate::Document) makes examples from the list.
const LIST: &str = "\n\nProblem types: ";

/// Returns a description of a response that may be any of these problem types.
pub(crate) fn describe(text: &'static str, problem_types: &[ProblemType]) -> &'static str {
    problem_types.iter().fold(text, |text, problem_type| {
        add_problem_type(text, *problem_type)
    })
}

/// Adds a problem type to the list at the end of a description.
fn add_problem_type(description: &'static str, problem_type: ProblemType) -> &'static str {
    let (text, mut uris) = split_problem_types(description);
    if uris.contains(&problem_type.uri()) {
        return description;
    }
    uris.push(problem_type.uri());
    intern(format!("{text}{LIST}{}.", uris.join(", ")))
}

/// Adds the text of another description before the list of problem types, unless it is already there.
fn add_text(description: &'static str, added: &'static str) -> &'static str {
    let (text, _) = split_problem_types(description);
    let (added, _) = split_problem_types(added);
    if text.contains(added) {
        return description;
    }
    let list = &description[text.len()..];
    intern(format!("{text} {added}{list}"))
}

/// Returns a description without its list of problem types, and the URIs in that list.
pub(crate) fn split_problem_types(description: &str) -> (&str, Vec<&str>) {
    match description.rsplit_once(LIST) {
        None => (description, Vec::new()),
        Some((text, uris)) => (text, uris.trim_end_matches('.').split(", ").collect()),
    }
}

/// Problem types that an operation returns and documents, see [`ProblemOf`].
///
/// ```
/// use poem_hanko::{ProblemType, ProblemTypes};
///
/// const NO_SUCH_NOTE: ProblemType = ProblemType::new("/problems/no-such-note", 404, "No such note");
/// const NOT_YOURS: ProblemType = ProblemType::new("/problems/not-yours", 403, "Not your note");
///
/// /// Why a note cannot be deleted.
/// struct Undeletable;
///
/// impl ProblemTypes for Undeletable {
///     const TYPES: &[ProblemType] = &[NO_SUCH_NOTE, NOT_YOURS];
/// }
/// ```
pub trait ProblemTypes {
    /// The problem types.
    const TYPES: &'static [ProblemType];
}

/// The error of an operation: a problem of one of the [`ProblemTypes`] of `P`. The operation documents each with an example.
///
/// ```
/// use poem_hanko::{HankoAuth, JsonBody, ProblemOf, ProblemType, ProblemTypes};
/// use poem_openapi::{OpenApi, param::Path};
///
/// const NOT_YOURS: ProblemType = ProblemType::new("/problems/not-yours", 403, "Not your note");
///
/// struct NotYours;
///
/// impl ProblemTypes for NotYours {
///     const TYPES: &[ProblemType] = &[NOT_YOURS];
/// }
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     #[oai(path = "/notes/:id", method = "get", operation_id = "getNote")]
///     async fn note(&self, auth: HankoAuth, id: Path<u32>) -> Result<JsonBody<String>, ProblemOf<NotYours>> {
///         let owner = auth.user_id(); // look the note up …
///         if id.0 != 1 {
///             return Err(NOT_YOURS.into());
///         }
///         Ok(JsonBody(format!("a note of {owner}")))
///     }
/// }
/// ```
pub struct ProblemOf<P>(Problem, PhantomData<fn() -> P>);

impl<P: ProblemTypes> From<ProblemType> for ProblemOf<P> {
    fn from(problem_type: ProblemType) -> Self {
        debug_assert!(
            P::TYPES.contains(&problem_type),
            "the operation does not document {}",
            problem_type.uri()
        );
        Problem::from(problem_type).into()
    }
}

impl<P: ProblemTypes> From<Problem> for ProblemOf<P> {
    fn from(problem: Problem) -> Self {
        Self(problem, PhantomData)
    }
}

impl<P> From<ProblemOf<P>> for poem::Error {
    fn from(problem: ProblemOf<P>) -> Self {
        problem.0.into()
    }
}

impl<P> fmt::Debug for ProblemOf<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ProblemOf").field(&self.0).finish()
    }
}

impl<P: ProblemTypes> ApiResponse for ProblemOf<P> {
    fn meta() -> MetaResponses {
        P::TYPES.iter().copied().for_each(ProblemType::remember);
        MetaResponses {
            responses: responses_of(P::TYPES),
        }
    }

    fn register(registry: &mut Registry) {
        Problem::register_schema(registry);
    }
}
