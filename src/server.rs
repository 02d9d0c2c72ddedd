//! Puts everything together: configuration, Hanko, API, routes; binds, runs and shuts down.

mod connection;
mod cors;
mod edge;
mod http2;
mod limits;
mod listen;
mod operations;
mod transport;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use edge::Edge;
use limits::Limits;
pub use limits::{LimitedEndpoint, RequestLimits};
use operations::Operations;
use tokio::net::TcpListener;

use crate::{
    app::{config::Config, dev},
    clock::{Clock, SystemClock},
    hanko::{BuildError, Hanko, HankoUrl, RedisStore, RedisStoreError},
    openapi::{Document, RouteConflict, swagger_ui},
    operations as api,
    operations::WEBHOOK_PATH,
    pages::Pages,
    testing::LocalHanko,
};

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// `HOST` and `PORT` cannot be listened on.
    #[error("cannot listen on {address}: {source}; HOST and PORT choose another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Sessions cannot be verified.
    #[error(transparent)]
    Hanko(#[from] BuildError),
    /// Two operations have the same route.
    #[error(transparent)]
    Routes(#[from] RouteConflict),
    /// `REVOCATION_STORE_URL` is not that of a store.
    #[error("REVOCATION_STORE_URL is {0}")]
    RevocationStore(#[from] RedisStoreError),
    /// The local Hanko did not start.
    #[error("the local Hanko did not start: {0}")]
    LocalHanko(io::Error),
}

/// An API that listens and is not served yet.
pub struct Server {
    listener: TcpListener,
    edge: Edge,
    address: SocketAddr,
    public_url: String,
    config: Config,
    hanko: Hanko,
    local_hanko: Option<Arc<LocalHanko>>,
    clock: Arc<dyn Clock>,
}

impl Server {
    /// Listens as configured, for sessions of `tenant`. Hanko need not be reachable. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn bind(
        config: Config,
        tenant: HankoUrl,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        Self::bind_with(config, tenant, clock, None)
    }

    /// Starts a local Hanko and listens on loopback, whatever `HOST` says, for its sessions.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn bind_dev(mut config: Config) -> Result<Self, StartError> {
        if !config.http.host.is_loopback() {
            tracing::warn!(host = %config.http.host, "HOST is not loopback: listening on 127.0.0.1 instead");
            config.http.host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        }
        if let Some(public_url) = config.http.public_url.take() {
            tracing::warn!(
                public_url,
                "PUBLIC_URL is not read by `dev`, which is reached where it listens"
            );
        }
        let mut local_hanko = LocalHanko::builder().cookie_name(&config.hanko.cookie_name);
        if let Some(audience) = config.hanko.audiences.first() {
            local_hanko = local_hanko.audience(audience);
        }
        if let Some(issuer) = &config.hanko.issuer {
            local_hanko = local_hanko.issuer(issuer);
        }
        let local_hanko = local_hanko.start().await.map_err(StartError::LocalHanko)?;
        let tenant = local_hanko.hanko_url();
        let local_hanko = Arc::new(local_hanko);
        let clock = Arc::new(SystemClock::new());
        let server = Self::bind_with(config, tenant, clock, Some(Arc::clone(&local_hanko)))?;
        local_hanko.send_webhooks_to(format!("http://{}{WEBHOOK_PATH}", server.address));
        Ok(server)
    }

    fn bind_with(
        config: Config,
        tenant: HankoUrl,
        clock: Arc<dyn Clock>,
        local_hanko: Option<Arc<LocalHanko>>,
    ) -> Result<Self, StartError> {
        let address = SocketAddr::new(config.http.host, config.http.port);
        let listen_error = |source| StartError::Listen { address, source };
        let listener = listen::listen(address).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let public_url = config.http.public_url(address.port());
        let mut builder = config
            .hanko
            .builder(tenant)
            .trusted_origins(config.http.trusted_origins(&public_url))
            .trust_loopback_origins(local_hanko.is_some())
            .clock(Arc::clone(&clock));
        if let Some(url) = &config.revocation.store_url {
            let store = RedisStore::start(url, Arc::clone(&clock))?;
            builder = builder.revocation_store(Arc::new(store));
        }
        let hanko = builder.build()?;
        let edge = edge(hanko.clone(), &public_url, local_hanko.clone())?;
        Ok(Self {
            listener,
            edge,
            address,
            public_url,
            config,
            hanko,
            local_hanko,
            clock,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// By which URL clients reach it.
    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// The configuration that it was bound with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What authenticates its requests.
    pub fn hanko(&self) -> &Hanko {
        &self.hanko
    }

    /// The local Hanko of `dev`.
    pub fn local_hanko(&self) -> Option<&LocalHanko> {
        self.local_hanko.as_deref()
    }

    /// Serves until `shutdown` ends, goes on for `SHUTDOWN_DELAY` while `/readyz` returns 503, and then waits for running
    /// requests, at most for `SHUTDOWN_GRACE`. Raises the limit of descriptors of this process.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        tracing::info!(
            address = %self.address,
            public_url = self.public_url,
            hanko = %self.hanko.tenant(),
            "listening"
        );
        let config = &self.config.http;
        let max_connections = listen::max_connections(config.max_connections);
        let limits = Limits::new(config, max_connections, self.clock);
        listen::serve(self.listener, self.edge, Arc::new(limits), config, shutdown).await;
        tracing::info!("stopped");
    }
}

/// The API and the pages beside it. `local_hanko` adds the sign-in page of `dev`.
fn edge(
    hanko: Hanko,
    public_url: &str,
    local_hanko: Option<Arc<LocalHanko>>,
) -> Result<Edge, RouteConflict> {
    let service = api::service(api::operations(), public_url);
    let document = Document::new(&service, hanko.cookie_name());
    let mut pages = swagger_ui::add_pages(Pages::default(), &document, api::TITLE, public_url);
    if let Some(local_hanko) = local_hanko {
        pages = dev::add_pages(pages, local_hanko);
    }
    let operations = Operations::new(api::operations(), service)?;
    Ok(Edge::new(hanko, operations, pages))
}
