//! What Poem asks: who sends this request? Credentials are taken out of it, and an error is put into the terms of HTTP.

mod challenge;
mod credentials;
mod extractor;
mod rejection;

pub use challenge::Challenge;
#[cfg(feature = "server")]
pub(crate) use credentials::comes_from_trusted_page;
pub use extractor::{
    BEARER_SCHEME, COOKIE_SCHEME, HankoAuth, LiveHankoAuth, OptionalHankoAuth, authenticate,
    authenticate_live,
};
pub use rejection::Rejection;
