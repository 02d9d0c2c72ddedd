//! [`App`]: makes a program of an API, with a command line, configuration, documentation, webhooks and health checks.

mod check;
mod cli;
mod config;
mod dev;
mod healthcheck;
mod telemetry;
#[cfg(feature = "testing")]
mod test;
mod warning;

use std::{
    error::Error,
    fmt,
    future::ready,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

pub use config::{
    Config, ConfigError, ConfigErrors, HankoChoice, HankoConfig, HttpConfig, LogFormat,
    RevocationConfig, TelemetryConfig,
};
use futures_util::future::BoxFuture;
use poem::{Endpoint, EndpointExt, IntoEndpoint, IntoResponse};
use poem_openapi::{
    ContactObject, ExternalDocumentObject, LicenseObject, OpenApi, OpenApiService, ServerObject,
    registry::MetaApi,
};
pub(crate) use telemetry::dropped_log_lines;
pub use telemetry::{InstallLogError, flush_log, install_log, log_subscriber};
#[cfg(feature = "testing")]
pub use test::TestApp;

use crate::{
    auth::forward::ForwardAuth,
    clock::{Clock, SystemClock},
    edge::{AddData, EdgeCore, Endpoints, Operations, Pages, PlainEndpoint, RouteTable},
    hanko::{Event, Hanko, HankoBuilder, HankoUrl, PlainHttp, RedisStore},
    openapi::{ApiType, Conflict, Document, RouteMap, SignInPlace, WithProblems, merge},
    operations::{
        Check, CheckStatus, Checks, FORWARD_AUTH_PATH, HealthApi, WEBHOOK_PATH, WebhooksApi,
        health_routes,
    },
    server::{
        Listener, Server, StartError,
        metrics::{Application, Observed, WriteMetrics},
        possible_connections,
    },
    testing::LocalHanko,
};

type BoxError = Box<dyn Error + Send + Sync>;
/// Adds the endpoints of an API to a route map.
type AddRoutes = Box<dyn FnOnce(&mut RouteMap) + Send>;
type MakeRoutes = Box<dyn FnOnce(Config) -> BoxFuture<'static, Result<AddRoutes, BoxError>> + Send>;
type ChangeBuilder = Box<dyn FnOnce(HankoBuilder) -> HankoBuilder + Send>;

/// A program that serves an API behind Hanko, with Swagger UI, webhooks and health checks.
///
/// Its commands are `serve`, `dev`, `check`, `healthcheck` and `openapi`. Environment variables configure it.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use poem_hanko::{App, HankoAuth};
/// use poem_openapi::{OpenApi, payload::PlainText};
///
/// struct Api;
///
/// #[OpenApi]
/// impl Api {
///     /// Greet the user by id
///     #[oai(path = "/hello", method = "get", operation_id = "getHello")]
///     async fn hello(&self, auth: HankoAuth) -> PlainText<String> {
///         PlainText(format!("Hello, {}!", auth.user_id()))
///     }
/// }
///
/// #[tokio::main]
/// async fn main() -> ExitCode {
///     App::new(Api, "hello", "1.0").run().await
/// }
/// ```
#[must_use = "an app does nothing until it is run"]
pub struct App {
    title: String,
    version: String,
    description: Option<String>,
    license: Option<(String, String)>,
    contact: Option<(String, String)>,
    external_docs: Option<(String, String)>,
    api: ApiType,
    make_routes: MakeRoutes,
    has_webhooks: bool,
    has_health: bool,
    has_forward_auth: bool,
    own_prefix: String,
    plain: Vec<PlainEndpoint>,
    data: Vec<AddData>,
    variables: Vec<String>,
    change_builder: Vec<ChangeBuilder>,
    clock: Arc<dyn Clock>,
    checks: Vec<Check>,
    metrics: Vec<WriteMetrics>,
    tenants: Vec<Hanko>,
}

impl fmt::Debug for App {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("App")
            .field("title", &self.title)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl App {
    /// Creates an app from an API, like [`OpenApiService::new`]. A tuple of APIs is also an API.
    ///
    /// ```
    /// use poem_hanko::{App, HankoAuth, JsonBody, MeApi};
    /// use poem_openapi::OpenApi;
    ///
    /// struct Api;
    ///
    /// #[OpenApi]
    /// impl Api {
    ///     /// Greet the user by id
    ///     #[oai(path = "/hello", method = "get", operation_id = "getHello")]
    ///     async fn hello(&self, auth: HankoAuth) -> JsonBody<String> {
    ///         JsonBody(format!("Hello, {}!", auth.user_id()))
    ///     }
    /// }
    ///
    /// let app = App::new((Api, MeApi), "hello", "1.0");
    /// ```
    pub fn new<A>(api: A, title: impl Into<String>, version: impl Into<String>) -> Self
    where
        A: OpenApi + Send + 'static,
    {
        Self::with(move |_| ready(Ok::<_, BoxError>(api)), title, version)
    }

    /// Creates an app from an API that needs the configuration or asynchronous setup, such as a connection to a database.
    ///
    /// `make` is called once, when the app is served: `openapi` and `--help` need only the type of the API. If `make` fails,
    /// the program prints the error and exits with 1.
    ///
    /// ```
    /// # use poem_hanko::{App, Config};
    /// # use poem_openapi::{OpenApi, payload::PlainText};
    /// # struct Database;
    /// # impl Database { async fn connect(_url: &str) -> std::io::Result<Self> { Ok(Self) } }
    /// struct Api { database: Database }
    /// # #[OpenApi]
    /// # impl Api {
    /// #     #[oai(path = "/hello", method = "get", operation_id = "getHello")]
    /// #     async fn hello(&self) -> PlainText<&'static str> { PlainText("hello") }
    /// # }
    ///
    /// let app = App::with(
    ///     async |config: Config| {
    ///         let url = config.variable("DATABASE_URL").ok_or("DATABASE_URL is not set")?;
    ///         let database = Database::connect(&url).await?;
    ///         Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Api { database })
    ///     },
    ///     "notes",
    ///     "1.0",
    /// );
    /// ```
    pub fn with<A, E, F, Fut>(make: F, title: impl Into<String>, version: impl Into<String>) -> Self
    where
        A: OpenApi + Send + 'static,
        E: Into<BoxError>,
        F: FnOnce(Config) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
    {
        let api = ApiType::of::<WithProblems<A>>();
        let make_routes: MakeRoutes = {
            let api = api.clone();
            Box::new(move |config| {
                Box::pin(async move {
                    let operations = make(config).await.map_err(Into::into)?;
                    let add: AddRoutes =
                        Box::new(move |routes| api.add_routes(WithProblems(operations), routes));
                    Ok(add)
                })
            })
        };
        Self {
            title: title.into(),
            version: version.into(),
            description: None,
            license: None,
            contact: None,
            external_docs: None,
            api,
            make_routes,
            has_webhooks: true,
            has_health: true,
            has_forward_auth: true,
            own_prefix: String::new(),
            plain: Vec::new(),
            data: Vec::new(),
            variables: Vec::new(),
            change_builder: Vec::new(),
            clock: Arc::new(SystemClock::new()),
            checks: Vec::new(),
            metrics: Vec::new(),
            tenants: Vec::new(),
        }
    }

    /// Describes the API in the document, in Markdown. The first line also describes the program in `--help`.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi};
    ///
    /// let app = App::new(MeApi, "notes", "1.0").description("Keeps notes.");
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// let description = &document.as_json()["info"]["description"];
    /// assert!(description.as_str().is_some_and(|text| text.starts_with("Keeps notes.")));
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Sets the licence of the API in the document, with the URL of its text.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi};
    ///
    /// let app = App::new(MeApi, "notes", "1.0")
    ///     .license("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0");
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// assert_eq!(document.as_json()["info"]["license"]["name"], "Apache-2.0");
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    pub fn license(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.license = Some((name.into(), url.into()));
        self
    }

    /// Sets the contact of the API in the document. `address` is a URL or an e-mail address.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi};
    ///
    /// let app = App::new(MeApi, "notes", "1.0").contact("Support", "support@notes.example");
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// assert_eq!(document.as_json()["info"]["contact"]["email"], "support@notes.example");
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    pub fn contact(mut self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.contact = Some((name.into(), address.into()));
        self
    }

    /// Sets `externalDocs` in the document: a link to other documentation.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi};
    ///
    /// let app = App::new(MeApi, "notes", "1.0")
    ///     .external_docs("Guide", "https://notes.example/guide");
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// assert_eq!(document.as_json()["externalDocs"]["url"], "https://notes.example/guide");
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    pub fn external_docs(mut self, description: impl Into<String>, url: impl Into<String>) -> Self {
        self.external_docs = Some((description.into(), url.into()));
        self
    }

    /// Adds data to each request. Handlers take it as `Data<&T>`.
    ///
    /// ```
    /// use poem::web::Data;
    /// use poem_hanko::{App, HankoAuth, JsonBody};
    /// use poem_openapi::OpenApi;
    ///
    /// #[derive(Clone)]
    /// struct Greeting(String);
    ///
    /// struct Api;
    ///
    /// #[OpenApi]
    /// impl Api {
    ///     /// Greet the user
    ///     #[oai(path = "/hello", method = "get", operation_id = "getHello")]
    ///     async fn hello(&self, _auth: HankoAuth, greeting: Data<&Greeting>) -> JsonBody<String> {
    ///         JsonBody(greeting.0.0.clone())
    ///     }
    /// }
    ///
    /// let app = App::new(Api, "hello", "1.0").data(Greeting("Welcome!".to_owned()));
    /// ```
    pub fn data<T: Clone + Send + Sync + 'static>(mut self, data: T) -> Self {
        self.data.push(Box::new(move |request| {
            request.set_data(data.clone());
        }));
        self
    }

    /// Names the environment variables that the application itself reads.
    ///
    /// The program warns about any other variable that starts with `HANKO_`, `JWKS_` or `JWT_`, or that resembles one of the
    /// crate's, because nothing reads it.
    ///
    /// ```
    /// use poem_hanko::App;
    ///
    /// fn with_partner(app: App) -> App {
    ///     app.variables(["HANKO_PARTNER_URL"])
    /// }
    /// ```
    pub fn variables(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.variables.extend(names.into_iter().map(Into::into));
        self
    }

    /// Serves a plain Poem endpoint at a path beside the API, for all methods that it handles: for example Server-Sent Events,
    /// a WebSocket or a page. It is not in the document.
    ///
    /// ```
    /// use poem::{get, handler};
    /// use poem_hanko::App;
    ///
    /// #[handler]
    /// fn robots() -> &'static str {
    ///     "User-agent: *\nDisallow: /\n"
    /// }
    ///
    /// fn with_robots(app: App) -> App {
    ///     app.at("/robots.txt", get(robots))
    /// }
    /// ```
    pub fn at<E>(mut self, path: impl Into<String>, endpoint: E) -> Self
    where
        E: IntoEndpoint<Endpoint: 'static>,
        <E::Endpoint as Endpoint>::Output: IntoResponse,
    {
        self.plain.push(PlainEndpoint {
            path: path.into(),
            is_nested: false,
            endpoint: endpoint.into_endpoint().map_to_response().boxed(),
        });
        self
    }

    /// Serves a plain Poem endpoint, such as static files, at a path and all paths below. It sees paths without the prefix.
    ///
    /// ```
    /// use poem::{Route, get, handler};
    /// use poem_hanko::App;
    ///
    /// #[handler]
    /// fn shop_status() -> &'static str {
    ///     "open"
    /// }
    ///
    /// fn with_shop(app: App) -> App {
    ///     app.nest("/shop", Route::new().at("/status", get(shop_status)))
    /// }
    /// ```
    pub fn nest<E>(mut self, path: impl Into<String>, endpoint: E) -> Self
    where
        E: IntoEndpoint<Endpoint: 'static>,
        <E::Endpoint as Endpoint>::Output: IntoResponse,
    {
        self.plain.push(PlainEndpoint {
            path: path.into(),
            is_nested: true,
            endpoint: endpoint.into_endpoint().map_to_response().boxed(),
        });
        self
    }

    /// Calls `listener` for each verified event from Hanko; see [`HankoBuilder::on_event`].
    ///
    /// ```
    /// use poem_hanko::{App, Event, EventKind};
    ///
    /// async fn forget(event: Event) -> std::io::Result<()> {
    ///     if *event.kind() == EventKind::UserDelete {
    ///         println!("delete what belongs to {:?}", event.subject_id());
    ///     }
    ///     Ok(())
    /// }
    ///
    /// fn with_events(app: App) -> App {
    ///     app.on_event(forget)
    /// }
    /// ```
    pub fn on_event<F, Fut, E>(self, listener: F) -> Self
    where
        F: Fn(Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        self.configure_hanko(move |builder| builder.on_event(listener))
    }

    /// Changes the [`HankoBuilder`] that is made from the configuration.
    ///
    /// ```
    /// use poem_hanko::App;
    ///
    /// fn with_frontend(app: App) -> App {
    ///     app.configure_hanko(|builder| builder.trusted_origins(["https://app.example.com".to_owned()]))
    /// }
    /// ```
    pub fn configure_hanko(
        mut self,
        change: impl FnOnce(HankoBuilder) -> HankoBuilder + Send + 'static,
    ) -> Self {
        self.change_builder.push(Box::new(change));
        self
    }

    /// Leaves out the operation that receives webhooks.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi};
    ///
    /// let app = App::new(MeApi, "notes", "1.0").without_webhooks();
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// assert!(document.as_json()["paths"].get("/webhooks/hanko").is_none());
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    pub fn without_webhooks(mut self) -> Self {
        self.has_webhooks = false;
        self
    }

    /// Leaves out `/livez` and `/readyz`.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi};
    ///
    /// let app = App::new(MeApi, "notes", "1.0").without_health();
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// assert!(document.as_json()["paths"].get("/livez").is_none());
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    pub fn without_health(mut self) -> Self {
        self.has_health = false;
        self
    }

    /// Leaves out `/forward-auth`, which proxies ask before they pass requests on to other sites.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi};
    ///
    /// let app = App::new(MeApi, "notes", "1.0").without_forward_auth();
    /// ```
    pub fn without_forward_auth(mut self) -> Self {
        self.has_forward_auth = false;
        self
    }

    /// Moves the operations that the app adds to the API under a path: with `/internal`, webhooks are received at
    /// `/internal/webhooks/hanko`.
    ///
    /// ```
    /// use poem_hanko::{App, MeApi};
    ///
    /// let app = App::new(MeApi, "notes", "1.0").own_operations_under("/internal");
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// assert!(document.as_json()["paths"].get("/internal/webhooks/hanko").is_some());
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    pub fn own_operations_under(mut self, prefix: impl AsRef<str>) -> Self {
        let prefix = prefix.as_ref().trim_matches('/');
        self.own_prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("/{prefix}")
        };
        self
    }

    /// Sets the source of time. Default: [`SystemClock`].
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use poem_hanko::{App, ManualClock, MeApi};
    ///
    /// let clock = ManualClock::new(Duration::from_secs(1_767_268_800));
    /// let app = App::new(MeApi, "notes", "1.0").clock(Arc::new(clock.clone()));
    /// clock.advance(Duration::from_secs(60));
    /// ```
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Adds a readiness check to `/readyz`, under `components.application`, and to the metric `hanko_ready`.
    ///
    /// It runs every 5 s, whether or not `/readyz` is requested. A check that panics or takes longer than 5 s has the status
    /// [`CheckStatus::Unavailable`]. Until the check has ended once, the service is not ready.
    ///
    /// ```
    /// # use poem_hanko::{App, CheckStatus};
    /// # #[derive(Clone)] struct Database;
    /// # impl Database { async fn ping(&self) -> std::io::Result<()> { Ok(()) } }
    /// # fn add(app: App, database: Database) -> App {
    /// app.readiness("database", move || {
    ///     let database = database.clone();
    ///     async move {
    ///         match database.ping().await {
    ///             Ok(()) => CheckStatus::Ok,
    ///             Err(_) => CheckStatus::Degraded,
    ///         }
    ///     }
    /// })
    /// # }
    /// ```
    ///
    /// # Panics
    /// If another component has this name.
    pub fn readiness<F, Fut>(mut self, name: impl Into<String>, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = CheckStatus> + Send + 'static,
    {
        let name = name.into();
        let is_taken = ["keys", "revocation_store", "hanko", "server"].contains(&name.as_str())
            || self.checks.iter().any(|check| check.name == name);
        assert!(!is_taken, "there is already a component `{name}`");
        self.checks.push(Check {
            name,
            run: Box::new(move || Box::pin(check())),
        });
        self
    }

    /// Adds metrics to `/metrics` on `ADMIN_ADDRESS`.
    ///
    /// `write` is called for each scrape, in a thread that may block, and returns the metrics in the text format of
    /// Prometheus, which every exporter crate writes. Their names must not start with `hanko_`, `http_`, `log_`,
    /// `poem_hanko_` or `process_`.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// # use poem_hanko::App;
    ///
    /// static NOTES: AtomicU64 = AtomicU64::new(0);
    ///
    /// # fn add(app: App) -> App {
    /// app.metrics(|| {
    ///     let notes = NOTES.load(Ordering::Relaxed);
    ///     format!("# HELP notes_total Notes written.\n# TYPE notes_total counter\nnotes_total {notes}\n")
    /// })
    /// # }
    /// ```
    pub fn metrics(mut self, write: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics.push(Box::new(write));
        self
    }

    /// Exports the metrics of another [`Hanko`] that the application uses, such as that of another tenant.
    ///
    /// The series of each `Hanko` then have the label `tenant`: the path of its URL, or the host if the URL has no path.
    ///
    /// ```
    /// # use poem_hanko::{App, Hanko, webhook_endpoint};
    /// use poem::{EndpointExt, Route};
    ///
    /// fn with_staff(app: App, staff: &Hanko) -> App {
    ///     let routes = Route::new().at("/webhooks/hanko", webhook_endpoint());
    ///     app.nest("/staff", routes.data(staff.clone())).tenant(staff)
    /// }
    /// ```
    pub fn tenant(mut self, hanko: &Hanko) -> Self {
        self.tenants.push(hanko.clone());
        self
    }

    /// Runs the command given by the arguments of the process, and returns its exit code: 0 for success, 2 for a wrong flag,
    /// value or variable, 1 for any other error.
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    ///
    /// use poem_hanko::{App, MeApi};
    ///
    /// #[tokio::main]
    /// async fn main() -> ExitCode {
    ///     App::new(MeApi, "hello", "1.0").run().await
    /// }
    /// ```
    pub async fn run(self) -> ExitCode {
        // Boxed because the future is large: each command holds an app.
        ExitCode::from(Box::pin(cli::run(self)).await)
    }

    /// Returns the OpenAPI document, with `public_url` as the URL of the server and `cookie_name` as the session cookie.
    ///
    /// ```
    /// use poem_hanko::{App, DocumentFormat, MeApi};
    ///
    /// let app = App::new(MeApi, "hello", "1.0");
    /// let document = app.document("https://api.example.com", "hanko")?;
    /// println!("{}", document.to_text(DocumentFormat::Yaml));
    /// # Ok::<(), poem_hanko::Conflict>(())
    /// ```
    ///
    /// # Errors
    /// A [`Conflict`] in the API.
    pub fn document(&self, public_url: &str, cookie_name: &str) -> Result<Document, Conflict> {
        let plain = PlainEndpoint::all_paths(&self.plain)?;
        RouteTable::from_meta(&self.meta(), &plain, &[])?;
        let mut service = OpenApiService::new((), &self.title, &self.version);
        if let Some(description) = &self.description {
            service = service.description(description);
        }
        if let Some((name, url)) = &self.license {
            service = service.license(LicenseObject::new(name).url(url));
        }
        if let Some((name, address)) = &self.contact {
            let contact = ContactObject::new().name(name);
            service = service.contact(if address.contains("://") {
                contact.url(address)
            } else {
                contact.email(address)
            });
        }
        if let Some((description, url)) = &self.external_docs {
            let docs = ExternalDocumentObject::new(url).description(description);
            service = service.external_document(docs);
        }
        let base = service.server(ServerObject::new(public_url)).spec();
        let value = merge(&base, &self.apis())?;
        Ok(Document::of_value(value, cookie_name))
    }

    /// Creates the API and binds the server as configured. Hanko need not be reachable.
    ///
    /// Only a program with its own command line calls this: [`run`](Self::run) includes it.
    ///
    /// ```no_run
    /// use poem_hanko::{App, Config, HankoChoice, MeApi};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = Config::from_lookup(|name| std::env::var(name).ok(), HankoChoice::Configured)?;
    /// let server = App::new(MeApi, "hello", "1.0").bind(config).await?;
    /// server.run(std::future::pending()).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn bind(self, config: Config) -> Result<Server, StartError> {
        let url = config.hanko.url.clone().ok_or(StartError::NoHanko)?;
        self.bind_to(config, Some(url)).await
    }

    /// Starts a local Hanko and binds the server for its sessions. Always listens on loopback, whatever `HOST` says.
    ///
    /// ```
    /// use poem_hanko::{App, Config, HankoChoice, MeApi, testing::Person};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // Port 0 picks a free one.
    /// let lookup = |name: &str| (name == "PORT").then(|| "0".to_owned());
    /// let config = Config::from_lookup(lookup, HankoChoice::Local)?;
    /// let server = App::new(MeApi, "hello", "1.0").bind_dev(config).await?;
    /// let ada = server.local_hanko().map(|hanko| hanko.sign_in(&Person::default()));
    /// # assert!(ada.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn bind_dev(self, mut config: Config) -> Result<Server, StartError> {
        if !config.http.host.is_loopback() {
            tracing::warn!(event = "host_ignored", host = %config.http.host, "HOST is not loopback: listening on 127.0.0.1 instead");
            config.http.host = IpAddr::from([127, 0, 0, 1]);
        }
        if let Some(admin) = &mut config.http.admin_address
            && !admin.ip().is_loopback()
        {
            tracing::warn!(event = "admin_address_ignored", address = %admin, "ADMIN_ADDRESS is not on loopback: listening on 127.0.0.1 instead");
            admin.set_ip(IpAddr::from([127, 0, 0, 1]));
        }
        if let Some(public_url) = config.http.public_url.take() {
            tracing::warn!(
                event = "public_url_ignored",
                public_url,
                "`dev` ignores PUBLIC_URL: its URL is the address on which it listens"
            );
        }
        self.bind_to(config, None).await
    }

    /// Applies the changes of the application to `builder`, once.
    fn change(&mut self, builder: HankoBuilder) -> HankoBuilder {
        self.change_builder
            .drain(..)
            .fold(builder, |builder, change| change(builder))
    }

    /// Returns a builder whose URL is set later.
    fn builder_without_hanko() -> HankoBuilder {
        let url = HankoUrl::parse("http://localhost", PlainHttp::LoopbackOnly)
            .expect("http is allowed on loopback");
        Hanko::builder(url)
    }

    /// Returns a builder with the configuration and the changes of the application.
    async fn hanko_builder(
        &mut self,
        config: &Config,
        public_url: &str,
        trusts_loopback: bool,
    ) -> Result<HankoBuilder, StartError> {
        let mut builder = config
            .hanko
            .apply(Self::builder_without_hanko())
            .trusted_origins(config.http.trusted_origins(public_url))
            .trust_loopback_origins(trusts_loopback)
            .max_waiting(possible_connections(config.http.max_connections) / 4)
            .clock(Arc::clone(&self.clock));
        if let Some(url) = &config.revocation.store_url {
            let store = RedisStore::start(url, Arc::clone(&self.clock))?;
            // An unavailable store is tried again; one that can never work would leave this instance unready forever.
            store.check().await?;
            builder = builder.revocation_store(Arc::new(store));
        }
        Ok(self.change(builder))
    }

    /// Binds the server for the sessions of the Hanko at `url`, or of a local Hanko if it is `None`.
    async fn bind_to(
        mut self,
        config: Config,
        url: Option<HankoUrl>,
    ) -> Result<Server, StartError> {
        let listener = Listener::bind(SocketAddr::new(config.http.host, config.http.port))?;
        let admin_address = config.http.admin_address;
        let admin_listener = admin_address.map(Listener::bind_admin).transpose()?;
        let public_url = config.http.public_url(listener.address().port());
        let clock = Arc::clone(&self.clock);
        // Before the local Hanko starts, because the application may change the name of its cookie.
        let builder = self
            .hanko_builder(&config, &public_url, url.is_none())
            .await?;
        let (url, local_hanko) = match url {
            Some(url) => (url, None),
            None => {
                let local_hanko = config
                    .hanko
                    .apply_to_local(LocalHanko::builder())
                    .clock(Arc::clone(&clock))
                    .cookie_name(builder.cookie_name_so_far());
                let local_hanko = local_hanko.start().await.map_err(StartError::LocalHanko)?;
                if self.has_webhooks {
                    let (address, prefix) = (listener.address(), &self.own_prefix);
                    local_hanko.send_webhooks_to(format!("http://{address}{prefix}{WEBHOOK_PATH}"));
                }
                (local_hanko.hanko_url(), Some(Arc::new(local_hanko)))
            }
        };
        let hanko = builder.url(url).build()?;
        let version = self.version.clone();
        let checks = Checks::start(std::mem::take(&mut self.checks), &clock);
        let tenants = std::mem::take(&mut self.tenants);
        let observed = Observed {
            hankos: [hanko.clone()].into_iter().chain(tenants).collect(),
            checks: checks.clone(),
            application: Application(std::mem::take(&mut self.metrics)),
        };
        let edge = self
            .edge(&config, hanko, &checks, &public_url, local_hanko.clone())
            .await?;
        let server = Server::new(
            listener,
            edge,
            version,
            public_url,
            config,
            local_hanko,
            clock,
        );
        Ok(match admin_listener {
            Some(listener) => server.admin(listener, observed),
            None => server,
        })
    }

    async fn edge(
        self,
        config: &Config,
        hanko: Hanko,
        checks: &Checks,
        public_url: &str,
        local_hanko: Option<Arc<LocalHanko>>,
    ) -> Result<EdgeCore, StartError> {
        let document = self.document(public_url, hanko.cookie_name())?;
        let sign_in = match local_hanko {
            Some(_) => SignInPlace::Here(dev::SIGN_IN_PATH.trim_start_matches('/')),
            None => SignInPlace::Application(config.http.sign_in_url.as_deref()),
        };
        let mut pages = if config.http.docs {
            document.pages_of(sign_in)
        } else {
            Pages::default()
        };
        if let Some(local_hanko) = local_hanko {
            pages = dev::add_pages(pages, local_hanko, config.http.docs);
        }
        let meta = self.meta();
        let forward_auth = self.has_forward_auth.then(|| {
            let path = format!("{}{FORWARD_AUTH_PATH}", self.own_prefix);
            let sign_in_url = config.http.sign_in_url.as_deref();
            ForwardAuth::new(path, sign_in_url.and_then(|url| url.parse().ok()))
        });
        let mut page_paths: Vec<String> = pages.paths().map(ToOwned::to_owned).collect();
        if let Some(forward_auth) = &forward_auth {
            let path = forward_auth.path();
            page_paths.extend([path.to_owned(), format!("{path}/*rest")]);
        }
        let mut routes = RouteMap::new();
        if self.has_webhooks {
            self.own::<WebhooksApi>()
                .add_routes(WebhooksApi, &mut routes);
        }
        if self.has_health {
            health_routes(&self.own::<HealthApi>(), checks, &mut routes);
        }
        let make_routes = self.make_routes;
        let add_routes = make_routes(config.clone()).await.map_err(StartError::Api)?;
        add_routes(&mut routes);
        let endpoints = Endpoints {
            meta,
            routes,
            router_schemes: document.router_schemes(),
            plain: self.plain,
            pages: page_paths,
            data: self.data,
        };
        let core = EdgeCore::new(hanko, Operations::new(endpoints)?, pages)
            .trusting(config.http.trusted_proxies.clone())
            .logging_requests(config.http.access_log)
            .forward_auth(forward_auth);
        Ok(core)
    }

    /// Returns the APIs in the order of the document.
    fn apis(&self) -> Vec<ApiType> {
        let mut apis = vec![self.api.clone()];
        if self.has_webhooks {
            apis.push(self.own::<WebhooksApi>());
        }
        if self.has_health {
            apis.push(self.own::<HealthApi>());
        }
        apis
    }

    fn meta(&self) -> Vec<MetaApi> {
        self.apis().iter().flat_map(ApiType::meta).collect()
    }

    fn own<A: OpenApi>(&self) -> ApiType {
        ApiType::of::<WithProblems<A>>().under(&self.own_prefix)
    }
}
