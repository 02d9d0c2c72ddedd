//! `check`: tries the configuration without serving anything.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use super::{App, config::Config, warning::Warning};
#[cfg(feature = "otlp")]
use crate::app::telemetry::traces;
use crate::{
    edge::PlainEndpoint,
    hanko::{Hanko, SessionMode, StoreStatus},
    operations::{FORWARD_AUTH_PATH, WEBHOOK_PATH},
    server::{StartError, possible_connections},
};

/// How long the revocation store may take to be mirrored.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the state of the store is checked until then.
const STORE_PAUSE: Duration = Duration::from_millis(20);

/// The result of `check`.
#[derive(Debug, Default)]
pub(super) struct Report {
    title: String,
    lines: Vec<(&'static str, String)>,
    routes: Vec<String>,
    webhooks: Option<String>,
    warnings: Vec<String>,
    failures: Vec<String>,
}

impl Report {
    /// Returns an error for each dependency that cannot be reached.
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }

    fn line(&mut self, label: &'static str, text: impl Into<String>) {
        self.lines.push((label, text.into()));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}\n", self.title)?;
        for (label, text) in &self.lines {
            writeln!(formatter, "{label:<14}{text}")?;
        }
        for (index, route) in self.routes.iter().enumerate() {
            let label = if index == 0 { "Routes" } else { "" };
            writeln!(formatter, "{label:<14}{route}")?;
        }
        for (title, items) in [("Warnings", &self.warnings), ("Failures", &self.failures)] {
            if !items.is_empty() {
                writeln!(formatter, "\n{title}:")?;
            }
            for item in items {
                writeln!(formatter, "- {item}")?;
            }
        }
        if let Some(url) = &self.webhooks {
            write!(
                formatter,
                "\nTo test webhooks:\n\
                 1. Register {url} at Hanko, in the console under Settings > Webhooks or in its configuration file, for the \
                 events `session` and `user` (only `user` if Hanko is v3.0.4 or older).\n\
                 2. Check that the URL can be reached from Hanko: run this there. The response must be 401 `invalid-token`.\n   \
                 curl -i -H 'Content-Type: application/json' -d '{{\"token\":\"x\",\"event\":\"user\"}}' {url}\n\
                 3. Start the service and change a test user at Hanko: the log then has a line with the event `webhook_received`.\n"
            )?;
        }
        Ok(())
    }
}

/// Fetches the keys once and connects to the revocation store.
///
/// # Errors
/// [`StartError`] if the service could not start.
pub(super) async fn check(
    mut app: App,
    config: &Config,
    variable_warnings: Vec<Warning>,
) -> Result<Report, StartError> {
    let url = config.hanko.url.clone().ok_or(StartError::NoHanko)?;
    let public_url = config.http.public_url(config.http.port);
    let builder = app.hanko_builder(config, &public_url, false).await?;
    let document = app.document(&public_url, builder.cookie_name_so_far())?;
    let hanko = builder.url(url).build()?;
    hanko.wait_for_key_set_fetches(1).await;
    await_store(&app, &hanko).await;

    let mut report = Report {
        title: format!("{} {}", app.title, app.version),
        ..Report::default()
    };
    report_hanko(&mut report, &hanko);
    report_store(&mut report, config, &hanko);
    report_http(&mut report, config, &public_url);
    #[cfg(feature = "otlp")]
    report.line(
        "Traces",
        match traces::endpoint() {
            Some(_) => "exported by OTLP",
            None => "off",
        },
    );
    report.routes = routes(&app)?;
    if app.has_forward_auth {
        let sign_in = match &config.http.sign_in_url {
            Some(url) => format!(", which redirects browsers without a session to {url}"),
            None => String::new(),
        };
        let path = format!("{}{FORWARD_AUTH_PATH}", app.own_prefix);
        report.routes.push(format!("any method {path}{sign_in}"));
    }
    if config.http.docs {
        let pages = document.pages();
        let has_page = |path: &&&str| pages.get(path).is_some();
        let pages = ["/docs", "/openapi.json", "/openapi.yaml"];
        report.routes.extend(
            pages
                .iter()
                .filter(has_page)
                .map(|path| format!("GET {path}")),
        );
    }
    if app.has_webhooks {
        report.webhooks = Some(format!("{public_url}{}{WEBHOOK_PATH}", app.own_prefix));
    }
    let startup = Warning::all(variable_warnings, &config.http, &public_url);
    report
        .warnings
        .splice(0..0, startup.iter().map(ToString::to_string));
    Ok(report)
}

/// Waits until the revocations are known, at most for [`STORE_TIMEOUT`].
async fn await_store(app: &App, hanko: &Hanko) {
    let clock = Arc::clone(&app.clock);
    let deadline = clock.monotonic() + STORE_TIMEOUT;
    while !hanko.knows_revocations() && clock.monotonic() < deadline {
        clock.sleep(STORE_PAUSE).await;
    }
}

fn report_hanko(report: &mut Report, hanko: &Hanko) {
    let url = hanko.url();
    report.line("Hanko", url.as_str());
    if url.is_http() && !url.is_loopback() {
        report.warnings.push(
            "HANKO_API_URL is http: an attacker on the network can replace the keys, and then sign in as any user".to_owned(),
        );
    }
    let keys = hanko.key_set_status();
    match &keys.last_error {
        None => report.line("Keys", format!("{} usable", keys.usable_keys)),
        Some(error) => {
            report.line("Keys", "none");
            report.failures.push(format!("HANKO_API_URL: {error}"));
        }
    }
    let rules = hanko.session_rules();
    if rules.audiences.is_empty() {
        report.line("Audience", "not checked");
        report.warnings.push(
            "HANKO_AUDIENCE is not set: a token that this Hanko has issued for another audience is accepted".to_owned(),
        );
    } else {
        report.line("Audience", rules.audiences.join(", "));
    }
    match &rules.issuer {
        Some(issuer) => report.line("Issuer", issuer),
        None => {
            report.line("Issuer", "not checked");
            report.warnings.push(
                "HANKO_ISSUER is not set: `iss` is not checked. Set it if your Hanko has an issuer configured"
                    .to_owned(),
            );
        }
    }
    report.line("Cookie", hanko.cookie_name());
    let policy = hanko.session_policy();
    let ttl = policy.cache_ttl;
    let mode = match policy.mode {
        SessionMode::Stateless => {
            "stateless: the end of a session is noticed by its webhook".to_owned()
        }
        SessionMode::Hybrid => format!(
            "hybrid: the end of a session is noticed by its webhook, and by asking Hanko every {ttl:?} about sessions in use; \
             keep session.idle_timeout of Hanko longer than twice that"
        ),
        SessionMode::Stateful => format!(
            "stateful: the end of a session is noticed by its webhook, and by asking Hanko if its last answer is older than \
             {ttl:?}; keep session.idle_timeout of Hanko longer than that"
        ),
    };
    report.line("Sessions", mode);
    if policy.mode == SessionMode::Stateless {
        report.warnings.push(
            "HANKO_SESSION_MODE=stateless: a session whose webhook is missed is accepted until its token expires. Nothing \
             renews sessions at Hanko: if session.idle_timeout is configured there, it also ends sessions that are in use here"
                .to_owned(),
        );
    }
}

fn report_store(report: &mut Report, config: &Config, hanko: &Hanko) {
    let store = config.revocation.described(hanko);
    match hanko.revocation_store_status() {
        StoreStatus::Unshared => {
            report.line(
                "Revocations",
                format!("{store}; several replicas need REVOCATION_STORE_URL"),
            );
        }
        StoreStatus::Ok => report.line(
            "Revocations",
            format!("{store}, which contains {}", hanko.revocations()),
        ),
        StoreStatus::Degraded | StoreStatus::Unavailable => {
            report.line("Revocations", format!("{store}, unavailable"));
            report.failures.push(format!(
                "the revocation store {store} could not be read within {STORE_TIMEOUT:?}; the log has the reason"
            ));
        }
    }
}

fn report_http(report: &mut Report, config: &Config, public_url: &str) {
    let http = &config.http;
    report.line("Listens on", format!("{}:{}", http.host, http.port));
    if let Some(address) = &http.admin_address {
        report.line(
            "Admin",
            format!("{address}, with /metrics, /livez and /readyz"),
        );
    }
    report.line("Public URL", public_url);
    report.line("Origins", http.trusted_origins(public_url).join(", "));
    let proxies = http.trusted_proxies.to_string();
    report.line(
        "Proxies",
        if proxies.is_empty() {
            "none is trusted"
        } else {
            &proxies
        },
    );
    let max_connections = possible_connections(http.max_connections);
    report.line(
        "Limits",
        format!(
            "{max_connections} connections, {} requests, bodies of {} bytes, {:?} per request",
            http.max_requests, http.max_request_body, http.request_timeout
        ),
    );
    if max_connections < http.max_connections {
        report.warnings.push(format!(
            "the limit of descriptors allows {max_connections} connections, fewer than MAX_CONNECTIONS={}; raise it with \
             `ulimit -Hn` or LimitNOFILE=",
            http.max_connections
        ));
    }
}

/// Describes each operation and each plain endpoint in one line.
fn routes(app: &App) -> Result<Vec<String>, StartError> {
    let mut routes = Vec::new();
    for path in app.meta().iter().flat_map(|api| &api.paths) {
        let mut methods = String::new();
        for operation in &path.operations {
            if !methods.is_empty() {
                methods.push_str(", ");
            }
            let _ = write!(methods, "{}", operation.method);
        }
        routes.push(format!("{methods} {}", path.path));
    }
    let plain = PlainEndpoint::all_paths(&app.plain)?;
    routes.extend(plain.into_iter().map(|path| format!("any method {path}")));
    Ok(routes)
}
