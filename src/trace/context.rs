//! Trace Context (W3C): the trace that a request belongs to, and the headers that pass it on.

use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{FutureExt, SpanContext, TraceContextExt, WithContext},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use poem::http::{HeaderMap, HeaderName, HeaderValue};

/// How many callers of one shared request are linked at most.
const MAX_LINKS: usize = 32;
/// The longest `tracestate` that is passed on: the least that section 3.3.1.5 of Trace Context requires.
const MAX_TRACE_STATE_BYTES: usize = 512;

const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";

/// Returns the current span, if there is one.
pub(super) fn current() -> Option<SpanContext> {
    let context = Context::current();
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// Lets a future that runs in another task belong to the current span.
pub(crate) fn inherit<F>(future: F) -> WithContext<F> {
    future.with_current_context()
}

/// The spans of the callers that share one request.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    spans: Vec<SpanContext>,
    /// Whether one of them does not wait for the response.
    is_background: bool,
}

impl Callers {
    /// Adds the current span. `waits` says whether its caller waits for the response.
    pub(crate) fn add_current(&mut self, waits: bool) {
        let Some(span) = current() else { return };
        let is_known = self
            .spans
            .iter()
            .any(|known| known.span_id() == span.span_id());
        self.is_background |= !waits;
        if !is_known && self.spans.len() < MAX_LINKS {
            self.spans.push(span);
        }
    }

    /// Returns the only caller, if it waits: a request for one caller alone belongs to its trace.
    pub(super) fn parent(&self) -> Option<Context> {
        match &self.spans[..] {
            [span] if !self.is_background => {
                Some(Context::new().with_remote_span_context(span.clone()))
            }
            _ => None,
        }
    }

    pub(super) fn spans(&self) -> &[SpanContext] {
        &self.spans
    }
}

/// The headers of a request, of which only those about traces are read.
struct Received<'a>(&'a HeaderMap);

impl Received<'_> {
    /// Returns the value of a header that occurs once.
    fn only(&self, name: &str) -> Option<&str> {
        let mut values = self.0.get_all(name).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        value.to_str().ok()
    }
}

impl Extractor for Received<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACE_PARENT => self.only(key).filter(|value| is_well_formed(value)),
            TRACE_STATE => self
                .only(key)
                .filter(|value| value.len() <= MAX_TRACE_STATE_BYTES),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACE_PARENT, TRACE_STATE]
    }
}

/// Whether a `traceparent` has the form of section 3.2.2 of Trace Context, which the propagator does not check in full.
fn is_well_formed(value: &str) -> bool {
    const LENGTHS: [usize; 4] = [2, 32, 16, 2];
    let is_hex = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let mut parts = value.split('-');
    let has_parts = LENGTHS.iter().all(|length| {
        parts
            .next()
            .is_some_and(|part| part.len() == *length && is_hex(part))
    });
    // Only a later version may have more parts.
    has_parts && (parts.next().is_none() || !value.starts_with("00"))
}

/// Returns the context of the caller that `traceparent` names, if it is well-formed.
pub(super) fn extract(headers: &HeaderMap) -> Option<Context> {
    let context =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Received(headers));
    context.has_active_span().then_some(context)
}

/// The headers of a request that is about to be sent.
#[derive(Default)]
struct Sent(HeaderMap);

impl Injector for Sent {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::from_bytes(key.as_bytes());
        let value = HeaderValue::try_from(value);
        // The propagator sets an empty `tracestate`.
        if let (Ok(name), Ok(value)) = (name, value)
            && !value.is_empty()
        {
            self.0.insert(name, value);
        }
    }
}

/// Returns `traceparent` and `tracestate` for a request in this context.
pub(super) fn inject(context: &Context) -> HeaderMap {
    let mut sent = Sent::default();
    TraceContextPropagator::new().inject_context(context, &mut sent);
    sent.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn round_trip(fields: &[(&'static str, &str)]) -> Option<HeaderMap> {
        extract(&headers(fields)).map(|context| inject(&context))
    }

    #[test]
    fn trace_context_is_passed_on() {
        let sent = round_trip(&[("traceparent", PARENT)]).unwrap();
        assert_eq!(sent, headers(&[("traceparent", PARENT)]));
        let fields = [("traceparent", PARENT), ("tracestate", "a=1,b=2")];
        assert_eq!(round_trip(&fields), Some(headers(&fields)));
        // A later version is passed on as the one that is known.
        let later = PARENT.replacen("00", "01", 1) + "-more";
        assert_eq!(round_trip(&[("traceparent", &later)]), Some(sent));
    }

    #[test]
    fn long_trace_state_is_dropped() {
        let state = format!("a={}", "1".repeat(200)) + &format!(",b={}", "1".repeat(310));
        assert!(state.len() > MAX_TRACE_STATE_BYTES);
        let fields = [("traceparent", PARENT), ("tracestate", &*state)];
        assert_eq!(round_trip(&fields), Some(headers(&fields[..1])));
    }

    #[test]
    fn malformed_parents_are_ignored() {
        for wrong in [
            "",
            "00",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "+0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ] {
            assert_eq!(round_trip(&[("traceparent", wrong)]), None, "{wrong}");
        }
        assert_eq!(
            round_trip(&[("traceparent", PARENT), ("traceparent", PARENT)]),
            None
        );
    }
}
