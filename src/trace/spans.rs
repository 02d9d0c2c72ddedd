//! The spans, with attributes by OpenTelemetry's semantic conventions. No attribute contains a token, a path, a query or an
//! e-mail address.

use futures_util::FutureExt;
use opentelemetry::{
    Context,
    trace::{TraceContextExt, TraceId},
};
use poem::http::{StatusCode, Version};
use tracing::{Instrument, field::Empty, instrument::Instrumented, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use url::Url;

use super::{
    Incoming, TARGET,
    context::{Callers, current, extract, inject},
};
use crate::metrics::{Authentication, Method};

/// The `otel.status_code` of a span that failed.
const ERROR: &str = "ERROR";

/// Returns whether spans may be exported. If not, their attributes are not needed.
pub(crate) fn is_on() -> bool {
    LevelFilter::current() == LevelFilter::TRACE
}

/// The span of a request, until the head of its response is complete.
///
/// If it is dropped, the request has failed: its connection was closed, or its HTTP/2 stream was reset.
#[derive(Debug)]
pub(crate) struct RequestSpan(tracing::Span);

impl Default for RequestSpan {
    fn default() -> Self {
        Self(tracing::Span::none())
    }
}

impl RequestSpan {
    /// Starts the span, in the trace of the caller if there is one.
    pub(crate) fn begin(incoming: &Incoming<'_>) -> Self {
        let (method, in_name) = match incoming.method {
            Method::Other => ("_OTHER", "HTTP"),
            method => (method.name(), method.name()),
        };
        let name = match incoming.route {
            Some(route) => format!("{in_name} {route}"),
            None => in_name.to_owned(),
        };
        let span = tracing::trace_span!(
            target: TARGET,
            "request",
            otel.name = name,
            otel.kind = "server",
            http.request.method = method,
            http.route = incoming.route,
            http.response.status_code = Empty,
            url.scheme = "http",
            network.protocol.version = version(incoming.version),
            client.address = incoming.client.map(tracing::field::display),
            // The name that it has in the log.
            request_id = incoming.request_id.to_str().ok(),
            "error.type" = Empty,
            otel.status_code = Empty,
        );
        // The application may have a span around this one.
        if current().is_none()
            && let Some(caller) = incoming.trusted.and_then(extract)
        {
            // It is an error only if the span is not exported.
            let _ = span.set_parent(caller);
        }
        Self(span)
    }

    /// Returns the id of the trace, if it is sampled.
    pub(crate) fn trace_id(&self) -> Option<TraceId> {
        if self.0.is_none() {
            return None;
        }
        let context = self.0.context();
        let span = context.span().span_context().clone();
        span.is_sampled().then(|| span.trace_id())
    }

    /// Lets a future belong to the span.
    pub(crate) fn enclose<F>(&self, future: F) -> Instrumented<F> {
        future.instrument(self.0.clone())
    }

    /// Ends the span with the status of the response.
    pub(crate) fn responded(mut self, status: StatusCode) {
        let span = std::mem::replace(&mut self.0, tracing::Span::none());
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("error.type", status.as_str());
            span.record("otel.status_code", ERROR);
        }
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if !self.0.is_none() {
            self.0.record("error.type", "cut-off");
            self.0.record("otel.status_code", ERROR);
        }
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// Runs the authentication of a request in a span. `count` returns the value that the outcome is counted as.
pub(crate) fn authentication<F: Future>(
    future: F,
    count: impl FnOnce(&F::Output) -> Authentication,
) -> impl Future<Output = F::Output> {
    let span = tracing::trace_span!(
        target: TARGET,
        "authenticate",
        otel.kind = "internal",
        hanko.outcome = Empty,
        hanko.reason = Empty,
        otel.status_code = Empty,
    );
    let ended = span.clone();
    future
        .map(move |outcome| {
            if !ended.is_none() {
                let counted_as = count(&outcome);
                ended.record("hanko.outcome", counted_as.outcome());
                if !counted_as.name().is_empty() {
                    ended.record("hanko.reason", counted_as.name());
                }
                if counted_as.outcome() == "unavailable" {
                    ended.record("otel.status_code", ERROR);
                }
            }
            outcome
        })
        .instrument(span)
}

/// The span of an operation on behalf of requests.
#[derive(Clone, Debug)]
pub(crate) struct Span(tracing::Span);

impl Default for Span {
    fn default() -> Self {
        Self(tracing::Span::none())
    }
}

impl Span {
    /// Starts the span of the validation of a session.
    pub(crate) fn validation(callers: &Callers) -> Self {
        let span = tracing::trace_span!(
            target: TARGET,
            parent: None,
            "validate session",
            otel.kind = "internal",
            hanko.outcome = Empty,
            "error.type" = Empty,
            otel.status_code = Empty,
        );
        Self(span).on_behalf_of(callers)
    }

    /// Starts the span of a request to Hanko, as a child of the current span.
    pub(crate) fn hanko(method: &'static str, template: &'static str, url: &Url) -> Self {
        Self(tracing::trace_span!(
            target: TARGET,
            "request to Hanko",
            otel.name = format!("{method} {template}"),
            otel.kind = "client",
            http.request.method = method,
            url.template = template,
            url.full = url.as_str(),
            server.address = url.host_str(),
            server.port = url.port_or_known_default(),
            http.response.status_code = Empty,
            "error.type" = Empty,
            otel.status_code = Empty,
        ))
    }

    /// Starts the span of a fetch of the JWK Set.
    pub(crate) fn key_set(url: &Url, callers: &Callers) -> Self {
        // The task that fetches it has no span.
        Self::hanko("GET", "/.well-known/jwks.json", url).on_behalf_of(callers)
    }

    /// Starts the span of a Redis operation, as a child of the current span.
    #[cfg(feature = "redis")]
    pub(crate) fn redis(operation: &'static str, server: &redis::ConnectionAddr) -> Self {
        use redis::ConnectionAddr::{Tcp, TcpTls};

        let (host, port) = match server {
            Tcp(host, port) | TcpTls { host, port, .. } => (Some(host.as_str()), Some(*port)),
            _ => (None, None),
        };
        Self(tracing::trace_span!(
            target: TARGET,
            "request to Redis",
            otel.name = operation,
            otel.kind = "client",
            db.system.name = "redis",
            db.operation.name = operation,
            server.address = host,
            server.port = port,
            "error.type" = Empty,
            otel.status_code = Empty,
        ))
    }

    /// Makes it a child of its only caller, or links it to all callers if there are several.
    fn on_behalf_of(self, callers: &Callers) -> Self {
        match callers.parent() {
            Some(parent) => {
                // It is an error only if the span is not exported.
                let _ = self.0.set_parent(parent);
            }
            None => {
                for caller in callers.spans() {
                    self.0.add_link(caller.clone());
                }
            }
        }
        self
    }

    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Links it to the current span, and that span to it: another caller waits for the response.
    pub(crate) fn join_current(&self) {
        if self.0.is_none() {
            return;
        }
        let joining = Context::current();
        let caller = joining.span();
        if caller.span_context().is_valid() {
            self.0.add_link(caller.span_context().clone());
            let own = self.0.context().span().span_context().clone();
            caller.add_link(own, Vec::new());
        }
    }

    /// Lets a future belong to the span.
    pub(crate) fn enclose<F>(&self, future: F) -> Instrumented<F> {
        future.instrument(self.0.clone())
    }

    /// Adds `traceparent` to a request.
    pub(crate) fn inject(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        if self.0.is_none() {
            return request;
        }
        request.headers(inject(&self.0.context()))
    }

    /// Notes the status of the response.
    pub(crate) fn responded(&self, status: StatusCode) {
        self.0.record("http.response.status_code", status.as_u16());
    }

    /// Notes a failure, one of a fixed set.
    pub(crate) fn failed(&self, reason: &'static str) {
        self.0.record("error.type", reason);
        self.0.record("otel.status_code", ERROR);
    }

    /// Notes the outcome, one of a fixed set.
    pub(crate) fn outcome(&self, outcome: &'static str) {
        self.0.record("hanko.outcome", outcome);
    }
}
