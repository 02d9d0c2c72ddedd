//! The server of an API: listens, limits what clients use, and shuts down.

mod admin;
mod connection;
mod http2;
pub(crate) mod listen;
pub(crate) mod metrics;
mod transport;

use std::{error::Error, io, net::SocketAddr, sync::Arc};

pub(crate) use listen::{Listener, possible_connections};
use tokio::sync::oneshot;

use self::{
    admin::Admin,
    metrics::{Metrics, Observed},
};

use crate::{
    app::Config,
    clock::Clock,
    edge::{EdgeCore, limits::Limits},
    hanko::{BuildError, Hanko, RedisStoreError},
    openapi::Conflict,
    testing::LocalHanko,
};

/// Why the server could not start.
///
/// ```
/// use poem_hanko::{App, Config, HankoChoice, MeApi, StartError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::from_lookup(|_| None, HankoChoice::Local)?;
/// match App::new(MeApi, "hello", "1.0").bind(config).await {
///     Ok(server) => server.run(std::future::pending()).await,
///     Err(StartError::NoHanko) => eprintln!("set HANKO_API_URL, or run `dev`"),
///     Err(StartError::Listen { address, .. }) => eprintln!("is {address} in use?"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// `HANKO_API_URL` is not set.
    #[error("HANKO_API_URL is not set")]
    NoHanko,
    /// The server cannot listen on `HOST` and `PORT`.
    #[error("cannot listen on {address}: {source}; set HOST and PORT to another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The server cannot listen on `ADMIN_ADDRESS`.
    #[error("cannot listen on {address}: {source}; set ADMIN_ADDRESS to another address")]
    ListenAdmin {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Sessions cannot be verified.
    #[error(transparent)]
    Hanko(#[from] BuildError),
    /// Two parts of the API conflict.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The API could not be created.
    #[error("{0}")]
    Api(Box<dyn Error + Send + Sync>),
    /// `REVOCATION_STORE_URL` is not the URL of a usable store.
    #[error("REVOCATION_STORE_URL is {0}")]
    RevocationStore(#[from] RedisStoreError),
    /// The local Hanko did not start.
    #[error("the local Hanko did not start: {0}")]
    LocalHanko(io::Error),
}

/// A server that is bound to its address. [`run`](Self::run) serves requests.
///
/// ```no_run
/// use poem_hanko::{App, Config, HankoChoice, MeApi};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::from_lookup(|name| std::env::var(name).ok(), HankoChoice::Configured)?;
/// let server = App::new(MeApi, "hello", "1.0").bind(config).await?;
/// println!("{} listens on {}", server.public_url(), server.address());
/// server
///     .run(async {
///         let _ = tokio::signal::ctrl_c().await;
///     })
///     .await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    edge: EdgeCore,
    version: String,
    public_url: String,
    config: Config,
    hanko: Hanko,
    local_hanko: Option<Arc<LocalHanko>>,
    clock: Arc<dyn Clock>,
    admin: Option<(Listener, Observed)>,
}

impl Server {
    pub(crate) fn new(
        listener: Listener,
        edge: EdgeCore,
        version: String,
        public_url: String,
        config: Config,
        local_hanko: Option<Arc<LocalHanko>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let hanko = edge.hanko().clone();
        Self {
            listener,
            edge,
            version,
            public_url,
            config,
            hanko,
            local_hanko,
            clock,
            admin: None,
        }
    }

    /// Serves metrics and health checks on another listener.
    pub(crate) fn admin(mut self, listener: Listener, observed: Observed) -> Self {
        self.admin = Some((listener, observed));
        self
    }

    /// Returns the address on which it serves metrics and health checks, if `ADMIN_ADDRESS` is set.
    ///
    /// ```
    /// use poem_hanko::Server;
    ///
    /// fn print_addresses(server: &Server) {
    ///     println!("API: {}", server.address());
    ///     if let Some(address) = server.admin_address() {
    ///         println!("metrics: http://{address}/metrics");
    ///     }
    /// }
    /// ```
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(listener, _)| listener.address())
    }

    /// Returns the address on which it listens.
    ///
    /// ```
    /// use poem_hanko::{App, Config, HankoChoice, MeApi};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // Port 0 picks a free one.
    /// let lookup = |name: &str| (name == "PORT").then(|| "0".to_owned());
    /// let config = Config::from_lookup(lookup, HankoChoice::Local)?;
    /// let server = App::new(MeApi, "hello", "1.0").bind_dev(config).await?;
    /// assert_ne!(server.address().port(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Returns the URL by which clients reach it.
    ///
    /// ```
    /// use poem_hanko::Server;
    ///
    /// fn print_docs(server: &Server) {
    ///     println!("Swagger UI: {}/docs", server.public_url());
    /// }
    /// ```
    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// Returns the configuration that it was bound with.
    ///
    /// ```
    /// use poem_hanko::Server;
    ///
    /// fn print_limits(server: &Server) {
    ///     let http = &server.config().http;
    ///     println!("{} requests at a time, {:?} each", http.max_requests, http.request_timeout);
    /// }
    /// ```
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the [`Hanko`] that authenticates its requests.
    ///
    /// ```
    /// use poem_hanko::Server;
    ///
    /// /// Waits until the keys have been fetched for the first time.
    /// async fn wait_for_keys(server: &Server) {
    ///     server.hanko().wait_for_key_set_fetches(1).await;
    /// }
    /// ```
    pub fn hanko(&self) -> &Hanko {
        &self.hanko
    }

    /// Returns the local Hanko of `dev`.
    ///
    /// ```
    /// use poem_hanko::{Server, testing::Person};
    ///
    /// fn print_token(server: &Server) {
    ///     if let Some(local_hanko) = server.local_hanko() {
    ///         println!("{}", local_hanko.sign_in(&Person::default()).token());
    ///     }
    /// }
    /// ```
    pub fn local_hanko(&self) -> Option<&LocalHanko> {
        self.local_hanko.as_deref()
    }

    /// Serves until `shutdown` completes and for `SHUTDOWN_DELAY` after that, while `/readyz` returns 503. Then waits at most
    /// `SHUTDOWN_GRACE` for running requests. The listener of `ADMIN_ADDRESS` closes last.
    ///
    /// Raises the limit of file descriptors of this process.
    ///
    /// ```
    /// use poem_hanko::Server;
    ///
    /// async fn run_until_ctrl_c(server: Server) {
    ///     server
    ///         .run(async {
    ///             let _ = tokio::signal::ctrl_c().await;
    ///         })
    ///         .await;
    /// }
    /// ```
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let config = &self.config.http;
        let reserved = self.admin.as_ref().map_or(0, |_| admin::DESCRIPTORS);
        let max_connections = listen::max_connections(config.max_connections, reserved);
        self.log_start(max_connections);
        let limits = Limits::new(config.limits(), max_connections, Arc::clone(&self.clock));
        match self.admin {
            None => {
                listen::serve(self.listener, self.edge, Arc::new(limits), config, shutdown).await;
            }
            Some((admin_listener, observed)) => {
                let limits = Arc::new(limits.counting(self.edge.routes()));
                let checks = observed.checks.clone();
                let metrics = Metrics::new(observed, Arc::clone(&limits));
                let admin = Admin::new(self.hanko.clone(), &checks, metrics, self.clock);
                let of_admin = admin.limits();
                let shutdown = async {
                    shutdown.await;
                    // Its `/readyz` says the same as that of the other listener.
                    of_admin.start_draining();
                };
                let (ends, ended) = oneshot::channel::<()>();
                let serving = async {
                    listen::serve(self.listener, self.edge, limits, config, shutdown).await;
                    drop(ends);
                };
                let serving_admin = admin.serve(admin_listener, config, async {
                    let _dropped = ended.await;
                });
                tokio::join!(serving, serving_admin);
            }
        }
        self.hanko.report_lost();
        tracing::info!(event = "stopped", "stopped");
    }

    /// Logs the main settings, and which claims are not checked.
    fn log_start(&self, max_connections: usize) {
        const UNCHECKED: &str = "unchecked";

        let config = &self.config.http;
        let rules = self.hanko.session_rules();
        let audience = match &rules.audiences[..] {
            [] => UNCHECKED.to_owned(),
            audiences => audiences.join(", "),
        };
        let mut origins = config.trusted_origins(&self.public_url);
        if self.local_hanko.is_some() {
            origins.push("http on loopback".to_owned());
        }
        tracing::info!(
            event = "listening",
            version = self.version,
            address = %self.address(),
            public_url = self.public_url,
            hanko = %self.hanko.url(),
            mode = self.hanko.session_policy().mode.name(),
            audience,
            issuer = rules.issuer.as_deref().unwrap_or(UNCHECKED),
            store = self.config.revocation.described(&self.hanko),
            origins = origins.join(", "),
            max_connections,
            max_requests = config.max_requests,
            max_request_body = config.max_request_body,
            request_timeout = ?config.request_timeout,
            "listening"
        );
        if let Some(admin) = self.admin_address() {
            tracing::info!(event = "admin_listening", address = %admin, "serving metrics and health checks");
        }
    }
}
