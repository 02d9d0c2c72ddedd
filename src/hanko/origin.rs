//! Origins of web pages (RFC 6454).

use url::Url;

/// Returns whether this is the origin of a page served over `http` by this machine, on any port.
pub(crate) fn is_loopback_origin(origin: &str) -> bool {
    Url::parse(origin).is_ok_and(|url| {
        url.scheme() == "http"
            && matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
            // Otherwise the text has more than an origin, or is not written as browsers write it.
            && url.origin().ascii_serialization() == origin
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_origins_are_exact() {
        for origin in [
            "http://localhost",
            "http://localhost:3000",
            "http://127.0.0.1:5173",
            "http://[::1]:8080",
        ] {
            assert!(is_loopback_origin(origin), "{origin}");
        }
        for origin in [
            "null",
            "",
            "localhost:3000",
            "https://localhost:3000",
            "http://localhost:3000/",
            "http://localhost:80",
            "http://LOCALHOST:3000",
            "http://user@localhost:3000",
            "http://localhost.example:3000",
            "http://app.localhost:3000",
            "http://127.0.0.2:3000",
            "http://127.1:3000",
            "http://0.0.0.0:3000",
            "http://192.0.2.7:3000",
        ] {
            assert!(!is_loopback_origin(origin), "{origin}");
        }
    }
}
