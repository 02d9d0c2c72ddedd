//! The spans of traces. Knows no exporter: the program's [log](crate::app) has a layer that exports them.
//!
//! With the feature `otlp` they are spans of `tracing` with the target [`TARGET`] and the level TRACE, so that while nobody
//! exports them, each costs one comparison with the level that is enabled. Without it, every type here is empty and every
//! function is the identity.

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

/// The target of every span, by which the log leaves them out and the exporter takes them.
#[cfg(feature = "otlp")]
pub(crate) const TARGET: &str = "poem_hanko::trace";

/// What a trace says about a request whose head has arrived: nothing that its client can choose, except the id, which is
/// well-formed.
#[cfg_attr(
    not(feature = "otlp"),
    allow(dead_code, reason = "no trace says anything")
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
