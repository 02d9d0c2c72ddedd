//! One binary for all tests that see the library from outside. Each test has a local Hanko, a clock and a server of its
//! own, so that they run side by side.

mod support;

#[path = "../../src/bin/poem-hanko/greeting.rs"]
mod greeting;

mod access_log;
#[cfg(feature = "testing")]
mod app;
mod attacks;
mod cli;
mod config;
mod docs;
mod document;
mod edge;
mod embedding;
mod events;
mod faults;
mod forward_auth;
#[cfg(feature = "testing")]
mod guards;
mod limits;
mod liveness;
mod log_capture;
mod logs;
mod metrics;
mod pages;
mod problems;
mod recorded;
mod rejections;
mod revocations;
mod routes;
mod sessions;
mod testing;
#[cfg(feature = "otlp")]
mod traces;
mod webhooks;
