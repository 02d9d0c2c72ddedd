//! Replaces traces without the feature `otlp`, and does nothing.

#![allow(
    clippy::unused_self,
    reason = "the same functions exist with the feature"
)]

use std::fmt;

use poem::http::StatusCode;
use url::Url;

use super::Incoming;
use crate::metrics::Authentication;

pub(crate) const fn is_on() -> bool {
    false
}

/// An id that cannot exist, since there are no traces.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TraceId {}

impl fmt::Display for TraceId {
    fn fmt(&self, _formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

#[derive(Debug, Default)]
pub(crate) struct RequestSpan;

impl RequestSpan {
    pub(crate) fn begin(_incoming: &Incoming<'_>) -> Self {
        Self
    }

    pub(crate) fn trace_id(&self) -> Option<TraceId> {
        None
    }

    pub(crate) fn enclose<F>(&self, future: F) -> F {
        future
    }

    pub(crate) fn responded(self, _status: StatusCode) {}
}

pub(crate) fn authentication<F: Future>(
    future: F,
    _count: impl FnOnce(&F::Output) -> Authentication,
) -> F {
    future
}

pub(crate) fn inherit<F>(future: F) -> F {
    future
}

#[derive(Debug, Default)]
pub(crate) struct Callers;

impl Callers {
    pub(crate) fn add_current(&mut self, _waits: bool) {}
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Span;

impl Span {
    pub(crate) fn validation(_callers: &Callers) -> Self {
        Self
    }

    pub(crate) fn hanko(_method: &'static str, _template: &'static str, _url: &Url) -> Self {
        Self
    }

    pub(crate) fn key_set(_url: &Url, _callers: &Callers) -> Self {
        Self
    }

    #[cfg(feature = "redis")]
    pub(crate) fn redis(_operation: &'static str, _server: &redis::ConnectionAddr) -> Self {
        Self
    }

    pub(crate) fn is_none(&self) -> bool {
        false
    }

    pub(crate) fn join_current(&self) {}

    pub(crate) fn enclose<F>(&self, future: F) -> F {
        future
    }

    pub(crate) fn inject(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request
    }

    pub(crate) fn responded(&self, _status: StatusCode) {}

    pub(crate) fn failed(&self, _reason: &'static str) {}

    pub(crate) fn outcome(&self, _outcome: &'static str) {}
}
