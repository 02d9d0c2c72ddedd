//! The HTTP client that calls Hanko.

use super::url::HankoUrl;

/// Why the HTTP client that calls Hanko cannot be built.
///
/// ```
/// use poem_hanko::{BuildError, HttpClientError};
///
/// fn hint(error: &BuildError) -> Option<&'static str> {
///     match error {
///         BuildError::Client(HttpClientError::NoRoots) => Some("apt install ca-certificates"),
///         _ => None,
///     }
/// }
/// # assert!(hint(&HttpClientError::NoRoots.into()).is_some());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpClientError {
    /// The platform has no root certificates, such as a container image without them.
    #[error(
        "no CA root certificates were found, so no https server can be verified: install the package ca-certificates, \
         or set SSL_CERT_FILE to a file of PEM certificates or SSL_CERT_DIR to a folder of them"
    )]
    NoRoots,
    /// The TLS library or the proxy settings cannot be used.
    #[error("the HTTP client cannot be built: {0}")]
    Other(String),
}

/// Builds the client for the calls to this Hanko.
///
/// No root certificates are needed if Hanko is called over `http` on loopback.
pub(super) fn http_client(hanko: &HankoUrl) -> Result<reqwest::Client, HttpClientError> {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("poem-hanko/", env!("CARGO_PKG_VERSION")));
    // For a proxy on another machine, loopback is that machine.
    let builder = if hanko.is_loopback() {
        builder.no_proxy()
    } else {
        builder
    };
    let builder = if hanko.is_loopback() && hanko.is_http() {
        // There are no redirects and no proxy that could lead to https, so the platform's root certificates are not read.
        builder.tls_certs_only([])
    } else {
        builder
    };
    builder.build().map_err(|error| {
        let error = chain(&error);
        // rustls-platform-verifier has no error type of its own for this.
        if error.contains("No CA certificates were loaded") {
            HttpClientError::NoRoots
        } else {
            HttpClientError::Other(error)
        }
    })
}

/// Returns the messages of an error and its causes. The message of reqwest's error alone is only "builder error".
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
