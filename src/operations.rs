//! The product's operations, and the service that is assembled of them.

#![allow(
    clippy::unused_async,
    reason = "Poem wants async handlers, whether they wait or not"
)]

mod greeting;
mod health;
mod me;
mod webhooks;

use crate::openapi::WithProblems;
#[cfg(feature = "server")]
pub(crate) use health::Draining;
use poem_openapi::{LicenseObject, OpenApi, OpenApiService, ServerObject, Tags};

/// The name of the service, in the document and on the page titles.
pub const TITLE: &str = "poem-hanko";

/// Where Hanko's webhooks are to be sent.
pub const WEBHOOK_PATH: &str = "/webhooks/hanko";

const DESCRIPTION: &str = "A backend behind [Hanko](https://www.hanko.io): it verifies Hanko's session tokens on every \
    request, whether they come as a Bearer token or in the session cookie.\n\nEvery error is a problem document \
    (RFC 9457, `application/problem+json`).";

#[derive(Tags)]
enum Tag {
    /// Routes to see that authentication works.
    Greeting,
    /// Who is signed in.
    Session,
    /// For Hanko to tell of events.
    Webhooks,
    /// For those who run the service.
    Health,
}

/// All operations. They take the [`Hanko`](crate::Hanko) from the data of the request, as [`HankoAuth`] does.
///
/// [`HankoAuth`]: crate::HankoAuth
#[must_use]
pub fn operations() -> impl OpenApi {
    WithProblems::new((
        greeting::GreetingApi::default(),
        me::MeApi,
        webhooks::WebhooksApi,
        health::HealthApi::default(),
    ))
}

/// The service of these operations, for clients that reach it at `public_url`.
#[must_use]
pub fn service<A: OpenApi>(operations: A, public_url: &str) -> OpenApiService<A, ()> {
    OpenApiService::new(operations, TITLE, env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .license(LicenseObject::new("MIT OR Apache-2.0").url("https://spdx.org/licenses/MIT.html"))
        .server(ServerObject::new(public_url))
}
