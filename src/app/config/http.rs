use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use url::Url;

use super::{
    admin::read_admin_address,
    reader::{Reader, boolean, duration, origins, positive_count, positive_duration, size},
    secret::mask,
};
use crate::{
    edge::{TrustedProxies, limits::LimitSettings},
    hanko::is_loopback,
};

pub(super) const DEFAULT_PORT: u16 = 8000;
const DEFAULT_MAX_CONNECTIONS: usize = 16 * 1024;
const DEFAULT_SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Where and how the API is served.
///
/// ```
/// use poem_hanko::{Config, HankoChoice};
///
/// let lookup = |name: &str| (name == "MAX_REQUEST_BODY").then(|| "1MiB".to_owned());
/// let config = Config::from_lookup(lookup, HankoChoice::Local)?;
/// assert_eq!(config.http.max_request_body, 1024 * 1024);
/// assert_eq!(config.http.port, 8000);
/// # Ok::<(), poem_hanko::ConfigErrors>(())
/// ```
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// `HOST`, default `127.0.0.1`
    pub host: IpAddr,
    /// `PORT`, default `8000`; 0 picks a free one
    pub port: u16,
    /// `ADMIN_ADDRESS`, default none: where metrics and health checks are served; port 0 picks a free one
    pub admin_address: Option<SocketAddr>,
    /// `CORS_ALLOWED_ORIGINS`, default none
    pub allowed_origins: Vec<String>,
    /// `PUBLIC_URL`, without a trailing slash; default `http://localhost:PORT` if `HOST` is `127.0.0.1`, `::1` or
    /// unspecified (`0.0.0.0`, `::`), otherwise `http://HOST:PORT`
    pub public_url: Option<String>,
    /// `SIGN_IN_URL`, default none: where a browser that navigates without a session is sent
    pub sign_in_url: Option<String>,
    /// `TRUSTED_PROXIES`, default none: the proxies whose `X-Forwarded-For` is used
    pub trusted_proxies: TrustedProxies,
    /// `MAX_CONNECTIONS`, default 16384: how many connections may be open; fewer if the limit of file descriptors is lower
    pub max_connections: usize,
    /// `MAX_REQUESTS`, default 4096: how many requests may wait for the head of their response, over all connections
    pub max_requests: usize,
    /// `MAX_REQUEST_BODY`, default `256KiB`: the largest request body in bytes, unless an operation sets its own limit
    pub max_request_body: usize,
    /// `REQUEST_TIMEOUT`, default `30s`: time for head, body and handler of a request together
    pub request_timeout: Duration,
    /// `DOCS`, default `true`: whether Swagger UI and the document are served
    pub docs: bool,
    /// `ACCESS_LOG`, default `false`: whether one line is logged for each request
    pub access_log: bool,
    /// `SHUTDOWN_DELAY`, default `0s`: how long requests are still accepted after the signal to shut down
    pub shutdown_delay: Duration,
    /// `SHUTDOWN_GRACE`, default `10s`: how long running requests may take after that
    pub shutdown_grace: Duration,
}

impl HttpConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let limits = LimitSettings::default();
        Self {
            host: read_host(reader),
            port: read_port(reader),
            admin_address: read_admin_address(reader),
            allowed_origins: read_allowed_origins(reader),
            public_url: read_public_url(reader),
            sign_in_url: read_sign_in_url(reader),
            trusted_proxies: reader.or("TRUSTED_PROXIES", TrustedProxies::default(), |value| {
                value.parse::<TrustedProxies>().map_err(|error| {
                    // The item may be a part of a secret.
                    if mask(value) == value {
                        error.to_string()
                    } else {
                        "is not a list of networks such as 10.0.0.0/8".to_owned()
                    }
                })
            }),
            max_connections: reader.or("MAX_CONNECTIONS", DEFAULT_MAX_CONNECTIONS, positive_count),
            max_requests: reader.or("MAX_REQUESTS", limits.max_requests, positive_count),
            max_request_body: reader.or("MAX_REQUEST_BODY", limits.max_body, size),
            request_timeout: reader.or(
                "REQUEST_TIMEOUT",
                limits.request_timeout,
                positive_duration,
            ),
            docs: reader.or("DOCS", true, boolean),
            access_log: reader.or("ACCESS_LOG", false, boolean),
            shutdown_delay: reader.or("SHUTDOWN_DELAY", Duration::ZERO, duration),
            shutdown_grace: reader.or("SHUTDOWN_GRACE", DEFAULT_SHUTDOWN_GRACE, duration),
        }
    }

    /// Returns the URL at which clients reach the service if it listens on `port`.
    ///
    /// ```
    /// use poem_hanko::{Config, HankoChoice};
    ///
    /// let config = Config::from_lookup(|_| None, HankoChoice::Local)?;
    /// assert_eq!(config.http.public_url(8000), "http://localhost:8000");
    /// # Ok::<(), poem_hanko::ConfigErrors>(())
    /// ```
    pub fn public_url(&self, port: u16) -> String {
        self.public_url.clone().unwrap_or_else(|| {
            let is_localhost = self.host.is_unspecified()
                || self.host == IpAddr::V4(Ipv4Addr::LOCALHOST)
                || self.host == IpAddr::V6(Ipv6Addr::LOCALHOST);
            if is_localhost {
                format!("http://localhost:{port}")
            } else {
                format!("http://{}", SocketAddr::new(self.host, port))
            }
        })
    }

    /// Returns the limits of requests.
    pub(crate) fn limits(&self) -> LimitSettings {
        LimitSettings {
            max_requests: self.max_requests,
            max_body: self.max_request_body,
            request_timeout: self.request_timeout,
        }
    }

    /// Returns the allowed origins on loopback, or none if the service itself is on loopback.
    ///
    /// Any program that listens on that port of a user's machine can act for the user.
    ///
    /// ```
    /// use poem_hanko::{Config, HankoChoice};
    ///
    /// const ORIGINS: &str = "https://app.example.com,http://localhost:5173";
    /// let lookup = |name: &str| (name == "CORS_ALLOWED_ORIGINS").then(|| ORIGINS.to_owned());
    /// let config = Config::from_lookup(lookup, HankoChoice::Local)?;
    /// let stray = config.http.stray_loopback_origins("https://api.example.com");
    /// assert_eq!(stray, ["http://localhost:5173"]);
    /// # Ok::<(), poem_hanko::ConfigErrors>(())
    /// ```
    pub fn stray_loopback_origins(&self, public_url: &str) -> Vec<&str> {
        let is_local = |url: &str| Url::parse(url).is_ok_and(|url| is_loopback(&url));
        if is_local(public_url) {
            return Vec::new();
        }
        self.allowed_origins
            .iter()
            .map(String::as_str)
            .filter(|origin| is_local(origin))
            .collect()
    }

    /// Returns the origins that may call with credentials: those allowed, and that of `public_url`.
    ///
    /// ```
    /// use poem_hanko::{Config, HankoChoice};
    ///
    /// const APP: &str = "https://app.example.com";
    /// let lookup = |name: &str| (name == "CORS_ALLOWED_ORIGINS").then(|| APP.to_owned());
    /// let config = Config::from_lookup(lookup, HankoChoice::Local)?;
    /// let origins = config.http.trusted_origins("https://api.example.com/v1");
    /// assert_eq!(origins, [APP, "https://api.example.com"]);
    /// # Ok::<(), poem_hanko::ConfigErrors>(())
    /// ```
    pub fn trusted_origins(&self, public_url: &str) -> Vec<String> {
        let own = Url::parse(public_url)
            .ok()
            .map(|url| url.origin().ascii_serialization());
        let mut origins = self.allowed_origins.clone();
        origins.extend(own.filter(|own| !self.allowed_origins.contains(own)));
        origins
    }
}

pub(super) fn read_host(reader: &mut Reader<'_>) -> IpAddr {
    reader.or("HOST", IpAddr::V4(Ipv4Addr::LOCALHOST), |value| {
        if value == "localhost" {
            return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        value
            .parse()
            .map_err(|_| "is not an IP address such as 127.0.0.1, 0.0.0.0 or ::".to_owned())
    })
}

pub(super) fn read_port(reader: &mut Reader<'_>) -> u16 {
    reader.or("PORT", DEFAULT_PORT, |value| {
        value
            .parse()
            .map_err(|_| "is not a port from 0 to 65535".to_owned())
    })
}

/// Reads `CORS_ALLOWED_ORIGINS`. Empty means none, the same as unset.
fn read_allowed_origins(reader: &mut Reader<'_>) -> Vec<String> {
    const VARIABLE: &str = "CORS_ALLOWED_ORIGINS";
    let value = reader.raw(VARIABLE).unwrap_or_default();
    let mut allowed = Vec::new();
    for origin in origins(&value) {
        match origin {
            Ok(origin) => allowed.push(origin),
            Err(problem) => reader.wrong(VARIABLE, &value, problem),
        }
    }
    allowed
}

pub(super) fn read_public_url(reader: &mut Reader<'_>) -> Option<String> {
    reader.optional("PUBLIC_URL", |value| {
        let problem = || "is not a URL such as https://api.example".to_owned();
        let url = Url::parse(value).map_err(|_| problem())?;
        let is_plain = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !is_plain {
            return Err(problem());
        }
        Ok(url.as_str().trim_end_matches('/').to_owned())
    })
}

/// Reads `SIGN_IN_URL`. It may have a query; the redirect adds its own parameters to it.
fn read_sign_in_url(reader: &mut Reader<'_>) -> Option<String> {
    reader.optional("SIGN_IN_URL", |value| {
        let problem = || {
            "is not an http or https URL without user information and fragment, such as https://app.example/sign-in"
                .to_owned()
        };
        let url = Url::parse(value).map_err(|_| problem())?;
        let is_plain = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none();
        if is_plain {
            Ok(url.into())
        } else {
            Err(problem())
        }
    })
}
