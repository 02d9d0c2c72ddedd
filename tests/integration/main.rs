//! One binary for all tests of the public API. Each test has its own local Hanko, clock and server, so that tests can run
//! in parallel.

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
