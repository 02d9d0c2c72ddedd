//! Problem details for HTTP APIs (RFC 9457): how every error of the service looks.

use std::time::Duration;

#[cfg(feature = "server")]
use poem::{Endpoint, EndpointExt, RouteMethod, error::MethodNotAllowedError};
use poem::{
    Response,
    http::{
        HeaderValue, StatusCode,
        header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
    },
};
use poem_openapi::{
    ApiResponse, Object,
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::{ToJSON, Type},
};

/// The media type of a problem (RFC 9457 section 3).
pub const CONTENT_TYPE_PROBLEM: &str = "application/problem+json";

/// What can go wrong. Each is a stable `type` that the README documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemType {
    /// 401: no credential was sent.
    MissingCredentials,
    /// 401: the session token is not valid.
    InvalidToken,
    /// 400: several credentials were sent where one is allowed.
    AmbiguousCredentials,
    /// 403: a cookie was sent with an unsafe request from another site.
    CrossSiteRequest,
    /// 503: what is needed to authenticate is unavailable.
    AuthenticationUnavailable,
    /// 400: the request cannot be read.
    BadRequest,
    /// 404: nothing is there.
    NotFound,
    /// 405: not with this method.
    MethodNotAllowed,
    /// 413: the body is too large.
    ContentTooLarge,
    /// 415: the body is of the wrong media type.
    UnsupportedMediaType,
    /// 431: the head has too many fields.
    HeaderFieldsTooLarge,
    /// 408: the body did not arrive in time.
    RequestTimeout,
    /// 503: the handler did not finish in time.
    HandlerTimeout,
    /// 503: the service has no room for another request.
    Overloaded,
    /// 500: anything unforeseen.
    InternalError,
}

impl ProblemType {
    /// All of them, in the order of the README.
    pub const ALL: [Self; 15] = [
        Self::MissingCredentials,
        Self::InvalidToken,
        Self::AmbiguousCredentials,
        Self::CrossSiteRequest,
        Self::AuthenticationUnavailable,
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::ContentTooLarge,
        Self::UnsupportedMediaType,
        Self::HeaderFieldsTooLarge,
        Self::RequestTimeout,
        Self::HandlerTimeout,
        Self::Overloaded,
        Self::InternalError,
    ];

    /// Status, end of the type URI, and title.
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MissingCredentials => (
                StatusCode::UNAUTHORIZED,
                "missing-credentials",
                "Missing credentials",
            ),
            Self::InvalidToken => (
                StatusCode::UNAUTHORIZED,
                "invalid-token",
                "Invalid session token",
            ),
            Self::AmbiguousCredentials => (
                StatusCode::BAD_REQUEST,
                "ambiguous-credentials",
                "Ambiguous credentials",
            ),
            Self::CrossSiteRequest => (
                StatusCode::FORBIDDEN,
                "cross-site-request",
                "Cross-site request",
            ),
            Self::AuthenticationUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "authentication-unavailable",
                "Authentication unavailable",
            ),
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad-request", "Bad request"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
            ),
            Self::ContentTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "content-too-large",
                "Content too large",
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Unsupported media type",
            ),
            Self::HeaderFieldsTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header-fields-too-large",
                "Header fields too large",
            ),
            Self::RequestTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "request-timeout",
                "Request timeout",
            ),
            Self::HandlerTimeout => (
                StatusCode::SERVICE_UNAVAILABLE,
                "handler-timeout",
                "Handler timeout",
            ),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded"),
            Self::InternalError => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal-error",
                "Internal error",
            ),
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> StatusCode {
        self.parts().0
    }

    /// The last segment of the type URI.
    pub const fn slug(self) -> &'static str {
        self.parts().1
    }

    /// A short summary of the kind of problem.
    pub const fn title(self) -> &'static str {
        self.parts().2
    }

    /// The problem type for an error of the framework.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::ContentTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            StatusCode::REQUEST_TIMEOUT => Self::RequestTimeout,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Self::HeaderFieldsTooLarge,
            status if status.is_client_error() => Self::BadRequest,
            _ => Self::InternalError,
        }
    }

    /// What the `detail` of this type says where nothing more particular is known.
    pub const fn default_detail(self) -> &'static str {
        match self {
            Self::MissingCredentials => {
                "Send a Hanko session token, as a Bearer token or in the session cookie."
            }
            Self::InvalidToken => "The session token is not valid.",
            Self::AmbiguousCredentials => {
                "Several credentials were sent, and which one is meant cannot be known."
            }
            Self::CrossSiteRequest => {
                "A session cookie is accepted for this method only from a trusted origin."
            }
            Self::AuthenticationUnavailable => {
                "Sessions cannot be verified at the moment. Try again later."
            }
            Self::BadRequest => "The request could not be understood.",
            Self::NotFound => "There is nothing at this path.",
            Self::MethodNotAllowed => "This path does not support the request's method.",
            Self::ContentTooLarge => "The request body is too large.",
            Self::UnsupportedMediaType => "The request body has an unsupported media type.",
            Self::HeaderFieldsTooLarge => "The request has too many header fields.",
            Self::RequestTimeout => "The request body did not arrive in time.",
            Self::HandlerTimeout => "The request took too long to process. Try again later.",
            Self::Overloaded => "The service is too busy at the moment. Try again later.",
            Self::InternalError => "Something went wrong on our side.",
        }
    }
}

impl ProblemType {
    /// How an operation documents that it may answer with this problem.
    pub(crate) fn meta(self) -> MetaResponse {
        let header = |name: &str, required, description: &str, schema| MetaHeader {
            name: name.to_owned(),
            description: Some(description.to_owned()),
            required,
            deprecated: false,
            schema,
        };
        let (description, headers) = match self {
            Self::MissingCredentials | Self::InvalidToken => (
                "No credential was sent, or the session token is not valid.",
                vec![header(
                    "WWW-Authenticate",
                    true,
                    "The challenge (RFC 6750): `Bearer`, with `error` and `error_description` where a token was sent.",
                    String::schema_ref(),
                )],
            ),
            Self::AmbiguousCredentials => (
                "Several credentials were sent where one is allowed, or the request is malformed.",
                vec![header(
                    "WWW-Authenticate",
                    // Only the first of the two comes with a challenge.
                    false,
                    "The challenge (RFC 6750): `Bearer error=\"invalid_request\"`.",
                    String::schema_ref(),
                )],
            ),
            Self::AuthenticationUnavailable => (
                "What is needed to verify sessions is unavailable, or the service is too busy.",
                vec![header(
                    "Retry-After",
                    true,
                    "Seconds to wait before another attempt.",
                    u32::schema_ref(),
                )],
            ),
            other => (other.default_detail(), vec![]),
        };
        MetaResponse {
            description,
            status: Some(self.status().as_u16()),
            status_range: None,
            content: vec![MetaMediaType {
                content_type: CONTENT_TYPE_PROBLEM,
                schema: Problem::schema_ref(),
            }],
            headers,
        }
    }
}

/// A problem (RFC 9457 section 3.1). It holds nothing of the request and nothing internal.
#[derive(Clone, Debug, Object)]
pub struct Problem {
    /// A URI reference that identifies the kind of problem. See the README for the list.
    #[oai(rename = "type")]
    kind: String,
    /// A short summary of the kind of problem.
    title: String,
    /// The HTTP status code.
    #[oai(validator(minimum(value = "400"), maximum(value = "599")))]
    status: u16,
    /// What went wrong this time.
    detail: String,
}

impl From<ProblemType> for Problem {
    fn from(problem_type: ProblemType) -> Self {
        let (status, slug, title) = problem_type.parts();
        Self {
            kind: format!("/problems/{slug}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: problem_type.default_detail().to_owned(),
        }
    }
}

impl Problem {
    /// Says more particularly what went wrong.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The response that carries the problem.
    pub fn into_response(self) -> Response {
        Response::builder()
            .status(StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
            .header(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_PROBLEM))
            .body(self.to_json_string())
    }

    /// Makes the schema known to a document.
    pub(crate) fn register_schema(registry: &mut Registry) {
        <Self as Type>::register(registry);
    }
}

/// 503: what is needed to authenticate is unavailable, and after `retry_after` it may be worth trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// Sent as `Retry-After`, in whole seconds and at least one (RFC 9110 section 10.2.3).
    pub retry_after: Duration,
    /// What is unavailable, in words that anybody may read.
    pub detail: &'static str,
}

impl From<Duration> for Unavailable {
    /// With nothing more particular to say than `retry_after`.
    fn from(retry_after: Duration) -> Self {
        Self {
            retry_after,
            detail: ProblemType::AuthenticationUnavailable.default_detail(),
        }
    }
}

impl Unavailable {
    /// The response that says so.
    pub fn into_response(self) -> Response {
        let mut response = Problem::from(ProblemType::AuthenticationUnavailable)
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

impl ApiResponse for Unavailable {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![ProblemType::AuthenticationUnavailable.meta()],
        }
    }

    fn register(registry: &mut Registry) {
        Problem::register_schema(registry);
    }
}

/// 405 with the methods that the path does support (RFC 9110 section 15.5.6).
pub fn method_not_allowed(allow: &HeaderValue) -> Response {
    let mut response = Problem::from(ProblemType::MethodNotAllowed).into_response();
    response.headers_mut().insert(ALLOW, allow.clone());
    response
}

/// A route that answers 405 with `allow` to the methods that it lacks.
#[cfg(feature = "server")]
pub(crate) fn allowing(allow: &'static str, route: RouteMethod) -> impl Endpoint {
    let allow = HeaderValue::from_static(allow);
    route
        .catch_error(move |_: MethodNotAllowedError| std::future::ready(method_not_allowed(&allow)))
}

/// Turns any error of the framework into a problem. A response that an error carries with it, such as that of a refusal,
/// goes out unchanged.
pub fn from_error(error: poem::Error) -> Response {
    if error.is_from_response() {
        return error.into_response();
    }
    let message = error.to_string();
    let response = error.into_response();
    if response.content_type() == Some(CONTENT_TYPE_PROBLEM) {
        return response;
    }
    let problem_type = ProblemType::of_status(response.status());
    if problem_type == ProblemType::InternalError {
        tracing::error!(error = message, "a handler failed");
    }
    Problem::from(problem_type).into_response()
}

/// Turns a panic into a problem. What it said was printed by the panic hook and goes no further.
pub fn from_panic() -> Response {
    Problem::from(ProblemType::InternalError).into_response()
}
