//! Exports spans by OTLP, configured by OpenTelemetry's own variables. They are read from the process environment only, and
//! by OpenTelemetry's own code where possible.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, SpanExporter,
    WithHttpConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SdkTracer, SdkTracerProvider, SpanData},
};
use tokio::runtime;
use tracing::{Metadata, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::FilterFn, registry::LookupSpan};
use url::Url;

use super::{InstallLogError, Service, WIRE_TARGETS, root_of};
use crate::{
    clock::{Clock, SystemClock},
    hanko::is_loopback,
    sampling::{Line, Sampler},
    trace::TARGET,
};

/// The largest response of a collector that is read.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// Libraries whose spans are left out, beside [`WIRE_TARGETS`].
const EXPORT_TARGETS: [&str; 3] = ["opentelemetry", "opentelemetry_otlp", "opentelemetry_sdk"];

/// The exporter of this process's spans, once it is installed.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Returns the value of a variable of the process environment, if it is not empty.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?;
    Some(value.to_string_lossy().trim().to_owned()).filter(|value| !value.is_empty())
}

/// Returns where traces are sent, or `None` if they are off.
pub(in crate::app) fn endpoint() -> Option<String> {
    let is_disabled = variable("OTEL_SDK_DISABLED")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || variable("OTEL_TRACES_EXPORTER").as_deref() == Some("none");
    if is_disabled {
        return None;
    }
    variable(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT).or_else(|| variable(OTEL_EXPORTER_OTLP_ENDPOINT))
}

/// Starts to export spans if the environment names an endpoint. Returns the tracer that collects them.
pub(super) fn start(service: Option<Service<'_>>) -> Result<Option<SdkTracer>, InstallLogError> {
    let Some(endpoint) = endpoint() else {
        return Ok(None);
    };
    let failed = |error: &dyn fmt::Display| InstallLogError::Traces(error.to_string());
    let client = CollectorClient::new(&endpoint).map_err(|error| failed(&error))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .build()
        // The message contains the endpoint, which may contain a password.
        .map_err(|_| failed(&"the exporter cannot be built"))?;
    let provider = SdkTracerProvider::builder()
        .with_resource(resource(service))
        .with_batch_exporter(Reporting::new(exporter))
        .build();
    let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
    let _ = PROVIDER.set(provider);
    Ok(Some(tracer))
}

fn resource(service: Option<Service<'_>>) -> Resource {
    let names_service = variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| {
            let mut names = attributes
                .split(',')
                .filter_map(|item| item.split_once('='));
            names.any(|(name, _)| name.trim() == "service.name")
        });
    match service {
        Some(service) if !names_service => Resource::builder()
            .with_service_name(service.name.to_owned())
            .with_attribute(KeyValue::new("service.version", service.version.to_owned()))
            .build(),
        _ => Resource::builder().build(),
    }
}

/// Returns the layer that exports spans, independently of the log's filter.
pub(super) fn layer<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(FilterFn::new(is_exported).with_max_level_hint(LevelFilter::TRACE))
}

/// Whether this is exported: our spans, and those of the application of level INFO and above. Log lines never are.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    let root = root_of(metadata);
    metadata.is_span()
        && (metadata.target() == TARGET
            || *metadata.level() <= LevelFilter::INFO
                && !WIRE_TARGETS.contains(&root)
                && !EXPORT_TARGETS.contains(&root))
}

/// Exports the spans that have ended, and waits for that at most `timeout`. No span is exported afterwards.
pub(super) fn end(timeout: Duration) {
    if let Some(provider) = PROVIDER.get() {
        // A failed export has been logged.
        let _ = provider.shutdown_with_timeout(timeout);
    }
}

/// An exporter that logs failed exports.
struct Reporting {
    exporter: SpanExporter,
    sampler: Sampler,
}

impl Reporting {
    fn new(exporter: SpanExporter) -> Self {
        Self {
            exporter,
            sampler: Sampler::new(Arc::new(SystemClock::new())),
        }
    }
}

impl fmt::Debug for Reporting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reporting").finish_non_exhaustive()
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        match &outcome {
            Ok(()) | Err(OTelSdkError::AlreadyShutdown) => {}
            Err(error) => self.sampler.log(Line::UnexportedSpans, error),
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Sends requests to the collector from the exporting thread. Each has its own runtime, so that the runtime of the service
/// never waits for the collector.
struct CollectorClient {
    http: reqwest::Client,
    timeout: Duration,
    clock: SystemClock,
}

impl CollectorClient {
    fn new(endpoint: &str) -> Result<Self, HttpError> {
        let url = Url::parse(endpoint)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or("it is not an http or https URL such as http://localhost:4318")?;
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // Keeps no idle connections: between two exports, nothing would notice that the collector closed one.
            .pool_max_idle_per_host(0);
        // As in `http_client`: to a proxy on another machine, loopback is that machine, and `http` needs no CA roots.
        let builder = if is_loopback(&url) {
            builder.no_proxy()
        } else {
            builder
        };
        let builder = if url.scheme() == "http" {
            builder.tls_certs_only([])
        } else {
            builder
        };
        let milliseconds = variable(OTEL_EXPORTER_OTLP_TRACES_TIMEOUT)
            .or_else(|| variable(OTEL_EXPORTER_OTLP_TIMEOUT))
            .and_then(|text| text.parse().ok());
        Ok(Self {
            http: builder.build()?,
            timeout: milliseconds.map_or(OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Duration::from_millis),
            clock: SystemClock::new(),
        })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut response = tokio::select! {
            response = self.http.execute(request.try_into()?) => response.map_err(reqwest::Error::without_url)?,
            () = self.clock.sleep(self.timeout) => return Err("the collector did not respond in time".into()),
        };
        let mut head = Response::new(Bytes::new());
        *head.status_mut() = response.status();
        *head.headers_mut() = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        while let Some(chunk) = tokio::select! {
            chunk = response.chunk() => chunk.map_err(reqwest::Error::without_url)?,
            () = self.clock.sleep(self.timeout) => return Err("the collector did not respond in time".into()),
        } {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err("the response of the collector is too large".into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(head.map(|_| body.into()))
    }
}

impl fmt::Debug for CollectorClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CollectorClient")
            .finish_non_exhaustive()
    }
}

impl HttpClient for CollectorClient {
    // The signature that `async_trait` generates, with which the trait is declared.
    fn send_bytes<'client, 'future>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'client: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(self.send(request))
        })
    }
}
