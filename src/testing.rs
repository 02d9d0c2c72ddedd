//! A local Hanko on loopback, for `poem-hanko dev`, for our tests and for yours.
//!
//! Its JWK Set, its session tokens, its webhooks and its responses to `/sessions/validate` and `/logout` have the members,
//! types and formats of a real Hanko's; a test compares them with a recording. Pages on loopback may call it with
//! credentials, as Hanko's frontend SDK does. A user is created by signing a [`Person`] in. The signing key is generated at
//! start and never leaves memory. Do not use it in production: everybody who can reach it can sign in as anybody.
//!
//! Tests can change its settings while it runs: the session limit, the idle timeout, the events that are sent, a [`Fault`],
//! and when the responses of `/sessions/validate` are sent.

mod handle;
mod key;
mod routes;
mod state;

use std::time::Duration;

pub use handle::{LocalHanko, LocalHankoBuilder, Person, SignedIn};
pub use state::{DeliveryError, Fault, HeldValidations};

/// The lifetime of session tokens: Hanko's default.
pub const SESSION_LIFESPAN: Duration = Duration::from_hours(12);

/// How many sessions a user can have at the same time: Hanko's default.
pub const DEFAULT_SESSION_LIMIT: usize = 5;

/// The events that are sent unless others are chosen: all that the local Hanko has, except `session.create`.
pub const DEFAULT_WEBHOOK_EVENTS: [&str; 2] = ["user", "session.delete"];
