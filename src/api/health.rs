use std::time::Duration;

use poem::{Request, web::Data};
use poem_openapi::{Object, OpenApi, types::Example};

use super::{Tag, json::Json};
use crate::{hanko::Hanko, jose::FetchError, problem::Unavailable};

pub(super) struct HealthApi {
    alive: Json<Liveness>,
}

impl Default for HealthApi {
    fn default() -> Self {
        Self {
            alive: Json::new(&Liveness::example()),
        }
    }
}

/// How often a caller should look again while the service is not ready.
const READINESS_RETRY: Duration = Duration::from_secs(1);

/// Request data that the server adds while it shuts down.
#[derive(Clone, Copy)]
pub(crate) struct Draining;

/// The service is alive.
#[derive(Object)]
#[oai(example)]
struct Liveness {
    /// Always `alive`.
    status: String,
}

impl Example for Liveness {
    fn example() -> Self {
        Self {
            status: "alive".to_owned(),
        }
    }
}

/// The service can verify sessions.
#[derive(Object)]
#[oai(example)]
struct Readiness {
    /// Always `ready`.
    status: String,
    /// How many keys sessions are being verified with.
    #[oai(validator(minimum(value = "1")))]
    keys: u32,
    /// Seconds since the keys were fetched.
    #[oai(validator(minimum(value = "0")))]
    key_set_age_seconds: f64,
    /// Whether the keys have outlived their freshness lifetime because Hanko cannot be reached.
    key_set_is_stale: bool,
    /// Why the last fetch of the keys failed; absent if it did not.
    #[oai(skip_serializing_if_is_none)]
    key_set_error: Option<String>,
}

impl Example for Readiness {
    fn example() -> Self {
        Self {
            status: "ready".to_owned(),
            keys: 2,
            key_set_age_seconds: 12.5,
            key_set_is_stale: false,
            key_set_error: None,
        }
    }
}

#[OpenApi]
impl HealthApi {
    /// Liveness
    ///
    /// Answers as long as the process runs. Restart it where this does not answer.
    #[oai(
        path = "/livez",
        method = "get",
        operation_id = "getLiveness",
        tag = "Tag::Health"
    )]
    async fn livez(&self) -> Json<Liveness> {
        self.alive.clone()
    }

    /// Readiness
    ///
    /// Answers 200 while keys are held that sessions can be verified with, and the revocations are known. Send no requests
    /// where it does not; `detail` says what is missing.
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
    ) -> Result<Json<Readiness>, Unavailable> {
        let status = hanko.key_set_status();
        let error = status.last_error.as_ref().map(FetchError::summary);
        let unavailable = |detail| Unavailable {
            retry_after: READINESS_RETRY,
            detail,
        };
        if request.data::<Draining>().is_some() {
            return Err(unavailable("The service is shutting down."));
        }
        if status.usable_keys == 0 {
            return Err(unavailable(
                error.unwrap_or("The JWK Set has not been fetched yet."),
            ));
        }
        if !hanko.knows_revocations() {
            return Err(unavailable("The revocations are not mirrored yet."));
        }
        Ok(Json::new(&Readiness {
            status: "ready".to_owned(),
            keys: u32::try_from(status.usable_keys).unwrap_or(u32::MAX),
            key_set_age_seconds: status.age.unwrap_or_default().as_secs_f64(),
            key_set_is_stale: status.is_stale,
            key_set_error: error.map(ToOwned::to_owned),
        }))
    }
}
