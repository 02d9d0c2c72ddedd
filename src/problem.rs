//! Problem details for HTTP APIs (RFC 9457): the format of every error response.

use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

#[cfg(feature = "swagger-ui")]
use poem::{Endpoint, EndpointExt, RouteMethod, error::MethodNotAllowedError};
use poem::{
    IntoResponse, Response,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use poem_openapi::{
    ApiResponse, Object,
    error::{ParseMultipartError, ParseParamError, ParsePathError, ParseRequestPayloadError},
    registry::{MetaResponses, Registry},
    types::{ToJSON, Type},
};

use crate::{
    clock::SystemClock,
    sampling::{Line, Sampler},
};

/// The media type of a problem (RFC 9457 section 3).
pub const CONTENT_TYPE_PROBLEM: &str = "application/problem+json";

/// The problem types that operations of the application document, or that it has added by name.
static OF_APPLICATION: Mutex<Vec<ProblemType>> = Mutex::new(Vec::new());

/// A problem type: a stable URI that identifies it, its HTTP status, and a short title.
///
/// All types of this crate are associated constants. An application adds its own, which clients then find in the document
/// of each operation that returns them, see [`ProblemOf`](crate::ProblemOf):
///
/// ```
/// use poem_hanko::ProblemType;
///
/// const NOT_ENOUGH_SEATS: ProblemType =
///     ProblemType::new("/problems/not-enough-seats", 409, "Not enough seats");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProblemType {
    uri: &'static str,
    status: u16,
    title: &'static str,
    detail: &'static str,
}

macro_rules! problem_types {
    ($($(#[$doc:meta])* $name:ident = $status:literal $uri:literal, $title:literal, $detail:literal;)*) => {
        impl ProblemType {
            $($(#[$doc])* pub const $name: Self = Self::new($uri, $status, $title).with_detail($detail);)*

            /// The types of this crate, in the order of docs/embedding.md.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

problem_types! {
    /// 401: no credential was sent.
    MISSING_CREDENTIALS = 401 "/problems/missing-credentials", "Missing credentials",
        "Send a Hanko session token, as a Bearer token or in the session cookie.";
    /// 401: the token of the request is not valid.
    INVALID_TOKEN = 401 "/problems/invalid-token", "Invalid token", "The token is not valid.";
    /// 400: several credentials were sent where one is allowed.
    AMBIGUOUS_CREDENTIALS = 400 "/problems/ambiguous-credentials", "Ambiguous credentials",
        "Several credentials were sent, and it is not clear which one to use.";
    /// 403: a cookie was sent with an unsafe request from another site.
    CROSS_SITE_REQUEST = 403 "/problems/cross-site-request", "Cross-site request",
        "A session cookie is accepted for this method only from a trusted origin.";
    /// 403: the session lacks a permission that a guard requires.
    INSUFFICIENT_PERMISSION = 403 "/problems/insufficient-permission", "Insufficient permission",
        "The session does not meet the requirements of this operation.";
    /// 401: a guard requires a more recent or a stronger sign-in.
    SIGN_IN_TOO_OLD = 401 "/problems/sign-in-too-old", "Sign in again",
        "This operation requires a more recent or a stronger sign-in.";
    /// 503: the keys, Hanko or the revocation store are unavailable.
    AUTHENTICATION_UNAVAILABLE = 503 "/problems/authentication-unavailable", "Authentication unavailable",
        "Sessions cannot be verified at the moment. Try again later.";
    /// 400: the request is malformed, or does not match the document.
    BAD_REQUEST = 400 "/problems/bad-request", "Bad request", "The request could not be understood.";
    /// 404: no route has this path.
    NOT_FOUND = 404 "/problems/not-found", "Not found", "There is nothing at this path.";
    /// 405: the path has no operation with this method.
    METHOD_NOT_ALLOWED = 405 "/problems/method-not-allowed", "Method not allowed",
        "This path does not support the request's method.";
    /// 413: the body is too large.
    CONTENT_TOO_LARGE = 413 "/problems/content-too-large", "Content too large", "The request body is too large.";
    /// 415: the body is of the wrong media type.
    UNSUPPORTED_MEDIA_TYPE = 415 "/problems/unsupported-media-type", "Unsupported media type",
        "The request body has an unsupported media type.";
    /// 431: the head has too many fields.
    HEADER_FIELDS_TOO_LARGE = 431 "/problems/header-fields-too-large", "Header fields too large",
        "The request has too many header fields.";
    /// 408: the body did not arrive in time.
    REQUEST_TIMEOUT = 408 "/problems/request-timeout", "Request timeout", "The request body did not arrive in time.";
    /// 503: the handler did not finish in time.
    HANDLER_TIMEOUT = 503 "/problems/handler-timeout", "Handler timeout",
        "The request took too long to process. Try again later.";
    /// 503: the service is too busy for another request.
    OVERLOADED = 503 "/problems/overloaded", "Overloaded", "The service is too busy at the moment. Try again later.";
    /// 500: any unexpected error.
    INTERNAL_ERROR = 500 "/problems/internal-error", "Internal error", "Something went wrong on our side.";
}

impl ProblemType {
    /// Returns a problem type of an application. `uri` is a URI reference that identifies the type and never changes.
    ///
    /// ```
    /// use poem_hanko::{Problem, ProblemType};
    ///
    /// const NOT_ENOUGH_SEATS: ProblemType =
    ///     ProblemType::new("/problems/not-enough-seats", 409, "Not enough seats");
    ///
    /// fn reserve(seats: u32) -> poem::Result<()> {
    ///     if seats > 8 { Err(Problem::from(NOT_ENOUGH_SEATS).into()) } else { Ok(()) }
    /// }
    /// # assert_eq!(reserve(9).unwrap_err().status(), 409);
    /// ```
    ///
    /// # Panics
    /// If `status` is not 400 to 599. In a constant, this is a compile-time error.
    pub const fn new(uri: &'static str, status: u16, title: &'static str) -> Self {
        assert!(
            status >= 400 && status <= 599,
            "a problem has a status from 400 to 599"
        );
        Self {
            uri,
            status,
            title,
            detail: title,
        }
    }

    /// Sets the default `detail` of problems of this type. Without this, it is the title.
    ///
    /// ```
    /// use poem_hanko::ProblemType;
    ///
    /// const NOT_ENOUGH_SEATS: ProblemType =
    ///     ProblemType::new("/problems/not-enough-seats", 409, "Not enough seats")
    ///         .with_detail("Reserve fewer seats, or another day.");
    ///
    /// assert_eq!(NOT_ENOUGH_SEATS.default_detail(), "Reserve fewer seats, or another day.");
    /// ```
    #[must_use]
    pub const fn with_detail(mut self, detail: &'static str) -> Self {
        self.detail = detail;
        self
    }

    /// Returns the URI reference that identifies the type.
    ///
    /// ```
    /// use poem_hanko::ProblemType;
    ///
    /// assert_eq!(ProblemType::SIGN_IN_TOO_OLD.uri(), "/problems/sign-in-too-old");
    /// ```
    pub const fn uri(self) -> &'static str {
        self.uri
    }

    /// Returns the HTTP status.
    ///
    /// ```
    /// use poem::http::StatusCode;
    /// use poem_hanko::ProblemType;
    ///
    /// assert_eq!(ProblemType::SIGN_IN_TOO_OLD.status(), StatusCode::UNAUTHORIZED);
    /// ```
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Returns the HTTP status. Can be called in constants.
    pub(crate) const fn status_code(self) -> u16 {
        self.status
    }

    /// Returns the last segment of the URI.
    ///
    /// ```
    /// use poem_hanko::ProblemType;
    ///
    /// assert_eq!(ProblemType::SIGN_IN_TOO_OLD.slug(), "sign-in-too-old");
    /// ```
    pub fn slug(self) -> &'static str {
        self.uri.rsplit('/').next().unwrap_or(self.uri)
    }

    /// Returns a short summary of the kind of problem.
    ///
    /// ```
    /// use poem_hanko::ProblemType;
    ///
    /// for problem_type in ProblemType::ALL {
    ///     println!("{} {}: {}", problem_type.status(), problem_type.uri(), problem_type.title());
    /// }
    /// ```
    pub const fn title(self) -> &'static str {
        self.title
    }

    /// Returns the default `detail` of problems of this type.
    ///
    /// ```
    /// use poem_hanko::ProblemType;
    ///
    /// let detail = ProblemType::NOT_FOUND.default_detail();
    /// assert_eq!(detail, "There is nothing at this path.");
    /// ```
    pub const fn default_detail(self) -> &'static str {
        self.detail
    }

    /// Adds the type to those that the document lists.
    pub(crate) fn remember(self) {
        if !Self::ALL.contains(&self) {
            let mut types = OF_APPLICATION
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !types.contains(&self) {
                types.push(self);
            }
        }
    }

    /// Returns the types of this crate and those of the application.
    pub(crate) fn known() -> Vec<Self> {
        let types = OF_APPLICATION
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Self::ALL.iter().chain(&*types).copied().collect()
    }

    /// Returns the general problem type of this status, if there is one.
    ///
    /// ```
    /// use poem::http::StatusCode;
    /// use poem_hanko::ProblemType;
    ///
    /// assert_eq!(ProblemType::of_status(StatusCode::NOT_FOUND), Some(ProblemType::NOT_FOUND));
    /// assert_eq!(ProblemType::of_status(StatusCode::IM_A_TEAPOT), None);
    /// ```
    pub fn of_status(status: StatusCode) -> Option<Self> {
        [
            Self::BAD_REQUEST,
            Self::NOT_FOUND,
            Self::METHOD_NOT_ALLOWED,
            Self::CONTENT_TOO_LARGE,
            Self::UNSUPPORTED_MEDIA_TYPE,
            Self::REQUEST_TIMEOUT,
            Self::HEADER_FIELDS_TOO_LARGE,
            Self::INTERNAL_ERROR,
        ]
        .into_iter()
        .find(|problem_type| problem_type.status == status.as_u16())
    }
}

// The comment is the description of the schema in the document.
/// A problem (RFC 9457 section 3.1). It contains no data of the request and no internal details.
#[derive(Clone, Debug, Object)]
pub struct Problem {
    /// A URI reference that identifies the kind of problem.
    #[oai(rename = "type")]
    kind: String,
    /// A short summary of the kind of problem.
    title: String,
    /// The HTTP status code.
    #[oai(validator(minimum(value = "400"), maximum(value = "599")))]
    status: u16,
    /// An explanation of this occurrence of the problem.
    detail: String,
}

impl From<ProblemType> for Problem {
    fn from(problem_type: ProblemType) -> Self {
        Self {
            kind: problem_type.uri.to_owned(),
            title: problem_type.title.to_owned(),
            status: problem_type.status,
            detail: problem_type.detail.to_owned(),
        }
    }
}

impl Problem {
    /// Creates a problem of an application's own type. `kind` is a URI reference that identifies the type and never changes.
    ///
    /// `status` is 400 to 599; any other becomes 500.
    ///
    /// Of all errors that a handler can return, clients see the text only of this one:
    ///
    /// ```
    /// # use poem::http::StatusCode;
    /// use poem_hanko::Problem;
    ///
    /// fn reserve(seats: u32) -> poem::Result<()> {
    ///     if seats > 8 {
    ///         let full = Problem::new(StatusCode::CONFLICT, "/problems/full", "Not enough seats");
    ///         return Err(full.with_detail("Only 8 seats are left.").into());
    ///     }
    ///     Ok(())
    /// }
    /// # assert_eq!(reserve(9).unwrap_err().status(), 409);
    /// ```
    pub fn new(status: StatusCode, kind: impl Into<String>, title: impl Into<String>) -> Self {
        let status = if status.is_client_error() || status.is_server_error() {
            status
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        let title = title.into();
        Self {
            kind: kind.into(),
            detail: title.clone(),
            title,
            status: status.as_u16(),
        }
    }

    /// Creates a problem from a status alone. Its type is the general [`ProblemType`] of this status, or `about:blank` if there
    /// is none.
    ///
    /// ```
    /// use poem::http::StatusCode;
    /// use poem_hanko::Problem;
    ///
    /// fn note(id: u32) -> poem::Result<&'static str> {
    ///     match id {
    ///         1 => Ok("buy milk"),
    ///         _ => Err(Problem::from_status(StatusCode::NOT_FOUND).into()),
    ///     }
    /// }
    /// # assert_eq!(note(2).unwrap_err().status(), 404);
    /// ```
    pub fn from_status(status: StatusCode) -> Self {
        if let Some(problem_type) = ProblemType::of_status(status) {
            return problem_type.into();
        }
        let title = status.canonical_reason().unwrap_or("Error");
        Self::new(status, "about:blank", title).with_detail(if status.is_server_error() {
            "The request could not be served."
        } else {
            "The request was rejected."
        })
    }

    /// Sets the explanation of this occurrence.
    ///
    /// ```
    /// use poem_hanko::{Problem, ProblemType};
    ///
    /// fn not_a_date() -> poem::Error {
    ///     Problem::from(ProblemType::BAD_REQUEST).with_detail("`day` is not a date.").into()
    /// }
    /// # assert_eq!(not_a_date().status(), 400);
    /// ```
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Returns the response that carries the problem.
    ///
    /// ```
    /// use poem_hanko::{CONTENT_TYPE_PROBLEM, Problem, ProblemType};
    ///
    /// let response = Problem::from(ProblemType::OVERLOADED).into_response();
    /// assert_eq!(response.status(), 503);
    /// assert_eq!(response.content_type(), Some(CONTENT_TYPE_PROBLEM));
    /// ```
    pub fn into_response(self) -> Response {
        Response::builder()
            .status(StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
            .header(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_PROBLEM))
            .body(self.to_json_string())
    }

    /// Adds the schema to a document.
    pub(crate) fn register_schema(registry: &mut Registry) {
        <Self as Type>::register(registry);
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        Self::into_response(self)
    }
}

impl From<Problem> for poem::Error {
    fn from(problem: Problem) -> Self {
        Self::from_response(problem.into_response())
    }
}

/// Documents no response, because the status is known only when the problem is created.
impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        MetaResponses { responses: vec![] }
    }

    fn register(registry: &mut Registry) {
        Self::register_schema(registry);
    }
}

/// 503: sessions or webhooks cannot be verified now. The client should wait for `retry_after` before it tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable {
    /// Sent as `Retry-After`, in whole seconds and at least one (RFC 9110 section 10.2.3).
    pub(crate) retry_after: Duration,
    /// What is unavailable, in words that clients may read.
    pub(crate) detail: &'static str,
}

impl From<Duration> for Unavailable {
    /// Uses the default detail.
    fn from(retry_after: Duration) -> Self {
        Self {
            retry_after,
            detail: ProblemType::AUTHENTICATION_UNAVAILABLE.default_detail(),
        }
    }
}

impl Unavailable {
    /// Returns the response.
    pub(crate) fn into_response(self) -> Response {
        let mut response = Problem::from(ProblemType::AUTHENTICATION_UNAVAILABLE)
            .with_detail(self.detail)
            .into_response();
        let seconds = self.retry_after.as_secs_f64().ceil().max(1.0);
        response.headers_mut().insert(
            RETRY_AFTER,
            HeaderValue::try_from(format!("{seconds:.0}")).unwrap_or(HeaderValue::from_static("1")),
        );
        response
    }
}

impl From<Unavailable> for poem::Error {
    fn from(unavailable: Unavailable) -> Self {
        Self::from_response(unavailable.into_response())
    }
}

/// Returns a 405 with the methods that the path supports (RFC 9110 section 15.5.6).
pub(crate) fn method_not_allowed(allow: &HeaderValue) -> Response {
    let mut response = Problem::from(ProblemType::METHOD_NOT_ALLOWED).into_response();
    response.headers_mut().insert(ALLOW, allow.clone());
    response
}

/// Returns the route, with a 405 for the methods that it lacks. `allow` lists those that it has.
#[cfg(feature = "swagger-ui")]
pub(crate) fn allowing(allow: &'static str, route: RouteMethod) -> impl Endpoint {
    let allow = HeaderValue::from_static(allow);
    route
        .catch_error(move |_: MethodNotAllowedError| std::future::ready(method_not_allowed(&allow)))
}

/// Turns any error into a problem, with the status that the handler or the framework chose.
///
/// A response that the error carries, such as that of a [`Problem`], is sent unchanged. Otherwise only the status is sent. If
/// the request does not match the document, the problem also names the parameter or member at fault if poem-openapi's error
/// names it, otherwise the schema, and never contains the value. The text of an error is never sent, because it may come from
/// a database or another internal source; a handler that wants clients to see its text returns a [`Problem`].
///
/// A status without a problem type of its own has the type `about:blank` (RFC 9457 section 4.2.1).
pub(crate) fn from_error(error: poem::Error) -> Response {
    static FAILED: LazyLock<Sampler> = LazyLock::new(|| Sampler::new(Arc::new(SystemClock::new())));
    if error.is_from_response() {
        return error.into_response();
    }
    let status = error.status();
    let detail = describe(&error);
    let message = status.is_server_error().then(|| error.to_string());
    let response = error.into_response();
    if response.content_type() == Some(CONTENT_TYPE_PROBLEM) {
        return response;
    }
    if let Some(message) = message {
        FAILED.log(Line::FailedHandler, &message);
    }
    if !status.is_client_error() && !status.is_server_error() {
        let mut bare = Response::builder().status(status).finish();
        bare.headers_mut().extend(
            response
                .headers()
                .get(LOCATION)
                .map(|value| (LOCATION, value.clone())),
        );
        return bare;
    }
    let mut problem = Problem::from_status(status);
    if let Some(detail) = detail {
        problem = problem.with_detail(detail);
    }
    let mut with_problem = problem.into_response();
    for name in KEPT_HEADERS {
        for value in response.headers().get_all(&name) {
            with_problem.headers_mut().append(&name, value.clone());
        }
    }
    with_problem
}

/// Headers of an error's own response that are kept, because they belong to its status.
const KEPT_HEADERS: [HeaderName; 3] = [ALLOW, RETRY_AFTER, WWW_AUTHENTICATE];

/// Names the part of the request that does not match the document, if the error names it. Never quotes its value.
fn describe(error: &poem::Error) -> Option<String> {
    if let Some(error) = error.downcast_ref::<ParseParamError>() {
        return Some(parameter_detail(error.name));
    }
    if let Some(error) = error.downcast_ref::<ParsePathError>() {
        // Only the path that was declared has the name.
        return Some(match path_parameter_position(error.name) {
            Some(position) => format!(
                "Parameter {} of the path does not match the document.",
                position + 1
            ),
            None => parameter_detail(error.name),
        });
    }
    if let Some(error) = error.downcast_ref::<ParseRequestPayloadError>() {
        return Some(payload_detail(&error.reason));
    }
    if let Some(error) = error.downcast_ref::<ParseMultipartError>() {
        return Some(payload_detail(&error.reason));
    }
    None
}

/// Returns the detail about a parameter at fault. `name` is its name in the document.
pub(crate) fn parameter_detail(name: &str) -> String {
    format!("The parameter `{name}` is missing or does not match the document.")
}

/// Returns the position of a path parameter, counted from zero: poem-openapi calls them `param0`, `param1` and so on.
pub(crate) fn path_parameter_position(name: &str) -> Option<usize> {
    name.strip_prefix("param")?.parse().ok()
}

/// Returns the detail about a body at fault, with the names of the member and the schema if they are known.
///
/// poem-openapi's error is only a text, which may quote what the client sent. Names are taken only from the places where only
/// the framework writes (`poem_openapi::types::ParseError`), and only if they have the form of a name:
/// - `failed to parse "SCHEMA": field `MEMBER` verification failed. …`
/// - `failed to parse "SCHEMA": …`, where a member of any name may have been quoted in the rest
/// - `Type "SCHEMA" expects an input value.`, perhaps with ` (occurred while parsing "OUTER SCHEMA")`
/// - `Expected input type "SCHEMA", found VALUE.`, perhaps followed by the same text. VALUE ends in a full stop, so the client
///   cannot write that text
/// - `field `MEMBER` verification failed. …`, of a form
fn payload_detail(reason: &str) -> String {
    let (schema, member) = if let Some(rest) = reason.strip_prefix("failed to parse \"") {
        let (schema, message) = rest.split_once("\": ").unwrap_or((rest, ""));
        (name(schema), failed_member(message))
    } else if let Some(rest) = reason
        .strip_prefix("Expected input type \"")
        .or(reason.strip_prefix("Type \""))
    {
        let outer = reason
            .strip_suffix("\")")
            .and_then(|rest| rest.rsplit_once("(occurred while parsing \""))
            .map(|(_, schema)| schema);
        // The outermost schema is the one of the body.
        let expected = rest.split('"').next();
        (outer.or(expected).and_then(name), None)
    } else {
        (None, failed_member(reason))
    };
    match (member, schema) {
        (Some(member), Some(schema)) => {
            format!(
                "The member `{member}` of the request body does not match the schema `{schema}`."
            )
        }
        (Some(member), None) => {
            format!("The member `{member}` of the request body does not match the document.")
        }
        (None, Some(schema)) => format!("The request body does not match the schema `{schema}`."),
        (None, None) => {
            "The request body cannot be parsed, or does not match the document.".to_owned()
        }
    }
}

/// Returns the member that a validator rejected.
fn failed_member(message: &str) -> Option<&str> {
    let (member, rest) = message.strip_prefix("field `")?.split_once('`')?;
    rest.starts_with(" verification failed. ")
        .then(|| name(member))
        .flatten()
}

/// Returns the text if it has the form of a name in a document.
fn name(text: &str) -> Option<&str> {
    let is_name = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    is_name.then_some(text)
}

/// Returns the problem of a panic. The message of the panic is not sent; the panic hook has reported it.
pub(crate) fn from_panic() -> Response {
    Problem::from(ProblemType::INTERNAL_ERROR).into_response()
}
