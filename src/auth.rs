//! Authenticates Poem requests: extracts the credentials, and turns errors into responses.

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
