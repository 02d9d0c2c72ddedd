//! Operations that every application can have: see [`App`](crate::App), or put them into an API of your own.

#![allow(
    clippy::unused_async,
    reason = "operations are async, whether they wait or not"
)]

mod health;
mod me;
mod webhooks;

#[cfg(feature = "server")]
pub use health::CheckStatus;
pub(crate) use health::Draining;
pub use health::HealthApi;
#[cfg(feature = "server")]
pub(crate) use health::{Check, Checks, component_statuses, health_routes};
pub use me::MeApi;
use poem_openapi::Tags;
pub use webhooks::{WebhooksApi, webhook_endpoint};

/// The path of the webhook operation.
pub(crate) const WEBHOOK_PATH: &str = "/webhooks/hanko";

/// The path of forward-auth, which proxies call.
#[cfg(feature = "server")]
pub(crate) const FORWARD_AUTH_PATH: &str = "/forward-auth";

#[derive(Tags)]
enum Tag {
    /// The current session.
    Session,
    /// Receives events from Hanko.
    Webhooks,
    /// Liveness and readiness of the service.
    Health,
}
