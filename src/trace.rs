//! The spans of traces. They depend on no exporter: the program's [log](crate::app) has a layer that exports them.
//!
//! With the feature `otlp`, they are `tracing` spans with the target [`TARGET`] and the level TRACE. While they are not
//! exported, each costs one comparison with the enabled level. Without the feature, every type here is empty and every
//! function returns its argument.

#[cfg(feature = "otlp")]
mod context;
#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod spans;

use std::net::IpAddr;

#[cfg(feature = "otlp")]
pub(crate) use opentelemetry::trace::TraceId;
use poem::http::{HeaderMap, HeaderValue, Version};

#[cfg(not(feature = "otlp"))]
pub(crate) use self::off::{Callers, RequestSpan, Span, TraceId, authentication, inherit, is_on};
#[cfg(feature = "otlp")]
pub(crate) use self::{
    context::{Callers, inherit},
    spans::{RequestSpan, Span, authentication, is_on},
};
use crate::metrics::Method;

/// The target of every span. By it, the log excludes the spans and the exporter selects them.
#[cfg(feature = "otlp")]
pub(crate) const TARGET: &str = "poem_hanko::trace";

/// What a trace contains about a request whose head has arrived. Of the text that a client sends, it contains only the
/// request id, which is well-formed.
#[cfg_attr(
    not(feature = "otlp"),
    allow(dead_code, reason = "there are no traces")
)]
pub(crate) struct Incoming<'a> {
    pub(crate) method: Method,
    /// The path in the document.
    pub(crate) route: Option<&'a str>,
    pub(crate) version: Version,
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) client: Option<IpAddr>,
    /// The headers, if they come from a trusted proxy.
    pub(crate) trusted: Option<&'a HeaderMap>,
}
