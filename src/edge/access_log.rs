//! One line of the log per request.

use std::{net::IpAddr, sync::Arc, time::Duration};

use poem::{
    Request,
    http::{HeaderMap, StatusCode},
};

use super::{REQUEST_ID, known};
use crate::{auth::AuthRecord, clock::Clock, problem::ProblemType};

/// Stands for every path that nothing serves.
const UNMATCHED: &str = "unmatched";

/// A request whose response has not begun. It contains nothing else that the client has chosen: no path, no query, no header
/// but the request id, which is well-formed.
pub(crate) struct AccessEntry {
    clock: Arc<dyn Clock>,
    began_at: Duration,
    method: &'static str,
    route: Option<Arc<str>>,
    client: Option<IpAddr>,
    record: Arc<AuthRecord>,
}

impl AccessEntry {
    /// Begins the line of a request for `route`, the path in the document, from `client`.
    pub(super) fn begin(
        request: &mut Request,
        route: Option<Arc<str>>,
        client: Option<IpAddr>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        Self {
            clock: Arc::clone(clock),
            began_at: clock.monotonic(),
            method: known(request.method()).unwrap_or("other"),
            route,
            client,
            record: AuthRecord::add_to(request),
        }
    }

    /// Writes the line, when the head of the response is complete. `rejection` is the limit that the request has run into.
    pub(crate) fn log(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        rejection: Option<ProblemType>,
    ) {
        let duration = self.clock.monotonic().saturating_sub(self.began_at);
        let microseconds = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        let identified = self.record.identified();
        let reason = match self.record.rejection() {
            Some(rejection) => Some(rejection.to_string()),
            None => rejection.map(|problem_type| problem_type.title().to_owned()),
        };
        tracing::info!(
            event = "access",
            method = self.method,
            route = self.route.as_deref().unwrap_or(UNMATCHED),
            status = status.as_u16(),
            duration_ms = f64::from(microseconds) / 1e3,
            request_id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()),
            client = self.client.map(tracing::field::display),
            session_id = identified.session_id().map(tracing::field::display),
            user_id = identified.user_id().map(tracing::field::display),
            reason,
            "served a request"
        );
    }
}
