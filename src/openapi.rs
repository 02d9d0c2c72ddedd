//! The OpenAPI document.

#[cfg(feature = "server")]
mod document;
mod json;
mod problems;
mod routes;
#[cfg(feature = "server")]
pub(crate) mod swagger_ui;

#[cfg(feature = "server")]
pub use document::{Document, DocumentFormat};
pub use json::Json;
pub use problems::WithProblems;
pub use routes::{RouteConflict, RouteTable, WithRouteTable};
