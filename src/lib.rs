#![doc = include_str!("crate.md")]

pub mod api;
pub mod auth;
#[cfg(feature = "server")]
pub mod cli;
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
mod dev;
#[cfg(feature = "server")]
mod docs;
pub mod hanko;
pub mod jose;
#[cfg(feature = "local-hanko")]
pub mod local_hanko;
#[cfg(feature = "server")]
mod pages;
pub mod problem;
mod sampling;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod telemetry;

pub use auth::{HankoAuth, OptionalHankoAuth};
pub use hanko::{Hanko, Session, Tenant};
