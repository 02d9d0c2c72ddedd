//! One line of the log per request.

use std::{net::IpAddr, sync::Arc, time::Duration};

use poem::{
    Request,
    http::{HeaderValue, StatusCode},
};

use crate::{
    auth::AuthRecord, clock::Clock, metrics::Method, problem::ProblemType, trace::TraceId,
};

/// Stands for every path that nothing serves.
const UNMATCHED: &str = "unmatched";

/// A request whose response has not started. Of the text that a client sends, it holds only the request id, which is
/// well-formed: no path, no query, and no other header.
///
/// If it is dropped, it is logged without a status: its connection was closed, or its HTTP/2 stream was reset.
pub(crate) struct AccessEntry {
    clock: Arc<dyn Clock>,
    began_at: Duration,
    method: &'static str,
    route: Option<Arc<str>>,
    client: Option<IpAddr>,
    request_id: HeaderValue,
    trace_id: Option<TraceId>,
    record: Arc<AuthRecord>,
    is_logged: bool,
}

impl AccessEntry {
    /// Starts the line of a request for `route`, the path in the document, from `client`.
    pub(super) fn begin(
        request: &mut Request,
        request_id: HeaderValue,
        route: Option<Arc<str>>,
        client: Option<IpAddr>,
        trace_id: Option<TraceId>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        Self {
            clock: Arc::clone(clock),
            began_at: clock.monotonic(),
            method: Method::from(request.method()).name(),
            route,
            client,
            request_id,
            trace_id,
            record: AuthRecord::add_to(request),
            is_logged: false,
        }
    }

    /// Writes the line, when the head of the response is complete. `limit` is the limit that the request has reached, if any.
    pub(crate) fn log(mut self, status: StatusCode, limit: Option<ProblemType>) {
        let limit = limit.map(|problem_type| (problem_type.slug(), problem_type.title()));
        self.is_logged = true;
        self.write(Some(status.as_u16()), limit);
    }

    /// Writes the line. `ended_by` is the name of what has ended the request, and a sentence about it. If authentication has
    /// rejected the request, its reason is written instead.
    fn write(&self, status: Option<u16>, ended_by: Option<(&'static str, &str)>) {
        let rejection = self.record.reason();
        let reason = rejection.map(|reason| (reason.name, &*reason.detail));
        let (reason, detail) = reason.or(ended_by).unzip();
        let duration = self.clock.monotonic().saturating_sub(self.began_at);
        let microseconds = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        let identified = self.record.identified();
        tracing::info!(
            event = "access",
            method = self.method,
            route = self.route.as_deref().unwrap_or(UNMATCHED),
            status,
            duration_ms = f64::from(microseconds) / 1e3,
            request_id = self.request_id.to_str().ok(),
            trace_id = self.trace_id.map(tracing::field::display),
            client = self.client.map(tracing::field::display),
            session_id = identified.session_id().map(tracing::field::display),
            user_id = identified.user_id().map(tracing::field::display),
            reason,
            detail,
            "served a request"
        );
    }
}

impl Drop for AccessEntry {
    fn drop(&mut self) {
        if !self.is_logged {
            let detail = "the request was cut off before its response";
            self.write(None, Some(("cut-off", detail)));
        }
    }
}
