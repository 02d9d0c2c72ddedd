//! The URL of a Hanko API, and the URLs of its endpoints.

use std::{fmt, net::IpAddr, str::FromStr};

use url::{Host, Url};

/// The URL of a Hanko API: `https://….hanko.io` in Hanko Cloud, or the URL of a self-hosted Hanko, which may have a path
/// with a tenant id.
///
/// ```
/// use poem_hanko::{HankoUrl, HankoUrlError, PlainHttp};
///
/// let url: HankoUrl = "https://f4ee0000-0000-4000-8000-000000000000.hanko.io".parse()?;
/// assert_eq!(url.as_str(), "https://f4ee0000-0000-4000-8000-000000000000.hanko.io/");
/// assert_eq!("http://hanko:8000".parse::<HankoUrl>(), Err(HankoUrlError::PlainHttp));
/// assert!(HankoUrl::parse("http://hanko:8000", PlainHttp::Allowed).is_ok());
/// # Ok::<(), HankoUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HankoUrl {
    /// Always ends in a slash, so that joining keeps its path.
    base: Url,
}

/// Why a text is not accepted as the URL of a Hanko API.
///
/// ```
/// use poem_hanko::{HankoUrl, HankoUrlError};
///
/// fn hanko_url(text: &str) -> Result<HankoUrl, String> {
///     text.parse().map_err(|error| match error {
///         HankoUrlError::PlainHttp => "HANKO_API_URL must start with https://".to_owned(),
///         other => format!("HANKO_API_URL {other}"),
///     })
/// }
/// # assert!(hanko_url("https://hanko.example.com").is_ok());
/// # assert!(hanko_url("http://hanko.example.com").unwrap_err().ends_with("https://"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HankoUrlError {
    /// The text is not an absolute URL with a host.
    #[error("is not an absolute URL such as https://example.hanko.io")]
    NotAUrl,
    /// The scheme is neither `https` nor `http`.
    #[error("must start with https://")]
    Scheme,
    /// The scheme is `http` and the host is not loopback, so anybody on the network path could replace the keys.
    #[error("uses http to a host that is not loopback")]
    PlainHttp,
    /// The URL contains a user name or a password.
    #[error("must contain no user name or password")]
    UserInfo,
    /// The URL contains a query or a fragment.
    #[error("must have no query or fragment")]
    QueryOrFragment,
}

/// Whether `http` may be used to a host other than loopback.
///
/// ```
/// use poem_hanko::{HankoUrl, PlainHttp};
///
/// // A service of the same cluster.
/// let url = HankoUrl::parse("http://hanko.internal:8000", PlainHttp::Allowed)?;
/// assert!(!url.is_loopback());
/// # Ok::<(), poem_hanko::HankoUrlError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// Only to `localhost`, `127.0.0.0/8` and `[::1]`.
    #[default]
    LoopbackOnly,
    /// To any host, for example inside a cluster with a trusted network.
    Allowed,
}

impl HankoUrl {
    /// Parses the base URL of a Hanko API. It may have a path, and may end in a slash. The [`FromStr`] implementation does
    /// the same with [`PlainHttp::LoopbackOnly`].
    ///
    /// ```
    /// use poem_hanko::{HankoUrl, PlainHttp};
    ///
    /// let url = HankoUrl::parse("http://hanko:8000", PlainHttp::Allowed)?;
    /// assert!(HankoUrl::parse("http://hanko:8000", PlainHttp::LoopbackOnly).is_err());
    /// # Ok::<(), poem_hanko::HankoUrlError>(())
    /// ```
    ///
    /// # Errors
    /// [`HankoUrlError`], which never repeats the URL.
    pub fn parse(url: &str, plain_http: PlainHttp) -> Result<Self, HankoUrlError> {
        let mut base = Url::parse(url.trim()).map_err(|_| HankoUrlError::NotAUrl)?;
        if !matches!(base.scheme(), "https" | "http") {
            return Err(HankoUrlError::Scheme);
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(HankoUrlError::UserInfo);
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(HankoUrlError::QueryOrFragment);
        }
        let host_is_loopback = is_loopback(&base);
        if base.scheme() == "http" && !host_is_loopback && plain_http == PlainHttp::LoopbackOnly {
            return Err(HankoUrlError::PlainHttp);
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Ok(Self { base })
    }

    /// Returns the URL as text. It always ends in a slash.
    ///
    /// ```
    /// use poem_hanko::HankoUrl;
    ///
    /// let url: HankoUrl = "https://hanko.example.com/tenant".parse()?;
    /// assert_eq!(url.as_str(), "https://hanko.example.com/tenant/");
    /// # Ok::<(), poem_hanko::HankoUrlError>(())
    /// ```
    pub fn as_str(&self) -> &str {
        self.base.as_str()
    }

    /// Returns whether the scheme is `http`.
    pub(crate) fn is_http(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// Returns the URL of the JWK Set (Hanko `backend/handler/well_known.go`).
    pub(crate) fn jwks_url(&self) -> Url {
        self.join(".well-known/jwks.json")
    }

    /// Returns the URL that validates a session (Hanko `backend/handler/session.go`).
    pub(crate) fn validate_session_url(&self) -> Url {
        self.join("sessions/validate")
    }

    /// Returns whether the API is on this machine.
    ///
    /// ```
    /// use poem_hanko::HankoUrl;
    ///
    /// let url: HankoUrl = "http://localhost:8000".parse()?;
    /// assert!(url.is_loopback());
    /// # Ok::<(), poem_hanko::HankoUrlError>(())
    /// ```
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.base)
    }

    fn join(&self, relative: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{relative}", self.base.path()));
        url
    }
}

impl FromStr for HankoUrl {
    type Err = HankoUrlError;

    /// Parses an `https` URL, or an `http` URL whose host is loopback.
    fn from_str(url: &str) -> Result<Self, HankoUrlError> {
        Self::parse(url, PlainHttp::LoopbackOnly)
    }
}

impl fmt::Debug for HankoUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HankoUrl({})", self.base)
    }
}

impl fmt::Display for HankoUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.base.fmt(formatter)
    }
}

/// Returns whether the host of the URL is loopback.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(domain)) => domain == "localhost" || domain.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn jwks_url(url: &str) -> String {
        HankoUrl::parse(url, PlainHttp::LoopbackOnly)
            .unwrap()
            .jwks_url()
            .to_string()
    }

    #[track_caller]
    fn rejects(url: &str, expected: HankoUrlError) {
        assert_eq!(
            HankoUrl::parse(url, PlainHttp::LoopbackOnly),
            Err(expected),
            "{url}"
        );
    }

    #[test]
    fn a_path_is_kept_with_and_without_trailing_slash() {
        let expected = "https://hanko.example/tenant-1/.well-known/jwks.json";
        assert_eq!(jwks_url("https://hanko.example/tenant-1"), expected);
        assert_eq!(jwks_url("https://hanko.example/tenant-1/"), expected);
        assert_eq!(
            jwks_url("https://x.hanko.io"),
            "https://x.hanko.io/.well-known/jwks.json"
        );
    }

    #[test]
    fn from_str_allows_plain_http_to_loopback_only() {
        let url: HankoUrl = "http://localhost:8001/tenant".parse().unwrap();
        assert_eq!(url.as_str(), "http://localhost:8001/tenant/");
        assert_eq!(url.to_string(), url.as_str());
        assert_eq!(
            "http://hanko.example".parse::<HankoUrl>(),
            Err(HankoUrlError::PlainHttp)
        );
    }

    #[test]
    fn plain_http_is_for_loopback_unless_allowed() {
        jwks_url("http://localhost:8001");
        jwks_url("http://127.8.0.1:8001/");
        jwks_url("http://[::1]:8001/");
        rejects("http://hanko.example", HankoUrlError::PlainHttp);
        rejects("http://localhost.example", HankoUrlError::PlainHttp);
        assert!(HankoUrl::parse("http://hanko.example", PlainHttp::Allowed).is_ok());
    }

    #[test]
    fn urls_with_more_than_a_base_are_rejected() {
        rejects("", HankoUrlError::NotAUrl);
        rejects("x.hanko.io", HankoUrlError::NotAUrl);
        rejects("https://", HankoUrlError::NotAUrl);
        rejects("ftp://x.hanko.io", HankoUrlError::Scheme);
        rejects("file:///etc/passwd", HankoUrlError::Scheme);
        rejects("https://user@x.hanko.io", HankoUrlError::UserInfo);
        rejects("https://:secret@x.hanko.io", HankoUrlError::UserInfo);
        rejects("https://x.hanko.io?a=b", HankoUrlError::QueryOrFragment);
        rejects("https://x.hanko.io#a", HankoUrlError::QueryOrFragment);
    }
}
