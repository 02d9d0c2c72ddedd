//! The configuration, read from the environment and validated as a whole before anything starts.

mod error;
mod hanko;
mod http;
mod reader;
mod revocation;
mod secret;
mod telemetry;

pub use error::{ConfigError, ConfigErrors};
pub use hanko::HankoConfig;
pub use http::HttpConfig;
pub use reader::Lookup;
use reader::Reader;
pub use revocation::RevocationConfig;
pub use telemetry::{LogFormat, TelemetryConfig};

/// Which Hanko a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HankoChoice {
    /// The one at `HANKO_API_URL`.
    Configured,
    /// A local one that is started with the API: `HANKO_API_URL` is not read.
    Local,
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where and how the API is served.
    pub http: HttpConfig,
    /// Whose sessions are verified, and how.
    pub hanko: HankoConfig,
    /// Where revocations are kept.
    pub revocation: RevocationConfig,
    /// What is logged.
    pub telemetry: TelemetryConfig,
}

impl Config {
    /// Reads all variables through `lookup`, which returns the value of a variable that is set.
    ///
    /// # Errors
    /// All errors at once.
    pub fn from_lookup(lookup: &Lookup<'_>, choice: HankoChoice) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(lookup);
        let config = Self {
            http: HttpConfig::read(&mut reader),
            hanko: HankoConfig::read(&mut reader, choice),
            revocation: RevocationConfig::read(&mut reader),
            telemetry: TelemetryConfig::read(&mut reader),
        };
        reader.finish(config)
    }
}

/// Reads the variables that the OpenAPI document depends on: the URL of the server (default `http://localhost:8000`) and the name of
/// the session cookie.
///
/// # Errors
/// All errors at once.
pub fn document_settings(lookup: &Lookup<'_>) -> Result<(String, String), ConfigErrors> {
    let mut reader = Reader::new(lookup);
    let public_url = http::read_public_url(&mut reader)
        .unwrap_or_else(|| format!("http://localhost:{}", http::DEFAULT_PORT));
    let cookie_name = hanko::read_cookie_name(&mut reader);
    reader.finish((public_url, cookie_name))
}
