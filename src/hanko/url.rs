//! The URL of a Hanko API and those below it.

use std::{fmt, net::IpAddr};

use url::{Host, Url};

/// A Hanko API: Hanko Cloud's `https://….hanko.io`, or a self-hosted one, whose URL may end in a tenant id.
#[derive(Clone, PartialEq, Eq)]
pub struct HankoUrl {
    /// Always ends in a slash, so that joining keeps its path.
    base: Url,
}

/// Why a URL is not that of a Hanko API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HankoUrlError {
    /// Not an absolute URL with a host.
    #[error("is not an absolute URL such as https://example.hanko.io")]
    NotAUrl,
    /// Neither `https` nor `http`.
    #[error("must start with https://")]
    Scheme,
    /// `http` to a host that is not loopback: whoever sits between could hand us their own keys.
    #[error("uses http to a host that is not loopback")]
    PlainHttp,
    /// User name or password.
    #[error("must hold no user name or password")]
    UserInfo,
    /// A query or a fragment.
    #[error("must have no query or fragment")]
    QueryOrFragment,
}

/// Whether `http` may be used to a host other than loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// Only to `localhost`, `127.0.0.0/8` and `[::1]`.
    #[default]
    LoopbackOnly,
    /// To any host, for instance inside a cluster whose network is trusted.
    Allowed,
}

impl HankoUrl {
    /// Reads the base URL of a Hanko API. It may carry a path and end in a slash or not.
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
        let tenant_is_loopback = is_loopback(&base);
        if base.scheme() == "http" && !tenant_is_loopback && plain_http == PlainHttp::LoopbackOnly {
            return Err(HankoUrlError::PlainHttp);
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Ok(Self { base })
    }

    /// The base URL.
    pub fn url(&self) -> &Url {
        &self.base
    }

    /// `GET` answers the JWK Set (Hanko `backend/handler/well_known.go`).
    pub fn jwks_url(&self) -> Url {
        self.join(".well-known/jwks.json")
    }

    /// `POST` tells whether a session is alive (Hanko `backend/handler/session.go`).
    pub fn validate_session_url(&self) -> Url {
        self.join("sessions/validate")
    }

    /// Whether the API is on this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.base)
    }

    fn join(&self, relative: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{relative}", self.base.path()));
        url
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

/// Returns whether this machine is the host of the URL.
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
    fn refuses(url: &str, expected: HankoUrlError) {
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
    fn plain_http_is_for_loopback_unless_allowed() {
        jwks_url("http://localhost:8001");
        jwks_url("http://127.8.0.1:8001/");
        jwks_url("http://[::1]:8001/");
        refuses("http://hanko.example", HankoUrlError::PlainHttp);
        refuses("http://localhost.example", HankoUrlError::PlainHttp);
        assert!(HankoUrl::parse("http://hanko.example", PlainHttp::Allowed).is_ok());
    }

    #[test]
    fn odd_urls_are_refused() {
        refuses("", HankoUrlError::NotAUrl);
        refuses("x.hanko.io", HankoUrlError::NotAUrl);
        refuses("https://", HankoUrlError::NotAUrl);
        refuses("ftp://x.hanko.io", HankoUrlError::Scheme);
        refuses("file:///etc/passwd", HankoUrlError::Scheme);
        refuses("https://user@x.hanko.io", HankoUrlError::UserInfo);
        refuses("https://:secret@x.hanko.io", HankoUrlError::UserInfo);
        refuses("https://x.hanko.io?a=b", HankoUrlError::QueryOrFragment);
        refuses("https://x.hanko.io#a", HankoUrlError::QueryOrFragment);
    }
}
