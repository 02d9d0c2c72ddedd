use tracing_subscriber::EnvFilter;

use super::{reader::Reader, secret::mask};

const DEFAULT_FILTER: &str = "info";

/// The format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// What is logged, and in which format.
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
