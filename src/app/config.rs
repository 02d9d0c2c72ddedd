//! The configuration, read from the environment and validated as a whole before anything starts.

mod admin;
mod error;
mod hanko;
mod http;
mod reader;
mod revocation;
mod secret;
mod telemetry;
mod unknown;

use std::{fmt, sync::Arc};

pub(crate) use admin::{ProbeAddress, probe_address};
pub use error::{ConfigError, ConfigErrors};
pub use hanko::HankoConfig;
pub use http::HttpConfig;
pub(crate) use reader::Lookup;
use reader::Reader;
pub(super) use reader::duration;
pub use revocation::RevocationConfig;
pub use telemetry::{LogFormat, TelemetryConfig};
pub(crate) use telemetry::{TracesWarning, is_of_opentelemetry, traces_warnings};
pub(crate) use unknown::{UnknownVariable, unknown_variables};

/// Which Hanko a configuration is for.
///
/// ```
/// use poem_hanko::{Config, HankoChoice};
///
/// let config = Config::from_lookup(|_| None, HankoChoice::Local)?;
/// assert!(config.hanko.url.is_none());
///
/// let errors = Config::from_lookup(|_| None, HankoChoice::Configured).unwrap_err();
/// assert_eq!(errors.0[0].variable, "HANKO_API_URL");
/// # Ok::<(), poem_hanko::ConfigErrors>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HankoChoice {
    /// The Hanko at `HANKO_API_URL`.
    Configured,
    /// A local Hanko that is started with the API; `HANKO_API_URL` is not read.
    Local,
}

/// The whole configuration.
///
/// ```no_run
/// use poem_hanko::{App, Config, HankoChoice, MeApi};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::from_lookup(|name| std::env::var(name).ok(), HankoChoice::Configured)?;
/// let server = App::new(MeApi, "hello", "1.0").bind(config).await?;
/// println!("listening on {}", server.address());
/// server.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Where and how the API is served.
    pub http: HttpConfig,
    /// Which Hanko's sessions are accepted, and how they are verified.
    pub hanko: HankoConfig,
    /// Where revocations are kept.
    pub revocation: RevocationConfig,
    /// What is logged.
    pub telemetry: TelemetryConfig,
    variables: Variables,
}

/// The sections of a configuration, which are read from variables.
struct Sections {
    http: HttpConfig,
    hanko: HankoConfig,
    revocation: RevocationConfig,
    telemetry: TelemetryConfig,
}

impl Sections {
    fn read(reader: &mut Reader<'_>, choice: HankoChoice) -> Self {
        Self {
            http: HttpConfig::read(reader),
            hanko: HankoConfig::read(reader, choice),
            revocation: RevocationConfig::read(reader),
            telemetry: TelemetryConfig::read(reader),
        }
    }
}

/// Looks up the value of a variable.
#[derive(Clone)]
struct Variables(Arc<SharedLookup>);

type SharedLookup = dyn Fn(&str) -> Option<String> + Send + Sync;

impl fmt::Debug for Variables {
    /// Omits the values, which may be secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Variables").finish_non_exhaustive()
    }
}

impl Config {
    /// Reads all variables through `lookup`, which returns the value of a variable that is set.
    ///
    /// ```
    /// use std::collections::HashMap;
    ///
    /// use poem_hanko::{Config, HankoChoice};
    ///
    /// let variables = HashMap::from([("HANKO_API_URL", "https://example.hanko.io")]);
    /// let lookup = move |name: &str| variables.get(name).map(|value| (*value).to_owned());
    /// let config = Config::from_lookup(lookup, HankoChoice::Configured)?;
    /// assert!(config.hanko.url.is_some());
    /// # Ok::<(), poem_hanko::ConfigErrors>(())
    /// ```
    ///
    /// # Errors
    /// All errors at once.
    pub fn from_lookup(
        lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
        choice: HankoChoice,
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(&lookup);
        let sections = Sections::read(&mut reader, choice);
        let Sections {
            http,
            hanko,
            revocation,
            telemetry,
        } = reader.finish(sections)?;
        Ok(Self {
            http,
            hanko,
            revocation,
            telemetry,
            variables: Variables(Arc::new(lookup)),
        })
    }

    /// Reads the configuration from these variables alone, for a local Hanko.
    ///
    /// # Panics
    /// If a variable is invalid.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn of_variables(variables: &[(&str, &str)]) -> Self {
        let variables: std::collections::HashMap<String, String> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let lookup = move |name: &str| variables.get(name).cloned();
        Self::from_lookup(lookup, HankoChoice::Local).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Returns the value of a variable from the environment or `.env`, for the application's own variables.
    ///
    /// ```
    /// use poem_hanko::{Config, HankoChoice};
    ///
    /// const URL: &str = "postgres://localhost/notes";
    /// let lookup = |name: &str| (name == "DATABASE_URL").then(|| URL.to_owned());
    /// let config = Config::from_lookup(lookup, HankoChoice::Local)?;
    /// assert_eq!(config.variable("DATABASE_URL").as_deref(), Some(URL));
    /// # Ok::<(), poem_hanko::ConfigErrors>(())
    /// ```
    pub fn variable(&self, name: &str) -> Option<String> {
        (self.variables.0)(name)
    }
}

/// Reads the variables that the OpenAPI document depends on: the URL of the server (default `http://localhost:8000`) and the name of
/// the session cookie.
///
/// # Errors
/// All errors at once.
pub(crate) fn document_settings(lookup: &Lookup<'_>) -> Result<(String, String), ConfigErrors> {
    let mut reader = Reader::new(lookup);
    let public_url = http::read_public_url(&mut reader)
        .unwrap_or_else(|| format!("http://localhost:{}", http::DEFAULT_PORT));
    let cookie_name = hanko::read_cookie_name(&mut reader);
    reader.finish((public_url, cookie_name))
}
