#![doc = include_str!("crate.md")]

#[cfg(feature = "server")]
mod app;
mod auth;
mod clock;
mod hanko;
pub mod jose;
mod keys;
mod openapi;
mod operations;
#[cfg(feature = "server")]
mod pages;
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
pub use hanko::*;
pub use keys::*;
pub use openapi::*;
pub use operations::*;
pub use problem::*;
#[cfg(feature = "server")]
pub use server::*;
