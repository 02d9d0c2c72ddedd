//! The HTTP client that calls Hanko.

use super::url::HankoUrl;

/// Why the HTTP client that calls Hanko cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpClientError {
    /// The platform has no root certificates, as in a container image without them.
    #[error(
        "no CA root certificates were found, so no https server can be verified: install the package ca-certificates, \
         or set SSL_CERT_FILE to a file of PEM certificates or SSL_CERT_DIR to a folder of them"
    )]
    NoRoots,
    /// The TLS library or the proxy settings caused it.
    #[error("the HTTP client cannot be built: {0}")]
    Other(String),
}

/// Builds the client for the calls to this Hanko.
///
/// It needs no root certificates if Hanko is called over `http` on loopback.
pub(super) fn http_client(hanko: &HankoUrl) -> Result<reqwest::Client, HttpClientError> {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("poem-hanko/", env!("CARGO_PKG_VERSION")));
    // A proxy runs elsewhere and has another loopback.
    let builder = if hanko.is_loopback() {
        builder.no_proxy()
    } else {
        builder
    };
    let builder = if hanko.is_loopback() && hanko.is_http() {
        // Neither redirects nor a proxy can lead to https, so the roots of the platform are not even read.
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

/// Returns the messages of an error and of its causes. That of reqwest alone says "builder error" and no more.
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
