#![doc = include_str!("crate.md")]

#[cfg(feature = "server")]
mod app;
mod auth;
mod clock;
mod hanko;
mod jose;
mod keys;
mod openapi;
mod operations;
#[cfg(feature = "server")]
mod pages;
mod problem;
mod sampling;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "server")]
pub use app::*;
pub use auth::*;
pub use clock::*;
pub use hanko::*;
pub use jose::{NumericDate, TokenError};
pub use keys::*;
pub use openapi::*;
pub use operations::*;
#[cfg(feature = "server")]
pub use pages::*;
pub use problem::*;
#[cfg(feature = "server")]
pub use server::*;
