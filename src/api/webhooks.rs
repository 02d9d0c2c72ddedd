use std::time::Duration;

use poem::{Body, Request, RequestBody, http::header, web::Data};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, Object, OpenApi,
    registry::{MetaMediaType, MetaRequest, MetaResponses, Registry},
    types::{Example, Type},
};
use tokio::{
    io::AsyncReadExt,
    sync::{Semaphore, SemaphorePermit},
};

use super::Tag;
use crate::{
    auth::Rejection,
    clock::{Clock, SystemClock},
    hanko::{Hanko, WebhookError},
    problem::{Problem, ProblemType, Unavailable},
    sampling::Line,
};

pub(super) struct WebhooksApi;

/// The largest body that is read. Hanko's are a few KiB.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// How much is made room for at once.
const CHUNK_BYTES: usize = 4 * 1024;
/// What all bodies may hold together while they come in. Who sends them is not known before they are read.
const MAX_BYTES_OF_ALL_BODIES: usize = 64 * 1024 * 1024;
/// A permit for each of these bytes.
static BYTES: Semaphore = Semaphore::const_new(MAX_BYTES_OF_ALL_BODIES);
/// After this time some of them are free again.
const BUDGET_RETRY: Duration = Duration::from_secs(1);
/// How long a body may take. Hanko gives up after 10 s.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

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

/// The octets of a JSON body, not parsed yet, of a bounded size and within a bounded time.
struct SignedBody {
    octets: Vec<u8>,
    _budget: Option<SemaphorePermit<'static>>,
}

impl SignedBody {
    async fn read(body: Body) -> poem::Result<Self> {
        let mut reader = body.into_async_read();
        let mut octets = Vec::new();
        let mut budget: Option<SemaphorePermit<'static>> = None;
        loop {
            octets.reserve(CHUNK_BYTES);
            let count = reader
                .read_buf(&mut octets)
                .await
                .map_err(|_| problem(ProblemType::BadRequest))?;
            if count == 0 {
                break;
            }
            if octets.len() > MAX_BODY_BYTES {
                return Err(problem(ProblemType::ContentTooLarge));
            }
            let permit = u32::try_from(count)
                .ok()
                .and_then(|count| BYTES.try_acquire_many(count).ok())
                .ok_or(Unavailable::from(BUDGET_RETRY))?;
            match &mut budget {
                Some(budget) => budget.merge(permit),
                None => budget = Some(permit),
            }
        }
        Ok(Self {
            octets,
            _budget: budget,
        })
    }
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
        let is_json = request.content_type().is_some_and(|content_type| {
            let essence = content_type.split(';').next().unwrap_or_default();
            essence.trim().eq_ignore_ascii_case("application/json")
        });
        if !is_json {
            return Err(problem(ProblemType::UnsupportedMediaType));
        }
        let announced = request
            .header(header::CONTENT_LENGTH)
            .and_then(|length| length.parse::<usize>().ok());
        if announced.is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(problem(ProblemType::ContentTooLarge));
        }
        let body: Body = body.take()?;
        tokio::select! {
            body = Self::read(body) => body,
            () = SystemClock::new().sleep(BODY_TIMEOUT) => Err(problem(ProblemType::BadRequest)),
        }
    }
}

fn problem(problem_type: ProblemType) -> poem::Error {
    poem::Error::from_response(Problem::from(problem_type).into_response())
}

/// What Hanko is answered.
#[derive(ApiResponse)]
enum Received {
    /// The event was verified, and what follows from it was done.
    #[oai(status = 204)]
    Done,
}

/// Why a webhook was not accepted.
struct WebhookRejection(WebhookError);

impl From<WebhookRejection> for poem::Error {
    fn from(WebhookRejection(error): WebhookRejection) -> Self {
        if let Some(retry_after) = error.retry_after() {
            return Rejection::Unavailable { retry_after }.into();
        }
        match error {
            WebhookError::Token(error) => Rejection::InvalidToken(error).into(),
            _ => problem(ProblemType::BadRequest),
        }
    }
}

impl ApiResponse for WebhookRejection {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: [
                ProblemType::BadRequest,
                ProblemType::InvalidToken,
                ProblemType::AuthenticationUnavailable,
            ]
            .map(ProblemType::meta)
            .into(),
        }
    }

    fn register(registry: &mut Registry) {
        Problem::register_schema(registry);
    }
}

#[OpenApi]
impl WebhooksApi {
    /// Hear of an event at Hanko
    ///
    /// For Hanko's webhooks. The body is signed; no other credentials are needed. `session.delete` and every event below
    /// it end a session here, `user.delete` all sessions of a user; both hold from the moment of the answer on.
    #[oai(
        path = "/webhooks/hanko",
        method = "post",
        operation_id = "receiveHankoWebhook",
        tag = "Tag::Webhooks"
    )]
    async fn receive(
        &self,
        hanko: Data<&Hanko>,
        body: SignedBody,
    ) -> Result<Received, WebhookRejection> {
        hanko
            .receive_webhook(&body.octets)
            .await
            .map(|_event| Received::Done)
            .map_err(|error| {
                let line = match error.retry_after() {
                    Some(_) => Line::FailedWebhook,
                    None => Line::RejectedWebhook,
                };
                hanko.sampler().log(line, &error);
                WebhookRejection(error)
            })
    }
}
