//! Serves Swagger UI and the OpenAPI document: without any other server, compressed, and with headers for caches.

mod session;

use std::io::Write;

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use flate2::{Compression, write::GzEncoder};
use headers::{ETag, HeaderMapExt, IfNoneMatch};
use hyper::body::Bytes;
use poem::{
    Endpoint, Request, Response, Result,
    endpoint::make_sync,
    get,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use url::Url;

use crate::{
    auth::COOKIE_SCHEME,
    edge::{
        Pages,
        html::{STYLE, escape, fill},
    },
    hanko::DEFAULT_COOKIE_NAME,
    openapi::{Document, DocumentFormat, headers::ROOT_LINK},
    problem::allowing,
};
use session::SessionStatus;

/// A file of Swagger UI, unpacked and compressed when the program was built.
macro_rules! swagger_ui_file {
    ($name:literal) => {
        Asset {
            content: Bytes::from_static(include_bytes!(concat!(env!("OUT_DIR"), "/", $name))),
            gzip: Bytes::from_static(include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz"))),
        }
    };
}

/// Where people sign in and out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SignInPlace<'a> {
    /// On a page of this server, at a path without a leading slash.
    Here(&'a str),
    /// In the application, at this URL if it is known.
    Application(Option<&'a str>),
}

impl Document {
    /// Returns the pages `/docs…` (Swagger UI), `/openapi.json` and `/openapi.yaml` of this document.
    ///
    /// ```
    /// use poem::{Endpoint, EndpointExt, Route};
    /// use poem_hanko::{Document, Edge, Hanko, MeApi, WithProblems};
    /// use poem_openapi::OpenApiService;
    ///
    /// fn app(hanko: &Hanko) -> impl Endpoint {
    ///     let service = OpenApiService::new(WithProblems(MeApi), "hello", "1.0");
    ///     let pages = Document::new(&service, hanko).pages();
    ///     Route::new().nest("/api", service).with(pages).with(Edge::new(hanko))
    /// }
    /// ```
    pub fn pages(&self) -> Pages {
        self.pages_of(SignInPlace::Application(None))
    }

    /// Returns the same pages, and one for browsers at `/` if the API has the operation `GET /`.
    pub(crate) fn pages_of(&self, sign_in: SignInPlace<'_>) -> Pages {
        let bundle = StaticFile::immutable(
            "text/javascript; charset=utf-8",
            swagger_ui_file!("swagger-ui-bundle.js"),
        );
        let style = StaticFile::immutable(
            "text/css; charset=utf-8",
            swagger_ui_file!("swagger-ui.css"),
        );
        let start = StaticFile::immutable(
            "text/javascript; charset=utf-8",
            Asset::new(include_str!("swagger_ui/start.js")),
        );
        let bundle_path = format!("docs/{}.js", bundle.name());
        let style_path = format!("docs/{}.css", style.name());
        let start_path = format!("docs/{}.js", start.name());
        let title = escape(self.title());
        let cookie = escape(self.cookie_name());
        let page = fill(include_str!("swagger_ui/page.html"), |name| match name {
            "title" => title.as_str().into(),
            "page_style" => include_str!("swagger_ui/page.css").into(),
            "bundle" => bundle_path.as_str().into(),
            "start" => start_path.as_str().into(),
            "style" => style_path.as_str().into(),
            "cookie" => cookie.as_str().into(),
            _ => sign_in.sentence().into(),
        });
        let mut page = StaticFile::revalidated("text/html; charset=utf-8", Asset::new(page));
        page.headers.insert(
            header::CONTENT_SECURITY_POLICY,
            content_security_policy(self.server_url()),
        );
        let json = Asset::new(self.to_text(DocumentFormat::Json));
        let yaml = Asset::new(self.to_text(DocumentFormat::Yaml));

        let pages = Pages::default()
            .at("/docs", file(page))
            .at("/docs/session", allowing("GET, HEAD", get(SessionStatus)))
            .at(
                "/docs/",
                allowing("GET, HEAD", get(make_sync(|_| redirect("../docs")))),
            )
            .at(format!("/{bundle_path}"), file(bundle))
            .at(format!("/{style_path}"), file(style))
            .at(format!("/{start_path}"), file(start))
            .at(
                "/openapi.json",
                file(StaticFile::revalidated("application/json", json)),
            )
            .at(
                "/openapi.yaml",
                file(StaticFile::revalidated("application/yaml", yaml)),
            );
        if self.as_json().pointer("/paths/~1/get").is_none() {
            return pages;
        }
        let root = fill(include_str!("swagger_ui/root.html"), |name| match name {
            "title" => title.as_str().into(),
            "style" => STYLE.into(),
            _ => sign_in.list_item().into(),
        });
        let root = make_sync(move |_| {
            Response::builder()
                .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
                .header(header::CONTENT_SECURITY_POLICY, ROOT_SECURITY_POLICY)
                .body(root.clone())
        });
        pages.with_root(get(root), HeaderValue::from_static(ROOT_LINK))
    }

    /// Returns the name of the session cookie. The document lacks it if no operation is protected.
    fn cookie_name(&self) -> &str {
        let scheme = &self.as_json()["components"]["securitySchemes"][COOKIE_SCHEME];
        scheme["name"].as_str().unwrap_or(DEFAULT_COOKIE_NAME)
    }
}

const ROOT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; \
     frame-ancestors 'none'",
);

impl SignInPlace<'_> {
    /// Returns the link to sign in and out, or the text that replaces it, as HTML.
    fn sentence(self) -> String {
        match self {
            Self::Here(path) => format!(r#"<a href="{}">Sign in or out</a>"#, escape(path)),
            Self::Application(Some(url)) => {
                let url = escape(url);
                format!(
                    r#"The cookie comes from your application. Sign in and out at <a href="{url}">{url}</a>."#
                )
            }
            Self::Application(None) => {
                "The cookie comes from your application: sign in and out there.".to_owned()
            }
        }
    }

    /// Returns an item with this link for the list at `/`, or an empty string if there is no URL.
    fn list_item(self) -> String {
        let (Self::Here(url) | Self::Application(Some(url))) = self else {
            return String::new();
        };
        let url = escape(url);
        format!(
            r#"<li><a href="{url}">Sign in or out</a> <span>Sets the session cookie of this browser.</span></li>"#
        )
    }
}

fn file(file: StaticFile) -> impl Endpoint {
    allowing("GET, HEAD", get(file))
}

fn redirect(location: &'static str) -> Response {
    Response::builder()
        .status(StatusCode::PERMANENT_REDIRECT)
        .header(header::LOCATION, location)
        .finish()
}

/// Allows only our own scripts to run. Swagger UI sets styles from its scripts, and has its images in `data:` URLs.
fn content_security_policy(public_url: &str) -> HeaderValue {
    let api = Url::parse(public_url)
        .map(|url| url.origin().ascii_serialization())
        .unwrap_or_default();
    HeaderValue::try_from(format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
         connect-src 'self' {api}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ))
    .unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

struct Asset {
    content: Bytes,
    gzip: Bytes,
}

impl Asset {
    fn new(content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let gzip = encoder
            .write_all(&content)
            .and_then(|()| encoder.finish())
            .expect("writing to memory cannot fail");
        Self {
            content,
            gzip: gzip.into(),
        }
    }
}

/// Content that never changes while the program runs.
struct StaticFile {
    content: Bytes,
    gzip: Bytes,
    digest: String,
    etag: ETag,
    headers: HeaderMap,
}

impl StaticFile {
    /// A file whose path changes with its content.
    fn immutable(content_type: &'static str, asset: Asset) -> Self {
        Self::new(content_type, "public, max-age=31536000, immutable", asset)
    }

    /// A file that a browser caches and revalidates before each use.
    fn revalidated(content_type: &'static str, asset: Asset) -> Self {
        Self::new(content_type, "no-cache", asset)
    }

    fn new(content_type: &'static str, cache_control: &'static str, asset: Asset) -> Self {
        let digest = digest::digest(&digest::SHA256, &asset.content);
        let digest = BASE64_URL_SAFE_NO_PAD.encode(&digest.as_ref()[..12]);
        // Weak, because the compressed form has other bytes (RFC 9110 section 8.8.1).
        let etag: ETag = format!("W/\"{digest}\"")
            .parse()
            .expect("base64url is a well-formed entity tag");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static(cache_control),
        );
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        headers.typed_insert(etag.clone());
        Self {
            content: asset.content,
            gzip: asset.gzip,
            digest,
            etag,
            headers,
        }
    }

    /// Returns a file name without extension that changes with the content.
    fn name(&self) -> &str {
        &self.digest
    }
}

impl Endpoint for StaticFile {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let is_known = request
            .headers()
            .typed_get::<IfNoneMatch>()
            .is_some_and(|known| !known.precondition_passes(&self.etag));
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into()
        } else if accepts_gzip(request.headers()) {
            Response::builder()
                .header(header::CONTENT_ENCODING, "gzip")
                .body(self.gzip.clone())
        } else {
            Response::builder().body(self.content.clone())
        };
        response.headers_mut().extend(self.headers.clone());
        Ok(response)
    }
}

/// Whether `Accept-Encoding` names gzip and does not exclude it (RFC 9110 section 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|coding| {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            name.trim()
                .eq_ignore_ascii_case("gzip")
                .then(|| parameters.trim().trim_start_matches("q=").parse().ok())
        })
        .any(|weight: Option<f32>| weight != Some(0.0))
}

#[cfg(test)]
mod tests {
    use poem::endpoint::DynEndpoint;
    use poem_openapi::OpenApiService;

    use super::*;

    #[tokio::test]
    async fn page_escapes_title() {
        let title = "A&B's </title><script>alert(\"1\")</script>";
        let service = OpenApiService::new((), title, "1.0").server("http://localhost:8000");
        let pages = Document::of_text(&service.spec(), "hanko").pages();
        let request = Request::builder()
            .uri("/docs".parse().expect("a URI"))
            .finish();
        let (_, page) = pages.get("/docs").expect("a page");
        let response = DynEndpoint::call(page, request).await.expect("a response");
        let page = response.into_body().into_string().await.expect("text");
        let titled = "<title>A&amp;B&#39;s &lt;/title&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;</title>";
        assert!(page.contains(titled), "{page}");
    }
}
