//! The OpenAPI document: how operations document their responses, and how the document is made and served.

mod apis;
mod conflict;
mod document;
mod headers;
mod json_body;
mod problems;
#[cfg(feature = "swagger-ui")]
mod swagger_ui;

pub(crate) use apis::{ApiType, RouteMap, merge};
pub use conflict::Conflict;
pub use document::{Document, DocumentFormat};
pub use json_body::JsonBody;
pub use problems::{ProblemOf, ProblemTypes, WithProblems};
pub(crate) use problems::{describe, responses_of};
#[cfg(feature = "swagger-ui")]
pub(crate) use swagger_ui::SignInPlace;
