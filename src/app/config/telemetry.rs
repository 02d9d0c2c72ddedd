use std::{collections::HashMap, fmt};

use tracing_subscriber::EnvFilter;

use super::{reader::Reader, secret::mask};

const DEFAULT_FILTER: &str = "info";

/// The format of a log line.
///
/// ```
/// use poem_hanko::{Config, HankoChoice, LogFormat};
///
/// let lookup = |name: &str| (name == "LOG_FORMAT").then(|| "json".to_owned());
/// let config = Config::from_lookup(lookup, HankoChoice::Local)?;
/// assert_eq!(config.telemetry.format, LogFormat::Json);
/// # Ok::<(), poem_hanko::ConfigErrors>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// What is logged, and in which format.
///
/// ```no_run
/// use poem_hanko::{LogFormat, TelemetryConfig, install_log};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = TelemetryConfig {
///     format: LogFormat::Json,
///     filter: "info,notes=debug".to_owned(),
/// };
/// install_log(&config)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// `LOG_FORMAT`, default `text`
    pub format: LogFormat,
    /// `RUST_LOG`, default `info`
    pub filter: String,
}

impl TelemetryConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            format: reader.or("LOG_FORMAT", LogFormat::default(), |value| match value {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("must be text or json".to_owned()),
            }),
            filter: reader.or("RUST_LOG", DEFAULT_FILTER.to_owned(), |value| {
                EnvFilter::try_new(value)
                    .map(|_| value.to_owned())
                    .map_err(|error| {
                        let problem = "is not a filter such as info or poem_hanko=debug";
                        // The message may quote a part of the value.
                        if mask(value) == value {
                            format!("{problem}: {error}")
                        } else {
                            problem.to_owned()
                        }
                    })
            }),
        }
    }
}

/// Whether a variable is one of OpenTelemetry's own.
pub(crate) fn is_of_opentelemetry(name: &str) -> bool {
    name.starts_with("OTEL_")
}

/// A variable of OpenTelemetry's own that is set and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TracesWarning {
    /// It is in `.env`, but is read from the process environment only.
    InFile(String),
    /// This program was built without traces.
    #[cfg(not(feature = "otlp"))]
    NotBuilt(&'static str),
    /// It names a protocol other than `http/protobuf`, the only one supported.
    #[cfg(feature = "otlp")]
    Protocol(&'static str),
}

impl TracesWarning {
    pub(crate) fn variable(&self) -> &str {
        match self {
            Self::InFile(name) => name,
            #[cfg(not(feature = "otlp"))]
            Self::NotBuilt(name) => name,
            #[cfg(feature = "otlp")]
            Self::Protocol(name) => name,
        }
    }
}

impl fmt::Display for TracesWarning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFile(name) => write!(
                formatter,
                "{name} in .env is ignored; set it in the environment of the process"
            ),
            #[cfg(not(feature = "otlp"))]
            Self::NotBuilt(name) => write!(
                formatter,
                "{name} is ignored: this program was built without the feature `otlp`"
            ),
            #[cfg(feature = "otlp")]
            Self::Protocol(name) => write!(
                formatter,
                "{name} is ignored: traces are sent as http/protobuf, for which collectors listen on port 4318"
            ),
        }
    }
}

/// Returns the warnings about the variables that are set, and about the names `in_file`, which are set in `.env`.
pub(crate) fn traces_warnings(
    variables: &HashMap<String, String>,
    mut in_file: Vec<String>,
) -> Vec<TracesWarning> {
    in_file.sort();
    in_file.dedup();
    let mut warnings: Vec<TracesWarning> = in_file.into_iter().map(TracesWarning::InFile).collect();
    let is_set = |name: &str| variables.get(name).is_some_and(|value| !value.is_empty());
    #[cfg(not(feature = "otlp"))]
    {
        const ENDPOINTS: [&str; 2] = [
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ];
        let set = ENDPOINTS.into_iter().filter(|name| is_set(name));
        warnings.extend(set.map(TracesWarning::NotBuilt));
    }
    #[cfg(feature = "otlp")]
    {
        const PROTOCOLS: [&str; 2] = [
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        ];
        let others = PROTOCOLS
            .into_iter()
            .filter(|name| is_set(name) && variables[*name] != "http/protobuf");
        warnings.extend(others.map(TracesWarning::Protocol));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_without_effect_are_found() {
        let variables = HashMap::from(
            [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"),
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ""),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let in_file = vec![
            "OTEL_B".to_owned(),
            "OTEL_A".to_owned(),
            "OTEL_B".to_owned(),
        ];
        let found = traces_warnings(&variables, in_file);
        let names: Vec<&str> = found.iter().map(TracesWarning::variable).collect();
        let of_build = if cfg!(feature = "otlp") {
            "OTEL_EXPORTER_OTLP_PROTOCOL"
        } else {
            "OTEL_EXPORTER_OTLP_ENDPOINT"
        };
        assert_eq!(names, ["OTEL_A", "OTEL_B", of_build]);
        assert!(traces_warnings(&HashMap::new(), Vec::new()).is_empty());
    }
}
