//! The second listener, for operators: metrics and health checks, with limits of its own.

use std::{collections::HashSet, sync::Arc, time::Duration};

use poem::{
    Endpoint, Request, Response,
    http::{HeaderValue, Method},
};

use super::{
    listen::{self, Listener},
    metrics::{CONTENT_TYPE, Metrics},
};
use crate::{
    app::HttpConfig,
    clock::Clock,
    edge::{
        EdgeCore, Endpoints, Operations, Pages,
        limits::{LimitSettings, Limits},
    },
    hanko::Hanko,
    openapi::{ApiType, RouteMap, WithProblems},
    operations::{Checks, HealthApi, health_routes},
    problem,
};

/// How many connections may be open: those of a few scrapers and probes. Descriptors are reserved for them.
const MAX_CONNECTIONS: usize = 32;

/// The descriptors of these connections, and that of the listener.
pub(super) const DESCRIPTORS: u64 = MAX_CONNECTIONS as u64 + 1;

/// The time for head, body and handler of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long running requests may take when everything else has ended.
const GRACE: Duration = Duration::from_secs(1);

const METRICS_PATH: &str = "/metrics";

/// The server for operators.
pub(super) struct Admin {
    edge: EdgeCore,
    limits: Arc<Limits>,
}

impl Admin {
    pub(super) fn new(
        hanko: Hanko,
        checks: &Checks,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let api = ApiType::of::<WithProblems<HealthApi>>();
        let mut routes = RouteMap::new();
        health_routes(&api, checks, &mut routes);
        let pages = Pages::default().at(METRICS_PATH, Exposition(Arc::new(metrics)));
        let operations = Operations::new(Endpoints {
            meta: api.meta(),
            routes,
            router_schemes: HashSet::new(),
            plain: Vec::new(),
            pages: vec![METRICS_PATH.to_owned()],
            data: Vec::new(),
        })
        .expect("the routes are fixed and do not conflict");
        let settings = LimitSettings {
            max_requests: MAX_CONNECTIONS,
            max_body: 0,
            request_timeout: REQUEST_TIMEOUT,
        };
        Self {
            edge: EdgeCore::new(hanko, operations, pages),
            limits: Arc::new(Limits::new(settings, MAX_CONNECTIONS, clock)),
        }
    }

    pub(super) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits)
    }

    /// Serves until `shutdown` ends.
    pub(super) async fn serve(
        self,
        listener: Listener,
        config: &HttpConfig,
        shutdown: impl Future<Output = ()>,
    ) {
        let config = HttpConfig {
            shutdown_delay: Duration::ZERO,
            shutdown_grace: GRACE,
            ..config.clone()
        };
        listen::serve(listener, self.edge, self.limits, &config, shutdown).await;
    }
}

/// The page with the metrics.
struct Exposition(Arc<Metrics>);

impl Endpoint for Exposition {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let allow = HeaderValue::from_static("GET, HEAD");
            return Ok(problem::method_not_allowed(&allow));
        }
        let metrics = Arc::clone(&self.0);
        let text = tokio::task::spawn_blocking(move || metrics.encode()).await;
        let text = text.map_err(poem::error::InternalServerError)?;
        Ok(Response::builder().content_type(CONTENT_TYPE).body(text))
    }
}
