#[cfg(feature = "server")]
mod checks;

use std::{collections::BTreeMap, time::Duration};

use poem::{Request, http::StatusCode, web::Data};
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    registry::{MetaResponses, Registry},
    types::{Example, ToJSON, Type},
};

#[cfg(feature = "server")]
pub use checks::CheckStatus;
#[cfg(feature = "server")]
pub(crate) use checks::{Check, Checks};

use super::Tag;
use crate::openapi::{JsonBody, describe, responses_of};
use crate::{
    hanko::{Hanko, SessionMode, StoreStatus, ValidationError},
    keys::FetchError,
    problem::{ProblemType, Unavailable},
};
#[cfg(feature = "server")]
use {
    crate::openapi::{ApiType, RouteMap},
    poem::EndpointExt,
};

/// The operations `GET /livez` and `GET /readyz`, for orchestrators and load balancers.
///
/// They take the [`Hanko`] from the data of the request.
///
/// ```
/// use poem::{EndpointExt, Route};
/// use poem_hanko::{Edge, Hanko, HealthApi};
/// use poem_openapi::OpenApiService;
///
/// fn app(hanko: &Hanko) -> impl poem::Endpoint {
///     let service = OpenApiService::new(HealthApi, "hello", "1.0");
///     Route::new().nest("/", service).with(Edge::new(hanko))
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HealthApi;

/// How long a client should wait before it checks again, while the service is not ready.
const READINESS_RETRY: Duration = Duration::from_secs(1);

/// Request data that the server adds while it shuts down.
#[derive(Clone, Copy)]
pub(crate) struct Draining;

/// The status of a service that runs.
#[derive(Clone, Copy, Enum)]
#[oai(rename_all = "lowercase")]
enum LivenessStatus {
    Alive,
}

/// The service is alive.
#[derive(Object)]
#[oai(example)]
struct Liveness {
    status: LivenessStatus,
}

impl Example for Liveness {
    fn example() -> Self {
        Self {
            status: LivenessStatus::Alive,
        }
    }
}

/// The status of a component: `ok`, `degraded` (the service works without it for a limited time), `unavailable` (the service
/// cannot verify sessions) or `unused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "lowercase")]
pub(crate) enum ComponentStatus {
    Ok,
    Degraded,
    Unavailable,
    Unused,
}

#[cfg(feature = "server")]
impl ComponentStatus {
    /// Whether the service can be ready.
    pub(crate) fn is_ready(self) -> bool {
        self != Self::Unavailable
    }

    /// Whether the service works without the component for a limited time.
    pub(crate) fn is_degraded(self) -> bool {
        self == Self::Degraded
    }
}

/// Returns the status of each component of a Hanko.
#[cfg(feature = "server")]
pub(crate) fn component_statuses(hanko: &Hanko) -> [(&'static str, ComponentStatus); 3] {
    let components = Components::of(hanko);
    [
        ("keys", components.keys.status),
        ("revocation_store", components.revocation_store.status),
        ("hanko", components.hanko.status),
    ]
}

/// The state of a component.
#[derive(Clone, Debug, Object)]
struct Component {
    status: ComponentStatus,
    /// What is wrong; absent if nothing is.
    #[oai(skip_serializing_if_is_none)]
    detail: Option<String>,
}

impl Component {
    fn new(status: ComponentStatus, detail: Option<&str>) -> Self {
        Self {
            status,
            detail: detail.map(ToOwned::to_owned),
        }
    }
}

/// The components that the service needs to verify sessions.
#[derive(Clone, Debug, Object)]
struct Components {
    /// The keys that session tokens are verified with.
    keys: Component,
    /// The store in which replicas share revocations.
    revocation_store: Component,
    /// The validation of sessions by Hanko.
    hanko: Component,
    /// The application's own readiness checks, by name; absent if there are none.
    #[oai(skip_serializing_if_is_none)]
    application: Option<BTreeMap<String, Component>>,
}

impl Components {
    fn of(hanko: &Hanko) -> Self {
        Self {
            keys: keys(hanko),
            revocation_store: revocation_store(hanko),
            hanko: validation(hanko),
            application: None,
        }
    }

    /// Adds the application's own checks, which the app puts into the data of the request.
    #[cfg(feature = "server")]
    fn add_checks(&mut self, request: &Request) {
        let Some(checks) = request.data::<Checks>() else {
            return;
        };
        let components = checks.statuses().into_iter().map(|(name, status)| {
            let detail = match status {
                ComponentStatus::Ok | ComponentStatus::Unused => None,
                ComponentStatus::Degraded => Some("The check reports a degraded component."),
                ComponentStatus::Unavailable => Some("The check fails."),
            };
            (name, Component::new(status, detail))
        });
        self.application = Some(components.collect());
    }

    /// Returns the detail of the first component that is unavailable.
    fn missing(&self) -> Option<&str> {
        let application = self.application.iter().flat_map(BTreeMap::values);
        [&self.keys, &self.revocation_store, &self.hanko]
            .into_iter()
            .chain(application)
            .find(|component| component.status == ComponentStatus::Unavailable)
            .map(|component| component.detail.as_deref().unwrap_or_default())
    }
}

fn keys(hanko: &Hanko) -> Component {
    let status = hanko.key_set_status();
    let error = status.last_error.as_ref().map(FetchError::summary);
    if status.usable_keys == 0 {
        let detail = error.unwrap_or("The JWK Set has not been fetched yet.");
        return Component::new(ComponentStatus::Unavailable, Some(detail));
    }
    match error {
        None => Component::new(ComponentStatus::Ok, None),
        Some(error) => Component::new(ComponentStatus::Degraded, Some(error)),
    }
}

fn revocation_store(hanko: &Hanko) -> Component {
    match hanko.revocation_store_status() {
        StoreStatus::Ok => Component::new(ComponentStatus::Ok, None),
        StoreStatus::Unshared => Component::new(ComponentStatus::Unused, None),
        StoreStatus::Degraded => Component::new(
            ComponentStatus::Degraded,
            Some("Revocations of other replicas are not received."),
        ),
        StoreStatus::Unavailable => Component::new(
            ComponentStatus::Unavailable,
            Some("The revocations are not mirrored yet."),
        ),
    }
}

fn validation(hanko: &Hanko) -> Component {
    let status = hanko.validation_status();
    let mode = hanko.session_policy().mode;
    match status.last_error {
        Some(error) => Component::new(ComponentStatus::Degraded, Some(summary(&error))),
        None if mode == SessionMode::Stateless && status.validations == 0 => {
            Component::new(ComponentStatus::Unused, None)
        }
        None if hanko.key_set_status().last_error.is_some() => Component::new(
            ComponentStatus::Degraded,
            Some("Hanko's keys could not be fetched."),
        ),
        None => Component::new(ComponentStatus::Ok, None),
    }
}

/// Returns a description of the error without internal details.
fn summary(error: &ValidationError) -> &'static str {
    match error {
        ValidationError::Transport => "Hanko could not be reached to validate a session.",
        ValidationError::Timeout(_) => "Hanko did not validate a session in time.",
        ValidationError::Status(_) => "Hanko rejected a validation request.",
        ValidationError::UnexpectedResponse => {
            "Hanko's response to a validation request is unexpected."
        }
        ValidationError::Unconfirmed => {
            "Hanko called a session invalid, but could not serve its keys."
        }
        ValidationError::Postponed => "Hanko has postponed validation requests.",
        ValidationError::Overloaded => "Too many validation requests wait for Hanko.",
    }
}

/// The status of a service that can verify sessions.
#[derive(Clone, Copy, Enum)]
#[oai(rename_all = "lowercase")]
enum ReadinessStatus {
    Ready,
}

/// The service can verify sessions.
#[derive(Object)]
#[oai(example)]
struct Readiness {
    status: ReadinessStatus,
    /// The number of keys that are used to verify sessions.
    #[oai(validator(minimum(value = "1")))]
    keys: u32,
    /// Seconds since the keys were fetched.
    #[oai(validator(minimum(value = "0")))]
    key_set_age_seconds: f64,
    /// Whether the keys are older than their freshness lifetime because Hanko cannot be reached.
    key_set_is_stale: bool,
    /// Why the last fetch of the keys failed; absent if it did not.
    #[oai(skip_serializing_if_is_none)]
    key_set_error: Option<String>,
    components: Components,
}

impl Example for Readiness {
    fn example() -> Self {
        Self {
            status: ReadinessStatus::Ready,
            keys: 2,
            key_set_age_seconds: 12.5,
            key_set_is_stale: false,
            key_set_error: None,
            components: Components {
                keys: Component::new(ComponentStatus::Ok, None),
                revocation_store: Component::new(ComponentStatus::Unused, None),
                hanko: Component::new(ComponentStatus::Ok, None),
                application: None,
            },
        }
    }
}

/// A problem (RFC 9457) that shows which component is unavailable.
#[derive(Object)]
struct ReadinessProblem {
    /// A URI reference that identifies the kind of problem. `Problem` lists the known ones.
    #[oai(rename = "type")]
    kind: String,
    /// A short summary of the kind of problem.
    title: String,
    /// The HTTP status code.
    #[oai(validator(minimum(value = "400"), maximum(value = "599")))]
    status: u16,
    /// What is missing, or went wrong.
    detail: String,
    /// The state of each component; absent if the service has failed or is too busy to check them.
    #[oai(skip_serializing_if_is_none)]
    components: Option<Components>,
}

/// The response of a service that cannot verify sessions.
struct NotReady {
    detail: String,
    components: Components,
}

impl From<NotReady> for poem::Error {
    fn from(NotReady { detail, components }: NotReady) -> Self {
        let problem = ReadinessProblem {
            kind: ProblemType::AUTHENTICATION_UNAVAILABLE.uri().to_owned(),
            title: ProblemType::AUTHENTICATION_UNAVAILABLE.title().to_owned(),
            status: StatusCode::SERVICE_UNAVAILABLE.as_u16(),
            detail,
            components: Some(components),
        };
        let mut response = Unavailable::from(READINESS_RETRY).into_response();
        response.set_body(problem.to_json_string());
        Self::from_response(response)
    }
}

impl ApiResponse for NotReady {
    fn meta() -> MetaResponses {
        let unavailable = [ProblemType::AUTHENTICATION_UNAVAILABLE];
        let mut responses = responses_of(&unavailable);
        for response in &mut responses {
            response.description = describe("The service cannot verify sessions.", &unavailable);
        }
        responses.extend(responses_of(&[ProblemType::INTERNAL_ERROR]));
        for response in &mut responses {
            // progenitor needs one type for all errors of an operation.
            for content in &mut response.content {
                content.schema = ReadinessProblem::schema_ref();
            }
        }
        MetaResponses { responses }
    }

    fn register(registry: &mut Registry) {
        <ReadinessProblem as Type>::register(registry);
    }
}

#[OpenApi]
impl HealthApi {
    /// Check liveness
    ///
    /// Responds as long as the process runs. Restart the process if there is no response.
    #[oai(
        path = "/livez",
        method = "get",
        operation_id = "getLiveness",
        tag = "Tag::Health"
    )]
    async fn livez(&self) -> JsonBody<Liveness> {
        JsonBody(Liveness::example())
    }

    /// Check readiness
    ///
    /// Returns 200 while the service has keys to verify sessions and knows the revocations. If it returns 503, send it no
    /// requests; `detail` names what is missing. A component that is only `degraded`, such as a Hanko that cannot be reached,
    /// affects all replicas, so the service stays ready.
    #[oai(
        path = "/readyz",
        method = "get",
        operation_id = "getReadiness",
        tag = "Tag::Health"
    )]
    async fn readyz(
        &self,
        request: &Request,
        hanko: Data<&Hanko>,
    ) -> Result<JsonBody<Readiness>, NotReady> {
        #[cfg_attr(
            not(feature = "server"),
            expect(unused_mut, reason = "only `App` has checks")
        )]
        let mut components = Components::of(&hanko);
        #[cfg(feature = "server")]
        components.add_checks(request);
        let missing = if request.data::<Draining>().is_some() {
            Some("The service is shutting down.".to_owned())
        } else {
            components.missing().map(ToOwned::to_owned)
        };
        if let Some(detail) = missing {
            return Err(NotReady { detail, components });
        }
        let status = hanko.key_set_status();
        let error = status.last_error.as_ref().map(FetchError::summary);
        Ok(JsonBody(Readiness {
            status: ReadinessStatus::Ready,
            keys: u32::try_from(status.usable_keys).unwrap_or(u32::MAX),
            key_set_age_seconds: status.age.unwrap_or_default().as_secs_f64(),
            key_set_is_stale: status.is_stale,
            key_set_error: error.map(ToOwned::to_owned),
            components,
        }))
    }
}

/// Adds the operations to the routes, with the application's own checks.
#[cfg(feature = "server")]
pub(crate) fn health_routes(api: &ApiType, checks: &Checks, routes: &mut RouteMap) {
    let mut own = RouteMap::new();
    api.add_routes(HealthApi, &mut own);
    if checks.is_empty() {
        routes.extend(own);
        return;
    }
    for (path, methods) in own {
        let with_checks = methods.into_iter().map(|(method, endpoint)| {
            let endpoint = endpoint.data(checks.clone()).map_to_response().boxed();
            (method, endpoint)
        });
        routes.entry(path).or_default().extend(with_checks);
    }
}
