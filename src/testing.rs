//! A Hanko for tests and for development, and a kit to test any Poem endpoint with it. Nothing has to be installed.
//!
//! ```
//! use poem::{Request, Result, Route, get, handler, http::StatusCode};
//! use poem_hanko::{
//!     authenticate,
//!     testing::{Person, SignedInRequest, TestHanko},
//! };
//!
//! #[handler]
//! async fn whoami(request: &Request) -> Result<String> {
//!     let session = authenticate(request).await?;
//!     Ok(session.map_or("nobody".to_owned(), |session| session.user_id().to_string()))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hanko = TestHanko::start().await;
//! let client = hanko.client(Route::new().at("/whoami", get(whoami)));
//!
//! // Bearer and cookie.
//! let ada = hanko.sign_in(&Person::default().claim("role", "admin"));
//! let response = client.get("/whoami").signed_in(&ada).send().await;
//! response.assert_status_is_ok();
//! response.assert_text(ada.user_id().to_string()).await;
//! let response = client.get("/whoami").with_session_cookie(&ada).send().await;
//! response.assert_status_is_ok();
//!
//! // A token of another Hanko.
//! let token = hanko.foreign_token(&Person::default());
//! let response = client.get("/whoami").bearer(&token).send().await;
//! response.assert_status(StatusCode::UNAUTHORIZED);
//!
//! // She signs out, and Hanko's webhook reports it.
//! hanko.end_session(&ada).await?;
//! let response = client.get("/whoami").signed_in(&ada).send().await;
//! response.assert_status(StatusCode::UNAUTHORIZED);
//! # Ok(())
//! # }
//! ```
//!
//! [`TestHanko`] puts a [`LocalHanko`], a [`Hanko`](crate::Hanko) and a clock that the test moves together. A [`Person`]
//! says who signs in and how. Both need the feature `testing`.
//!
//! The JWK Set, the session tokens, the webhooks and the responses to `/sessions/validate` and `/logout` of a [`LocalHanko`]
//! have the members, types and formats of a real Hanko's; a test compares them with a recording. Pages on loopback may call
//! it with credentials, as Hanko's frontend SDK does. Its signing key is generated at start and never leaves memory. Do not
//! use it in production: everybody who can reach it can sign in as anybody.
//!
//! Tests can change its settings while it runs: the session limit, the idle timeout, the events that are sent, a [`Fault`],
//! and when the responses of `/sessions/validate` are sent.
#![cfg_attr(
    not(feature = "testing"),
    doc = "",
    doc = "[`TestHanko`]: crate#features"
)]

#[cfg(feature = "testing")]
mod client;
mod handle;
mod key;
mod routes;
mod state;

use std::time::Duration;

#[cfg(feature = "testing")]
pub use client::{SignedInRequest, TestHanko, TestHankoBuilder};
pub use handle::{LocalHanko, LocalHankoBuilder, Person, SignedIn};
pub use state::{DeliveryError, Fault, HeldValidations};

/// The lifetime of session tokens: Hanko's default.
pub const SESSION_LIFESPAN: Duration = Duration::from_hours(12);

/// How many sessions a user can have at the same time: Hanko's default.
pub const DEFAULT_SESSION_LIMIT: usize = 5;

/// The events that are sent by default: all events of the local Hanko except `session.create`.
pub const DEFAULT_WEBHOOK_EVENTS: [&str; 2] = ["user", "session.delete"];
