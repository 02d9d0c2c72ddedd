use std::{collections::HashMap, fmt::Display, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use poem::{
    Body, Endpoint, EndpointExt, Request, RequestBody, RouteMethod,
    http::{Method, header},
    web::Data,
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, Object, OpenApi,
    registry::{MetaMediaType, MetaRequest, MetaResponses, Registry},
    types::{Example, Type},
};

use super::{Tag, WEBHOOK_PATH};
use crate::{
    auth::{AuthRecord, Challenge},
    edge::{RequestLimits, client_address},
    hanko::{Hanko, Receipt, WebhookError},
    openapi::{describe, responses_of},
    problem::{Problem, ProblemType, Unavailable},
};

/// The operation `POST /webhooks/hanko`, which receives Hanko's webhooks, see
/// [`Hanko::receive_webhook`](crate::Hanko::receive_webhook).
///
/// It takes the [`Hanko`] from the data of the request.
///
/// ```
/// use poem::{EndpointExt, Route};
/// use poem_hanko::{Edge, Hanko, MeApi, WebhooksApi, WithProblems};
/// use poem_openapi::OpenApiService;
///
/// fn app(hanko: &Hanko) -> impl poem::Endpoint {
///     let api = WithProblems((MeApi, WebhooksApi));
///     let service = OpenApiService::new(api, "hello", "1.0");
///     Route::new().nest("/", service).with(Edge::new(hanko))
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct WebhooksApi;

/// The largest body that is read. Hanko's are a few KiB.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// The time for head, body and handler. Hanko gives up after 10 s, and a webhook waits for keys for 8 s at most.
const TIMEOUT: Duration = Duration::from_secs(12);

/// A webhook request of Hanko.
#[derive(Object)]
#[oai(example)]
struct HankoWebhook {
    /// The event, signed by Hanko: a JWT with the claims `evt` and `data`.
    #[oai(validator(max_length = 262_144))]
    token: String,
    /// The name of the event, the same as in the token.
    event: String,
}

impl Example for HankoWebhook {
    fn example() -> Self {
        Self {
            token: "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl".to_owned(),
            event: "session.delete.explicit.logout".to_owned(),
        }
    }
}

/// The bytes of a JSON body that is not parsed yet.
struct SignedBody(Bytes);

impl SignedBody {
    async fn from_parts(request: &Request, body: &mut RequestBody) -> Result<Self, ProblemType> {
        let is_json = request.content_type().is_some_and(|content_type| {
            let essence = content_type.split(';').next().unwrap_or_default();
            essence.trim().eq_ignore_ascii_case("application/json")
        });
        if !is_json {
            return Err(ProblemType::UNSUPPORTED_MEDIA_TYPE);
        }
        let announced = request
            .header(header::CONTENT_LENGTH)
            .and_then(|length| length.parse::<usize>().ok());
        if announced.is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(ProblemType::CONTENT_TOO_LARGE);
        }
        let body: Body = body.take().map_err(|_| ProblemType::INTERNAL_ERROR)?;
        read(body).await.map(Self)
    }
}

/// Reads a body of at most [`MAX_BODY_BYTES`]. `Body::into_bytes_limit` would copy a body that arrives in one piece; this does
/// not.
async fn read(body: Body) -> Result<Bytes, ProblemType> {
    let mut pieces = body.into_bytes_stream();
    let mut bytes = Bytes::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| ProblemType::BAD_REQUEST)?;
        if bytes.len() + piece.len() > MAX_BODY_BYTES {
            return Err(ProblemType::CONTENT_TOO_LARGE);
        }
        bytes = if bytes.is_empty() {
            piece
        } else {
            let mut joined = BytesMut::from(bytes);
            joined.extend_from_slice(&piece);
            joined.freeze()
        };
    }
    Ok(bytes)
}

/// Sets the operation's own limits. Hanko does not send a webhook again, so a webhook that waits for a key must not be cut
/// off.
fn limited(endpoint: impl Endpoint) -> impl Endpoint {
    endpoint.with(
        RequestLimits::new()
            .max_body(MAX_BODY_BYTES)
            .timeout(TIMEOUT)
            .urgent(),
    )
}

impl<'a> ApiExtractor<'a> for SignedBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <HankoWebhook as Type>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: Some("The event as Hanko sends it."),
            content: vec![MetaMediaType {
                content_type: "application/json",
                schema: HankoWebhook::schema_ref(),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let outcome = Self::from_parts(request, body).await;
        if let (Err(problem_type), Some(hanko)) = (&outcome, request.data::<Hanko>()) {
            hanko.reject_webhook_body(problem_type.slug(), problem_type.title());
            note(request, problem_type.slug(), &problem_type.title());
        }
        outcome.map_err(problem)
    }
}

/// Notes for the access log why the webhook was rejected.
fn note(request: &Request, reason: &'static str, detail: &dyn Display) {
    if let Some(record) = AuthRecord::of(request) {
        record.reject(reason, detail);
    }
}

fn problem(problem_type: ProblemType) -> poem::Error {
    poem::Error::from_response(Problem::from(problem_type).into_response())
}

/// The responses to Hanko.
#[derive(ApiResponse)]
enum Received {
    /// The webhook is held and not verified yet, because the keys are not available. It is verified when they are.
    #[oai(status = 202)]
    Held,
    /// The event was verified and applied.
    #[oai(status = 204)]
    Applied,
}

/// Why a webhook was not accepted.
struct WebhookRejection(WebhookError);

impl From<WebhookRejection> for poem::Error {
    fn from(WebhookRejection(error): WebhookRejection) -> Self {
        if let Some(retry_after) = error.retry_after() {
            let detail = UNAVAILABLE;
            return Unavailable {
                retry_after,
                detail,
            }
            .into();
        }
        let detail = format!("The webhook is rejected: {error}.");
        let WebhookError::Token(error) = error else {
            let problem = Problem::from(ProblemType::BAD_REQUEST).with_detail(detail);
            return problem.into();
        };
        let mut response = Problem::from(ProblemType::INVALID_TOKEN)
            .with_detail(detail)
            .into_response();
        let challenge = Challenge::InvalidToken(error).header_value();
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
        Self::from_response(response)
    }
}

const UNAVAILABLE: &str = "The webhook can be neither verified nor held at the moment.";

impl ApiResponse for WebhookRejection {
    fn meta() -> MetaResponses {
        let described = [
            (
                ProblemType::BAD_REQUEST,
                "The body is not that of a Hanko webhook.",
            ),
            (
                ProblemType::INVALID_TOKEN,
                "The token of the webhook is not valid.",
            ),
            (ProblemType::AUTHENTICATION_UNAVAILABLE, UNAVAILABLE),
        ];
        let responses = described.into_iter().flat_map(|(problem_type, text)| {
            let mut responses = responses_of(&[problem_type]);
            for response in &mut responses {
                response.description = describe(text, &[problem_type]);
            }
            responses
        });
        MetaResponses {
            responses: responses.collect(),
        }
    }

    fn register(registry: &mut Registry) {
        Problem::register_schema(registry);
    }
}

#[OpenApi]
impl WebhooksApi {
    /// Receive a Hanko webhook
    ///
    /// Receives Hanko's webhooks. The body is signed; no other credentials are needed. `session.delete` and every event below
    /// it end a session in this service, and `user.delete` ends all sessions of a user. A 204 means that this has taken
    /// effect.
    #[oai(
        path = "/webhooks/hanko",
        method = "post",
        operation_id = "receiveHankoWebhook",
        transform = "limited",
        tag = "Tag::Webhooks"
    )]
    async fn receive(
        &self,
        request: &Request,
        hanko: Data<&Hanko>,
        body: SignedBody,
    ) -> Result<Received, WebhookRejection> {
        let client = client_address(request);
        match hanko.receive_webhook_bytes(body.0, client).await {
            Ok(Receipt::Verified(_)) => Ok(Received::Applied),
            Ok(Receipt::Held) => Ok(Received::Held),
            Err(error) => {
                note(request, error.reason(), &error);
                Err(WebhookRejection(error))
            }
        }
    }
}

/// Returns the operation of [`WebhooksApi`] for an app without an OpenAPI document: put it where Hanko sends its webhooks. It
/// takes the [`Hanko`] from the data of the request, and responds to POST.
///
/// ```
/// use poem::{EndpointExt, Route};
/// use poem_hanko::{Edge, Hanko, webhook_endpoint};
///
/// fn app(hanko: &Hanko) -> impl poem::Endpoint {
///     Route::new()
///         .at("/webhooks/hanko", webhook_endpoint())
///         .with(Edge::new(hanko))
/// }
/// ```
///
/// # Panics
/// Never: the API has this operation.
pub fn webhook_endpoint() -> RouteMethod {
    let mut routes = HashMap::new();
    WebhooksApi.add_routes(&mut routes);
    let receive = routes
        .remove(WEBHOOK_PATH)
        .and_then(|mut methods| methods.remove(&Method::POST))
        .expect("the API has this operation");
    RouteMethod::new().post(receive)
}
