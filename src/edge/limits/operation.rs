//! Limits that an operation sets for itself.

use std::time::Duration;

use poem::{Endpoint, Middleware, Request, Result};

use super::exchange::with_current;

/// Sets the limits of an endpoint's requests in place of those of the server, or of the [`Edge`](crate::Edge).
///
/// It is a middleware for an endpoint, a route, or, with `transform`, one operation:
///
/// ```
/// use std::time::Duration;
///
/// use poem::{Endpoint, EndpointExt};
/// use poem_hanko::RequestLimits;
/// use poem_openapi::{OpenApi, payload::{Binary, PlainText}};
///
/// struct Uploads;
///
/// #[OpenApi]
/// impl Uploads {
///     #[oai(path = "/uploads", method = "post", transform = "large")]
///     async fn upload(&self, body: Binary<Vec<u8>>) -> PlainText<String> {
///         PlainText(format!("{} bytes", body.0.len()))
///     }
/// }
///
/// fn large(upload: impl Endpoint) -> impl Endpoint {
///     upload.with(
///         RequestLimits::new()
///             .max_body(20 * 1024 * 1024)
///             .timeout(Duration::from_secs(120)),
///     )
/// }
/// ```
///
/// Of several nested ones, the innermost applies. It has no effect outside an `App` or an [`Edge`](crate::Edge).
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestLimits {
    max_body: Option<usize>,
    timeout: Option<Duration>,
    is_urgent: bool,
}

impl RequestLimits {
    /// Returns limits that change nothing yet.
    ///
    /// ```
    /// use poem::{EndpointExt, Route};
    /// use poem_hanko::RequestLimits;
    ///
    /// fn with_large_bodies(routes: Route) -> impl poem::Endpoint {
    ///     routes.with(RequestLimits::new().max_body(20 * 1024 * 1024))
    /// }
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the largest body, in bytes. A larger one gets 413 `content-too-large`.
    ///
    /// ```
    /// use poem_hanko::RequestLimits;
    ///
    /// const MIB: usize = 1024 * 1024;
    /// let limits = RequestLimits::new().max_body(20 * MIB);
    /// ```
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = Some(bytes);
        self
    }

    /// Sets the time for head, body and handler together. A late body gets 408 `request-timeout`, a late handler 503
    /// `handler-timeout`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use poem_hanko::RequestLimits;
    ///
    /// let limits = RequestLimits::new().timeout(Duration::from_secs(120));
    /// ```
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Lets the endpoint's handlers wait, even if too many others wait already.
    ///
    /// The last eighth of the requests in flight is reserved for handlers that wait for nothing but the body of their request. A
    /// handler that waits for anything else there gets 503 `overloaded`, unless it is urgent. An urgent endpoint should itself
    /// limit how many of its requests wait at the same time.
    ///
    /// ```
    /// use poem::{EndpointExt, Route, get, handler};
    /// use poem_hanko::RequestLimits;
    ///
    /// #[handler]
    /// async fn status() -> &'static str {
    ///     "open"
    /// }
    ///
    /// let routes = Route::new().at("/status", get(status).with(RequestLimits::new().urgent()));
    /// ```
    #[must_use]
    pub fn urgent(mut self) -> Self {
        self.is_urgent = true;
        self
    }
}

impl<E: Endpoint> Middleware<E> for RequestLimits {
    type Output = LimitedEndpoint<E>;

    fn transform(&self, endpoint: E) -> Self::Output {
        LimitedEndpoint {
            endpoint,
            limits: *self,
        }
    }
}

/// An endpoint with [`RequestLimits`] of its own.
///
/// ```
/// use poem::{EndpointExt, Route};
/// use poem_hanko::{LimitedEndpoint, RequestLimits};
///
/// fn uploads(routes: Route) -> LimitedEndpoint<Route> {
///     routes.with(RequestLimits::new().max_body(20 * 1024 * 1024))
/// }
/// ```
#[derive(Debug)]
pub struct LimitedEndpoint<E> {
    endpoint: E,
    limits: RequestLimits,
}

impl<E: Endpoint> Endpoint for LimitedEndpoint<E> {
    type Output = E::Output;

    async fn call(&self, request: Request) -> Result<Self::Output> {
        with_current(|exchange| {
            if let Some(bytes) = self.limits.max_body {
                exchange.set_max_body(bytes);
            }
            if let Some(timeout) = self.limits.timeout {
                exchange.set_timeout(timeout);
            }
            if self.limits.is_urgent {
                exchange.set_urgent();
            }
        });
        self.endpoint.call(request).await
    }
}
