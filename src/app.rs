//! The program.

pub mod cli;
pub(crate) mod config;
pub(crate) mod dev;
pub(crate) mod telemetry;

pub use config::*;
pub use telemetry::*;
