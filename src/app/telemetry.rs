//! Installs the log. All other modules only emit events.

#[cfg(feature = "otlp")]
pub(super) mod traces;
mod writer;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Display,
    io::{self, Write as _},
    panic,
    sync::{Arc, LazyLock, OnceLock},
    thread,
    time::Duration,
};

use serde_json::json;
use tracing::{Metadata, level_filters::LevelFilter};
#[cfg(feature = "otlp")]
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::FilterFn,
    fmt::{
        MakeWriter,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
};
use writer::LogWriter;

use crate::{
    app::config::{LogFormat, TelemetryConfig},
    clock::SystemClock,
    sampling::{Line, Sampler},
};

/// Libraries that log what they read from the wire, including session tokens, below this level.
const WIRE_TARGETS: [&str; 4] = ["h2", "hyper", "hyper_util", "reqwest"];
const WIRE_LEVEL: LevelFilter = LevelFilter::INFO;
/// Clients can cause a warning of these libraries with each connection. `RUST_LOG` can enable the warnings.
const QUIET_TARGETS: &str = "h2=error,hyper=error,hyper_util=error";
/// How long the end of the process may wait for the output of the log.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The format of the output to standard error, once it is known.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();
/// The writer to standard error, once it is installed.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// The name and version under which spans are exported, unless the environment names others.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "otlp"),
    allow(dead_code, reason = "no spans are exported")
)]
pub(super) struct Service<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
}

/// Why the log cannot be installed.
///
/// ```
/// use poem_hanko::{InstallLogError, TelemetryConfig, install_log};
///
/// /// Installs the log, unless another part of the process has done so.
/// fn ensure_log(config: &TelemetryConfig) -> Result<(), InstallLogError> {
///     match install_log(config) {
///         Err(InstallLogError::AlreadyInstalled) => Ok(()),
///         result => result,
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallLogError {
    /// The process has a log already.
    #[error("a log is installed already")]
    AlreadyInstalled,
    /// The thread that writes the log cannot be started.
    #[error("the log cannot be written: {0}")]
    Thread(#[from] io::Error),
    /// Traces cannot be exported as configured by the environment.
    #[cfg(feature = "otlp")]
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: traces cannot be exported: {0}")]
    Traces(String),
}

/// Installs the log of this process, to standard error, as configured. Panics are logged too.
///
/// Log output never blocks: if nobody reads standard error, lines are dropped, and their count is logged when lines can be
/// written again.
///
/// With the feature `otlp`, traces are exported as well if `OTEL_EXPORTER_OTLP_ENDPOINT` is set in the environment of the
/// process: the requests of an [`App`](crate::App), and the application's own spans of level INFO and above.
///
/// ```no_run
/// use poem_hanko::{Config, HankoChoice, flush_log, install_log};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::from_lookup(|name| std::env::var(name).ok(), HankoChoice::Configured)?;
/// install_log(&config.telemetry)?;
/// // … the program
/// flush_log();
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`InstallLogError`]
pub fn install_log(config: &TelemetryConfig) -> Result<(), InstallLogError> {
    install(config, None)
}

/// Like [`install_log`], with traces under the name of a service.
pub(super) fn install(
    config: &TelemetryConfig,
    service: Option<Service<'_>>,
) -> Result<(), InstallLogError> {
    let writer = LogWriter::start(io::stderr())?;
    let make_writer = {
        let writer = writer.clone();
        move || writer.clone()
    };
    set_subscriber(config, make_writer, service)?;
    set_format(config.format);
    // The subscriber of this process was set just now, for the first time.
    let _ = WRITER.set(writer);
    panic::set_hook(Box::new(report_panic));
    Ok(())
}

#[cfg(not(feature = "otlp"))]
fn set_subscriber(
    config: &TelemetryConfig,
    make_writer: impl Fn() -> LogWriter + Send + Sync + 'static,
    _service: Option<Service<'_>>,
) -> Result<(), InstallLogError> {
    tracing::subscriber::set_global_default(log_subscriber(config, make_writer))
        .map_err(|_| InstallLogError::AlreadyInstalled)
}

#[cfg(feature = "otlp")]
fn set_subscriber(
    config: &TelemetryConfig,
    make_writer: impl Fn() -> LogWriter + Send + Sync + 'static,
    service: Option<Service<'_>>,
) -> Result<(), InstallLogError> {
    match traces::start(service)? {
        Some(tracer) => {
            // The filter is that of the log alone.
            let filter = log_filter(config).and(FilterFn::new(is_logged));
            let log = layer(config.format, make_writer).with_filter(filter);
            let subscriber = tracing_subscriber::registry().with(log);
            tracing::subscriber::set_global_default(subscriber.with(traces::layer(tracer)))
        }
        None => tracing::subscriber::set_global_default(log_subscriber(config, make_writer)),
    }
    .map_err(|_| InstallLogError::AlreadyInstalled)
}

/// Sets the format of [`report`] before the log is installed.
pub(crate) fn set_format(format: LogFormat) {
    let _ = FORMAT.set(format);
}

/// Writes an error that ends the program to standard error, whatever `RUST_LOG` says: as a log line if the format is JSON,
/// otherwise as plain text.
pub(crate) fn report(event: &str, error: impl Display) {
    write(&match FORMAT.get() {
        Some(LogFormat::Json) => json_line(event, &error),
        _ => format!("error: {error}\n"),
    });
}

fn json_line(event: &str, error: &impl Display) -> String {
    let line = json!({
        "timestamp": timestamp(),
        "level": "ERROR",
        "event": event,
        "message": error.to_string(),
        "target": env!("CARGO_CRATE_NAME"),
    });
    format!("{line}\n")
}

fn timestamp() -> String {
    let mut timestamp = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    timestamp
}

/// Writes to standard error. An error, for example because it is closed, is ignored.
fn write(line: &str) {
    let _ = match WRITER.get() {
        Some(writer) => writer.clone().write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}

/// Returns how many lines of the installed log were dropped because its output was too slow.
pub(crate) fn dropped_log_lines() -> u64 {
    WRITER.get().map_or(0, LogWriter::dropped_lines)
}

/// Waits until the installed log has been written, at most a second, and with the feature `otlp` until the last spans have been
/// exported, at most another second. Call it before the process ends.
///
/// ```
/// use std::process::ExitCode;
///
/// use poem_hanko::flush_log;
///
/// fn main() -> ExitCode {
///     // … the program
///     flush_log();
///     ExitCode::SUCCESS
/// }
/// ```
pub fn flush_log() {
    end_traces(FLUSH_TIMEOUT);
    flush_lines();
}

/// Waits until the lines of the log have been written, at most a second.
pub(super) fn flush_lines() {
    if let Some(writer) = WRITER.get() {
        writer.flush(FLUSH_TIMEOUT);
    }
}

/// Exports the last spans, and waits for that at most `timeout` or one second, whichever is longer.
pub(super) fn end_traces(timeout: Duration) {
    #[cfg(feature = "otlp")]
    traces::end(timeout.max(FLUSH_TIMEOUT));
    #[cfg(not(feature = "otlp"))]
    let _ = timeout;
}

/// The `event` of a panic, the same as that of the sampled lines that follow.
const PANIC: &str = "panic";

/// Reports a panic in the format of the log. A client may be able to cause it again and again.
fn report_panic(info: &panic::PanicHookInfo<'_>) {
    static PANICS: LazyLock<Sampler> = LazyLock::new(|| Sampler::new(Arc::new(SystemClock::new())));
    let message = info
        .payload_as_str()
        .map_or_else(|| "no message".to_owned(), without_tokens);
    let location = info
        .location()
        .map_or_else(String::new, |location| format!(" at {location}"));
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    let text = format!("panicked{location}: {message}");
    // Not a `tracing` event, so that no filter hides it.
    PANICS.sample(Line::Panic, &"", || {
        write(&match FORMAT.get() {
            Some(LogFormat::Json) => json_line(PANIC, &format!("{text}{backtrace}")),
            _ => format!(
                "{} ERROR {}: {text} event=\"{PANIC}\"{backtrace}\n",
                timestamp(),
                env!("CARGO_CRATE_NAME"),
            ),
        });
    });
    // A panic of the main thread ends the process, so this is the last chance to flush.
    if thread::current().name() == Some("main") {
        flush_lines();
    }
}

/// Replaces everything that looks like a token, because a panic may quote input from a client.
///
/// The header of a JWT is a JSON object. In base64url it starts with `eyJ` if a member name directly follows the brace.
fn without_tokens(text: &str) -> String {
    const START: &str = "eyJ";
    let mut shown = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(START) {
        shown.push_str(&rest[..start]);
        shown.push_str("[token]");
        let token = &rest[start..];
        let end = token
            .find(|character: char| {
                !character.is_ascii_alphanumeric() && !"-_.".contains(character)
            })
            .unwrap_or(token.len());
        rest = &token[end..];
    }
    shown.push_str(rest);
    shown
}

/// Returns a subscriber that logs as configured. Each line is written to the value that `writer` returns for it.
///
/// ```
/// use std::io;
///
/// use poem_hanko::{LogFormat, TelemetryConfig, log_subscriber};
///
/// let config = TelemetryConfig { format: LogFormat::Json, filter: "info".to_owned() };
/// let subscriber = log_subscriber(&config, io::stdout);
/// tracing::subscriber::with_default(subscriber, || tracing::info!("started"));
/// ```
pub fn log_subscriber<F, W>(
    config: &TelemetryConfig,
    writer: F,
) -> impl tracing::Subscriber + Send + Sync + use<F, W>
where
    F: Fn() -> W + Send + Sync + 'static,
    W: io::Write + 'static,
{
    tracing_subscriber::registry()
        .with(layer(config.format, writer).with_filter(FilterFn::new(is_logged)))
        .with(log_filter(config))
}

fn log_filter(config: &TelemetryConfig) -> EnvFilter {
    // A later directive for the same target replaces an earlier one.
    EnvFilter::new(format!("{QUIET_TARGETS},{}", config.filter))
}

fn layer<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        // These errors would be written to standard error as text, with a panic if it is closed.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => layer.with_ansi(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// Whether this may be logged: no data from the wire, and no spans that are only for traces.
fn is_logged(metadata: &Metadata<'_>) -> bool {
    #[cfg(feature = "otlp")]
    if metadata.target() == crate::trace::TARGET {
        return false;
    }
    !WIRE_TARGETS.contains(&root_of(metadata)) || *metadata.level() <= WIRE_LEVEL
}

/// Returns the crate that a line or a span comes from.
fn root_of<'a>(metadata: &Metadata<'a>) -> &'a str {
    metadata.target().split("::").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_cut_out_of_panics() {
        assert_eq!(
            without_tokens("called `unwrap()`: \"eyJhbGciOiJSUzI1NiJ9.e30.c2ln\" and eyJh"),
            "called `unwrap()`: \"[token]\" and [token]"
        );
        assert_eq!(without_tokens("eye of the storm"), "eye of the storm");
    }
}
