#![doc = include_str!("crate.md")]

#[cfg(feature = "server")]
mod app;
mod auth;
mod clock;
#[cfg_attr(
    not(feature = "server"),
    allow(
        dead_code,
        unused_imports,
        reason = "some limits concern connections, which the server alone accepts"
    )
)]
mod edge;
mod hanko;
mod jose;
mod keys;
#[cfg_attr(
    not(feature = "server"),
    allow(dead_code, unused_imports, reason = "`App` alone joins APIs")
)]
mod openapi;
mod operations;
mod problem;
mod sampling;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "local-hanko")]
pub mod testing;

#[cfg(feature = "server")]
pub use app::*;
pub use auth::*;
pub use clock::*;
pub use edge::*;
pub use hanko::*;
pub use jose::{NumericDate, TokenError};
pub use keys::*;
pub use openapi::*;
pub use operations::*;
pub use problem::*;
#[cfg(feature = "server")]
pub use server::*;
