//! The command line.

use std::{
    collections::HashMap,
    fmt::Display,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::{CommandFactory, FromArgMatches, Subcommand, ValueEnum, error::ErrorKind};
use similar::TextDiff;
use tokio::signal;

use super::{
    App, check,
    config::{self, Config, ConfigErrors, HankoChoice, LogFormat, Lookup},
    dev::{self, ExampleRequest},
    healthcheck::{self, Probe},
    telemetry::{self, Service},
    warning::Warning,
};
#[cfg(feature = "otlp")]
use crate::app::telemetry::InstallLogError;
use crate::{
    hanko::Hanko,
    openapi::{Document, DocumentFormat},
    server::{Server, StartError},
    testing::Person,
};

/// Exit code for a wrong flag, value or variable.
const EXIT_USAGE: u8 = 2;
/// Exit code for any other error, or for a document that is out of date.
const EXIT_FAILURE: u8 = 1;

/// The folder of the exported documents.
const EXPORT_FOLDER: &str = "openapi";

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API for the Hanko at `HANKO_API_URL` (the default)
    ///
    /// Configured by environment variables, also read from `.env`. `.env.example` lists them all.
    Serve,
    /// Serve the API with its own local Hanko, for development
    ///
    /// Needs nothing else. Prints the URLs and a request that works as pasted. Listens on loopback only.
    Dev,
    /// Check the configuration: read it, fetch the keys once and connect to the revocation store
    ///
    /// Prints what would be served and every warning. Exits with 2 for an error in the configuration, and with 1 if the keys
    /// or the store cannot be reached.
    Check,
    /// Request /livez from the running instance, on `ADMIN_ADDRESS` if that is set
    ///
    /// For containers without a shell. Exits with 0 if the response is 200, otherwise with 1.
    Healthcheck {
        /// Request /readyz instead
        #[arg(long)]
        ready: bool,
    },
    /// Print, write or check the OpenAPI document
    Openapi(OpenapiArguments),
}

impl Command {
    /// Returns the exit code for an invalid configuration.
    fn exit_code_of_config(&self) -> u8 {
        match self {
            // Orchestrators reserve other codes than 1.
            Self::Healthcheck { .. } => EXIT_FAILURE,
            _ => EXIT_USAGE,
        }
    }
}

#[derive(Debug, clap::Args)]
struct OpenapiArguments {
    /// The format. Default: by the extension of PATH, otherwise json
    #[arg(long, value_enum)]
    format: Option<FormatArgument>,
    /// Write to this file instead of standard output; into a folder (no extension), write openapi.json and openapi.yaml
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Write nothing; if the file at PATH (default: the folder openapi) is out of date, show the difference and exit with 1
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArgument {
    Json,
    Yaml,
}

impl From<FormatArgument> for DocumentFormat {
    fn from(format: FormatArgument) -> Self {
        match format {
            FormatArgument::Json => Self::Json,
            FormatArgument::Yaml => Self::Yaml,
        }
    }
}

/// `Err` is the exit code for an error that has already been reported.
type Outcome = Result<(), u8>;

/// Runs the program with the arguments of this process and returns its exit code.
pub(super) async fn run(app: App) -> u8 {
    let cli = match parse(&app) {
        Ok(cli) => cli,
        Err(error) => return explain_usage(&error),
    };
    let command = cli.command.unwrap_or(Command::Serve);
    let Variables {
        values: variables,
        ignored,
    } = match read_variables() {
        Ok(variables) => variables,
        Err(error) => return fail(command.exit_code_of_config(), error),
    };
    let warnings = Warning::of_variables(&variables, &app.variables, ignored);
    let variables = Arc::new(variables);
    let lookup = move |name: &str| variables.get(name).cloned();
    if lookup("LOG_FORMAT").is_some_and(|format| format.trim() == "json") {
        // Configuration errors are logged in this format too.
        telemetry::set_format(LogFormat::Json);
    }
    let outcome = match command {
        Command::Serve => serve(app, lookup, warnings).await,
        Command::Dev => dev(app, lookup, warnings).await,
        Command::Check => check_config(app, lookup, warnings).await,
        Command::Healthcheck { ready } => healthcheck(&app, ready, &lookup).await,
        Command::Openapi(arguments) => openapi(app, &arguments, &lookup),
    };
    telemetry::flush_log();
    outcome.err().unwrap_or(0)
}

/// Parses the arguments of this process, under the name and version of the app.
fn parse(app: &App) -> Result<Cli, clap::Error> {
    // clap requires `'static` strings.
    let text = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    let mut command = Cli::command()
        .name(text(&app.title))
        .version(text(&app.version));
    if let Some(description) = &app.description {
        let first_line = description.lines().next().unwrap_or_default();
        command = command.about(text(first_line));
    }
    Cli::from_arg_matches(&command.try_get_matches()?)
}

/// Prints the text of `--help` and `--version`, or an error in one line.
fn explain_usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        let _ = error.print();
        return 0;
    }
    let text = error.to_string();
    let error = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing",
        _ => text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: "),
    };
    fail(EXIT_USAGE, format!("{error}; see --help"))
}

/// Reports an error and returns the exit code.
fn fail(code: u8, error: impl Display) -> u8 {
    if code == EXIT_USAGE {
        telemetry::report("usage_error", error);
    } else {
        telemetry::report("failed", error);
    }
    code
}

/// The variables of the environment, and those that `.env` adds.
struct Variables {
    values: HashMap<String, String>,
    /// The names in `.env` that are ignored, because these variables are read from the process environment only.
    ignored: Vec<String>,
}

/// Reads the environment and `.env`. A `.env` in a parent folder is not read: it may belong to another project.
fn read_variables() -> Result<Variables, String> {
    let mut variables = HashMap::new();
    let mut ignored = Vec::new();
    match dotenvy::from_path_iter(".env") {
        Ok(lines) => {
            let mut last_good = None;
            for line in lines {
                let (name, value) =
                    line.map_err(|error| explain_dotenv(&error, last_good.as_deref()))?;
                if config::is_of_opentelemetry(&name) {
                    // OpenTelemetry's own code reads the process environment.
                    ignored.push(name.clone());
                } else {
                    variables.entry(name.clone()).or_insert(value);
                }
                last_good = Some(name);
            }
        }
        Err(error) if error.not_found() => {}
        Err(error) => return Err(format!(".env cannot be read: {error}")),
    }
    for (name, value) in std::env::vars_os() {
        // A value that is not Unicode becomes an invalid value: it is reported rather than ignored.
        let text = |os: &std::ffi::OsStr| os.to_string_lossy().into_owned();
        variables.insert(text(&name), text(&value));
    }
    Ok(Variables {
        values: variables,
        ignored,
    })
}

/// Describes the error without the line, which may contain a secret.
fn explain_dotenv(error: &dotenvy::Error, last_good: Option<&str>) -> String {
    let place = last_good.map_or_else(
        || "in its first line".to_owned(),
        |name| format!("after the line of {name}"),
    );
    match error {
        dotenvy::Error::LineParse(..) => {
            format!(".env has an error {place}: write NAME=value, and quote a value with spaces")
        }
        error => format!(".env cannot be read {place}: {error}"),
    }
}

fn read_config(
    app: &App,
    lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    choice: HankoChoice,
) -> Result<Config, u8> {
    let config = Config::from_lookup(lookup, choice).map_err(|errors| explain_config(&errors))?;
    install_log(app, &config)?;
    Ok(config)
}

fn install_log(app: &App, config: &Config) -> Outcome {
    let service = Service {
        name: &app.title,
        version: &app.version,
    };
    telemetry::install(&config.telemetry, Some(service)).map_err(|error| match error {
        #[cfg(feature = "otlp")]
        InstallLogError::Traces(_) => fail(EXIT_USAGE, error),
        error => fail(EXIT_FAILURE, error),
    })
}

fn explain_config(errors: &ConfigErrors) -> u8 {
    for error in &errors.0 {
        telemetry::report("config_error", error);
    }
    EXIT_USAGE
}

async fn serve(
    app: App,
    lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    warnings: Vec<Warning>,
) -> Outcome {
    let config = read_config(&app, lookup, HankoChoice::Configured)?;
    let server = app
        .bind(config)
        .await
        .map_err(|error| fail(EXIT_FAILURE, error))?;
    log_warnings(&server, warnings);
    if server.config().http.docs {
        tracing::info!(
            event = "docs_served",
            url = format!("{}/docs", server.public_url()),
            "Swagger UI"
        );
    }
    run_server(server).await;
    Ok(())
}

async fn dev(
    app: App,
    lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    warnings: Vec<Warning>,
) -> Outcome {
    let config = read_config(&app, lookup, HankoChoice::Local)?;
    let example = ExampleRequest::find(&app.api.meta());
    let server = app
        .bind_dev(config)
        .await
        .map_err(|error| fail(EXIT_FAILURE, error))?;
    // The printed request must work at once.
    server.hanko().wait_for_key_set_fetches(1).await;
    if let Some(banner) = dev_banner(&server, example.as_ref()) {
        // A closed pipe is no reason to stop.
        let mut stdout = io::stdout();
        let _ = stdout
            .write_all(banner.as_bytes())
            .and_then(|()| stdout.flush());
    }
    log_warnings(&server, warnings);
    tracing::warn!(
        event = "dev_not_for_production",
        "`dev` is not for production: anyone who can reach it can sign in as any user"
    );
    run_server(server).await;
    Ok(())
}

fn log_warnings(server: &Server, variable_warnings: Vec<Warning>) {
    for warning in Warning::all(
        variable_warnings,
        &server.config().http,
        server.public_url(),
    ) {
        warning.log();
    }
}

fn dev_banner(server: &Server, example: Option<&ExampleRequest>) -> Option<String> {
    let local_hanko = server.local_hanko()?;
    let session = local_hanko.sign_in(&Person::with_email("ada@example.com"));
    let api = server.public_url();
    let mut banner = format!(
        "\n\
         API           {api}\n\
         {docs}\
         Sign-in page  {api}{sign_in}\n\
         Local Hanko   {hanko} (its RSA 2048 key is in memory only; Hanko's own keys are RSA 4096)\n\
         Frontends     every http origin on loopback (localhost, 127.0.0.1, [::1]) is allowed, with credentials\n\
         \n\
         Session token of ada@example.com, valid for 12 hours:\n\
         \n\
         {token}\n\
         \n",
        docs = if server.config().http.docs {
            format!("Swagger UI    {api}/docs\n")
        } else {
            String::new()
        },
        sign_in = dev::SIGN_IN_PATH,
        hanko = local_hanko.url(),
        token = session.token,
    );
    if let Some(example) = example {
        banner.push_str("Try it:\n\n");
        banner.push_str(&example.curl(api, &session.token));
        banner.push_str("\n\n");
    }
    Some(banner)
}

/// Serves until a signal, then logs what is lost when the process ends. The last spans are exported in the rest of
/// `SHUTDOWN_GRACE`.
async fn run_server(server: Server) {
    let hanko = server.hanko().clone();
    let clock = Arc::clone(hanko.clock());
    let config = &server.config().http;
    let longest_shutdown = config.shutdown_delay.saturating_add(config.shutdown_grace);
    let deadline = OnceLock::new();
    let shutdown = async {
        shutdown_signal(hanko.clone()).await;
        deadline.get_or_init(|| clock.monotonic().saturating_add(longest_shutdown));
    };
    // Boxed, so that the futures of the commands stay small.
    Box::pin(server.run(shutdown)).await;
    hanko.report_lost();
    let rest = deadline.get().map_or(Duration::ZERO, |deadline| {
        deadline.saturating_sub(clock.monotonic())
    });
    // In another thread, so that a second signal still ends the process. `end_traces` has its own timeout.
    let _ = tokio::task::spawn_blocking(move || telemetry::end_traces(rest)).await;
}

/// Completes at SIGTERM or Ctrl-C. From then on, a second signal ends the process at once.
async fn shutdown_signal(hanko: Hanko) {
    stop_signal().await;
    tracing::info!(
        event = "shutdown_signal",
        "received a signal to shut down; a second one ends the process at once"
    );
    let _ends_with_the_process = tokio::spawn(async move {
        let code = stop_signal().await;
        hanko.report_lost();
        // Waits a second at most if nobody reads the log.
        telemetry::flush_lines();
        std::process::exit(code);
    });
}

async fn check_config(
    app: App,
    lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    warnings: Vec<Warning>,
) -> Outcome {
    let mut config = Config::from_lookup(lookup, HankoChoice::Configured)
        .map_err(|errors| explain_config(&errors))?;
    if config.variable("RUST_LOG").is_none() {
        // The report contains what would be logged at the level INFO.
        "warn".clone_into(&mut config.telemetry.filter);
    }
    install_log(&app, &config)?;
    let report = check::check(app, &config, warnings)
        .await
        .map_err(|error| match error {
            StartError::RevocationStore(_) => fail(EXIT_USAGE, error),
            error => fail(EXIT_FAILURE, error),
        })?;
    // A closed pipe is no error: the exit code says the same.
    let _ = write!(io::stdout(), "{report}");
    match report.failures() {
        [] => Ok(()),
        failures => Err(fail(EXIT_FAILURE, failures.join("; "))),
    }
}

async fn healthcheck(app: &App, ready: bool, lookup: &Lookup<'_>) -> Outcome {
    let probe = if ready { Probe::Ready } else { Probe::Alive };
    let address = config::probe_address(lookup).map_err(|errors| {
        explain_config(&errors);
        EXIT_FAILURE
    })?;
    match healthcheck::probe(probe, address, &app.own_prefix, &*app.clock).await {
        Ok(healthy) => {
            let _ = writeln!(io::stdout(), "{healthy}");
            Ok(())
        }
        Err(error) => Err(fail(EXIT_FAILURE, error)),
    }
}

/// Waits for SIGTERM or Ctrl-C, and returns the usual exit code of a process ended by that signal.
async fn stop_signal() -> i32 {
    const EXIT_INTERRUPTED: i32 = 130;
    const EXIT_TERMINATED: i32 = 143;

    let interrupt = async {
        if signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match signal::unix::signal(signal::unix::SignalKind::terminate()) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => EXIT_INTERRUPTED,
        () = terminate => EXIT_TERMINATED,
    }
}

fn openapi(mut app: App, arguments: &OpenapiArguments, lookup: &Lookup<'_>) -> Outcome {
    let (public_url, cookie_name) =
        config::document_settings(lookup).map_err(|errors| explain_config(&errors))?;
    // The application may change the cookie name.
    let builder = app.change(App::builder_without_hanko().cookie_name(cookie_name));
    let cookie_name = builder.cookie_name_so_far().to_owned();
    let document = app
        .document(&public_url, &cookie_name)
        .map_err(|error| fail(EXIT_FAILURE, error))?;
    if arguments.check {
        let path = arguments
            .output
            .as_deref()
            .unwrap_or(Path::new(EXPORT_FOLDER));
        return check(&document, &targets(path, arguments.format));
    }
    match arguments.output.as_deref() {
        None => {
            let format = arguments
                .format
                .map_or(DocumentFormat::Json, DocumentFormat::from);
            io::stdout()
                .write_all(document.to_text(format).as_bytes())
                .or_else(|error| match error.kind() {
                    io::ErrorKind::BrokenPipe => Ok(()),
                    _ => Err(fail(EXIT_FAILURE, error)),
                })
        }
        Some(path) => {
            let targets = targets(path, arguments.format);
            if is_folder(path) {
                fs::create_dir_all(path).map_err(|error| {
                    let message = format!("cannot create the folder {}: {error}", path.display());
                    fail(EXIT_FAILURE, message)
                })?;
            }
            for (path, format) in targets {
                fs::write(&path, document.to_text(format)).map_err(|error| {
                    fail(
                        EXIT_FAILURE,
                        format!("cannot write {}: {error}", path.display()),
                    )
                })?;
                // A closed pipe is no error: the file has been written.
                let _ = writeln!(io::stdout(), "wrote {}", path.display());
            }
            Ok(())
        }
    }
}

/// Returns whether the path is a folder, or does not exist and has no extension.
fn is_folder(path: &Path) -> bool {
    path.is_dir() || (!path.exists() && path.extension().is_none())
}

/// Returns the files to write to `path`, or to check there.
fn targets(path: &Path, format: Option<FormatArgument>) -> Vec<(PathBuf, DocumentFormat)> {
    let format = format.map(DocumentFormat::from);
    if is_folder(path) {
        return [
            ("openapi.json", DocumentFormat::Json),
            ("openapi.yaml", DocumentFormat::Yaml),
        ]
        .into_iter()
        .filter(|(_, of_file)| format.is_none_or(|format| format == *of_file))
        .map(|(name, format)| (path.join(name), format))
        .collect();
    }
    let by_extension = match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => DocumentFormat::Yaml,
        _ => DocumentFormat::Json,
    };
    vec![(path.to_owned(), format.unwrap_or(by_extension))]
}

fn check(document: &Document, targets: &[(PathBuf, DocumentFormat)]) -> Outcome {
    let mut is_current = true;
    for (path, format) in targets {
        let name = path.display().to_string();
        let kept = fs::read_to_string(path)
            .map_err(|error| fail(EXIT_FAILURE, format!("cannot read {name}: {error}")))?;
        let generated = document.to_text(*format);
        if kept != generated {
            is_current = false;
            let difference = TextDiff::from_lines(&kept, &generated);
            let difference = difference
                .unified_diff()
                .header(&name, "generated from the source")
                .to_string();
            // A closed pipe is no error: the exit code says the same.
            let _ = writeln!(io::stdout(), "{difference}");
        }
    }
    if is_current {
        return Ok(());
    }
    Err(fail(
        EXIT_FAILURE,
        "the document is out of date; `cargo run -- openapi --output openapi` writes it again",
    ))
}
