//! Installs the log. Everybody else only emits events.

use std::io;

use tracing::{Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, filter::FilterFn, fmt::MakeWriter, layer::SubscriberExt, registry::LookupSpan,
};

use crate::config::{LogFormat, TelemetryConfig};

/// Libraries that print what they read from the wire, session tokens included, below this level.
const WIRE_TARGETS: [&str; 4] = ["h2", "hyper", "hyper_util", "reqwest"];
const WIRE_LEVEL: LevelFilter = LevelFilter::INFO;

/// Installs the log of this process: to standard error, as configured.
///
/// # Errors
/// Where a log is installed already.
pub fn install(config: &TelemetryConfig) -> Result<(), tracing::dispatcher::SetGlobalDefaultError> {
    tracing::subscriber::set_global_default(subscriber(config, io::stderr))
}

/// The log, written to `writer`.
pub fn subscriber<W>(
    config: &TelemetryConfig,
    writer: W,
) -> impl tracing::Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::registry()
        .with(layer(config.format, writer).with_filter(FilterFn::new(never_shows_the_wire)))
        .with(EnvFilter::new(&config.filter))
}

fn layer<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => layer.with_ansi(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

fn never_shows_the_wire(metadata: &Metadata<'_>) -> bool {
    let root = metadata.target().split("::").next().unwrap_or_default();
    !WIRE_TARGETS.contains(&root) || *metadata.level() <= WIRE_LEVEL
}
