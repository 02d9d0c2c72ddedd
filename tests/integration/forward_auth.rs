//! `/forward-auth`: the response to a proxy about a request that it has not yet passed on.

use std::time::Duration;

use poem_hanko::{
    ManualClock,
    testing::{LocalHanko, Person},
};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{App, Log, START, ada, listen, send};

/// The headers of a request.
type Headers<'a> = &'a [(&'a str, &'a str)];

const SIGN_IN: &str = "https://app.example/sign-in?lang=en";

struct Scene {
    local_hanko: LocalHanko,
    app: App,
}

impl Scene {
    async fn new(variables: &[(&str, &str)]) -> Self {
        let clock = ManualClock::new(START);
        let local_hanko = LocalHanko::builder()
            .clock(std::sync::Arc::new(clock.clone()))
            .start()
            .await
            .unwrap();
        let app = App::start(&local_hanko.url(), &clock, variables);
        app.hanko.wait_for_key_set_fetches(1).await;
        Self { local_hanko, app }
    }

    fn token(&self, person: &Person) -> String {
        self.local_hanko.sign_in(person).token
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let request = headers
            .iter()
            .fold(self.app.request(method, path), |request, (name, value)| {
                request.header(*name, *value)
            });
        send(request).await
    }

    async fn status(&self, path: &str, headers: &[(&str, &str)]) -> u16 {
        self.ask(Method::GET, path, headers).await.status().as_u16()
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

fn location(response: &Response) -> Option<String> {
    header(response, "location").map(ToOwned::to_owned)
}

#[tokio::test]
async fn session_is_named_in_headers_that_are_always_there() {
    let scene = Scene::new(&[]).await;
    let odd = Person::with_email("ädä%40 \"x\"@example.com");
    for (person, address, verified) in [
        (ada(), "ada@example.com", "true"),
        (
            ada().unverified_email("ada@example.com"),
            "ada@example.com",
            "false",
        ),
        (ada().without_email(), "", ""),
        (odd, "%C3%A4d%C3%A4%2540%20\"x\"@example.com", "true"),
    ] {
        let session = scene.local_hanko.sign_in(&person);
        for path in [
            "/forward-auth",
            "/forward-auth/",
            "/forward-auth/any/path?q=1",
        ] {
            let bearer = format!("Bearer {}", session.token);
            let forged = [
                ("authorization", &*bearer),
                ("x-hanko-email", "root@example.com"),
            ];
            let response = scene.ask(Method::GET, path, &forged).await;
            assert_eq!(response.status(), 200, "{path}");
            let expected = [
                ("x-hanko-user-id", session.user_id().to_string()),
                ("x-hanko-session-id", session.session_id().to_string()),
                ("x-hanko-email", address.to_owned()),
                ("x-hanko-email-verified", verified.to_owned()),
            ];
            for (name, value) in expected {
                assert_eq!(header(&response, name), Some(&*value), "{path}: {name}");
            }
            assert_eq!(response.text().await.unwrap(), "");
        }
    }
}

#[tokio::test]
async fn rejections_are_401_and_403_only() {
    let scene = Scene::new(&[]).await;
    let token = scene.token(&ada());
    let bearer = format!("Bearer {token}");
    let expired = format!("Bearer {}", scene.local_hanko.expired_token(&ada()));
    for path in [
        "/forward-auth",
        "/forward-auth/x",
        "/forward-auth/%zz",
        "/forward-auth//x",
    ] {
        assert_eq!(scene.status(path, &[]).await, 401, "{path}");
        assert_eq!(
            scene.status(path, &[("authorization", &expired)]).await,
            401,
            "{path}"
        );
        let several = [("authorization", &*bearer), ("authorization", &*bearer)];
        let response = scene.ask(Method::GET, path, &several).await;
        assert_eq!(response.status(), 403, "{path}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["type"], "/problems/ambiguous-credentials");
        assert_eq!(problem["status"], 403);
    }
    // Neither is below the path.
    assert_eq!(
        scene
            .status("/forward-authx", &[("authorization", &bearer)])
            .await,
        404
    );
}

#[tokio::test]
async fn cors_never_applies() {
    let scene = Scene::new(&[("CORS_ALLOWED_ORIGINS", "https://app.example")]).await;
    let cross = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
        ("x-hanko-user-id", "forged"),
    ];
    for path in ["/forward-auth", "/forward-auth/page"] {
        let response = scene.ask(Method::OPTIONS, path, &cross).await;
        assert_eq!(response.status(), 401, "{path}");
        assert_eq!(header(&response, "access-control-allow-origin"), None);
        assert_eq!(header(&response, "x-hanko-user-id"), None);
    }
    let preflight = scene.ask(Method::OPTIONS, "/protected", &cross).await;
    assert_eq!(
        header(&preflight, "access-control-allow-origin"),
        Some("https://app.example")
    );
}

#[tokio::test]
async fn keys_that_are_unavailable_are_503() {
    let clock = ManualClock::new(START);
    // Nothing listens there.
    let app = App::start("http://127.0.0.1:1", &clock, &[]);
    app.hanko.wait_for_key_set_fetches(1).await;
    let local_hanko = LocalHanko::builder().start().await.unwrap();
    let token = local_hanko.sign_in(&ada()).token;
    let response = app.get_with_bearer("/forward-auth", &token).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

/// Headers of a cookie request, and whether it is accepted on the path itself and below it (by GET).
#[tokio::test]
async fn cookies_need_a_trusted_page_for_unsafe_methods() {
    let scene = Scene::new(&[("CORS_ALLOWED_ORIGINS", "https://app.example")]).await;
    let cookie = format!("hanko={}", scene.token(&ada()));
    let method = "x-forwarded-method";
    let original = "x-original-method";
    let cross: (&str, &str) = ("sec-fetch-site", "cross-site");
    let evil = ("origin", "https://evil.example");
    let rows: [(Headers<'_>, u16); 24] = [
        // Without headers about a page, no other site has made the client send the cookie.
        (&[], 200),
        (&[(method, "POST")], 200),
        // A safe method changes nothing.
        (&[(method, "GET"), cross], 200),
        (&[(original, "GET"), cross], 200),
        (&[(method, "HEAD"), cross, evil], 200),
        (&[(method, "GET"), (original, "GET"), cross], 200),
        // Without a method, it counts as unsafe.
        (&[cross], 403),
        (&[evil], 403),
        (&[(method, "POST"), cross], 403),
        (&[(method, "POST"), evil], 403),
        (&[(method, "DELETE"), (original, "GET"), cross], 403),
        (&[(method, "GET"), (original, "POST"), cross], 403),
        // Not exactly one known method.
        (&[(method, "get"), cross], 403),
        (&[(method, "GET,POST"), cross], 403),
        (&[(method, "GET"), (method, "GET"), cross], 403),
        (&[(method, ""), cross], 403),
        (&[(method, "BREW"), cross], 403),
        // A WebSocket of another site.
        (&[(method, "GET"), ("sec-websocket-key", "x"), cross], 403),
        (
            &[(method, "GET"), ("sec-fetch-mode", "websocket"), evil],
            403,
        ),
        // Trusted pages.
        (&[(method, "POST"), ("sec-fetch-site", "same-origin")], 200),
        (&[(method, "POST"), ("origin", "https://app.example")], 200),
        // The guarded site's own.
        (
            &[
                (method, "POST"),
                ("origin", "https://site.example"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "site.example"),
            ],
            200,
        ),
        (
            &[
                (method, "POST"),
                ("origin", "https://site.example"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "site.example"),
            ],
            403,
        ),
        (
            &[
                (method, "POST"),
                ("origin", "https://site.example"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "site.example"),
                ("x-forwarded-host", "site.example"),
            ],
            403,
        ),
    ];
    for (headers, expected) in rows {
        let mut all = headers.to_vec();
        all.push(("cookie", &cookie));
        assert_eq!(
            scene.status("/forward-auth", &all).await,
            expected,
            "{headers:?}"
        );
    }
    // Bearer tokens are sent by scripts that hold them.
    let bearer = format!("Bearer {}", scene.token(&ada()));
    let response = scene
        .status("/forward-auth", &[("authorization", &bearer), cross])
        .await;
    assert_eq!(response, 200);
}

#[tokio::test]
async fn below_the_path_the_request_is_the_original() {
    let scene = Scene::new(&[]).await;
    let cookie = format!("hanko={}", scene.token(&ada()));
    let cookie = ("cookie", &*cookie);
    for (method, headers, expected) in [
        (Method::GET, &[cookie][..], 200),
        (Method::GET, &[cookie, ("x-forwarded-method", "GET")], 403),
        // Envoy and Gateway API forward neither header unless told to.
        (Method::POST, &[cookie], 403),
        (Method::POST, &[cookie, ("x-forwarded-method", "GET")], 403),
        (
            Method::POST,
            &[cookie, ("sec-fetch-site", "same-origin")],
            200,
        ),
        (
            Method::POST,
            &[cookie, ("sec-fetch-site", "cross-site")],
            403,
        ),
        (Method::GET, &[cookie, ("upgrade", "websocket")], 403),
    ] {
        let response = scene.ask(method.clone(), "/forward-auth/a", headers).await;
        assert_eq!(response.status(), expected, "{method} {headers:?}");
    }
    // Its query is that of the client, so it adds no requirements.
    assert_eq!(
        scene
            .status("/forward-auth/a?nonsense&max_age=0", &[cookie])
            .await,
        200
    );
}

#[tokio::test]
async fn query_requires_more() {
    let scene = Scene::new(&[]).await;
    let person = ada()
        .signed_in_ago(Duration::from_secs(100))
        .claim("role", "admin")
        .claim("a:b", "c&d=e")
        .claim("plus", "1+1")
        .claim("org", json!({ "roles": ["owner", "x y"] }))
        .claim("mixed", json!(["owner", 1]))
        .claim("flag", true);
    let bearer = format!("Bearer {}", scene.token(&person));
    let unverified = format!("Bearer {}", scene.token(&person.unverified_email("a@b.c")));
    for (query, expected) in [
        ("", 200),
        ("verified_email", 200),
        ("max_age=100", 200),
        ("max_age=99", 401),
        ("max_age=99999999999", 200),
        ("claim=role:admin", 200),
        ("claim=role:Admin", 403),
        ("claim=role:adm", 403),
        ("claim=absent:admin", 403),
        ("claim=a%3Ab:c%26d%3De", 200),
        ("claim=plus:1+1", 200),
        ("claim=plus:1%2B1", 200),
        ("claim=/org/roles:owner", 200),
        ("claim=/org/roles:x%20y", 200),
        ("claim=/org/roles:x+y", 403),
        ("claim=/org/roles:own", 403),
        ("claim=mixed:owner", 403),
        ("claim=flag:true", 403),
        (
            "claim=role:admin&claim=/org/roles:owner&verified_email&max_age=200",
            200,
        ),
        ("claim=role:admin&claim=role:user", 403),
        // Invalid queries.
        ("verified_email=", 403),
        ("verified_email=true", 403),
        ("verified_email&verified_email", 403),
        ("max_age=100&max_age=100", 403),
        ("max_age", 403),
        ("max_age=", 403),
        ("max_age=-1", 403),
        ("max_age=+1", 403),
        ("max_age=1e3", 403),
        ("max_age=99999999999999999999999", 403),
        ("claim=role", 403),
        ("claim=:admin", 403),
        ("claim=role:", 403),
        ("claim", 403),
        ("claim=role:%zz", 403),
        ("claim=role:%f", 403),
        ("claim=role:%ff", 403),
        ("claim=role:admin&", 403),
        ("&claim=role:admin", 403),
        ("Claim=role:admin", 403),
        ("page=2", 403),
        ("=", 403),
    ] {
        let path = format!("/forward-auth?{query}");
        assert_eq!(
            scene.status(&path, &[("authorization", &bearer)]).await,
            expected,
            "{query}"
        );
    }
    let path = "/forward-auth?verified_email";
    let response = scene
        .ask(Method::GET, path, &[("authorization", &unverified)])
        .await;
    assert_eq!(response.status(), 403);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["type"], "/problems/insufficient-permission");
    let too_old = scene
        .ask(
            Method::GET,
            "/forward-auth?max_age=9",
            &[("authorization", &bearer)],
        )
        .await;
    assert!(
        header(&too_old, "www-authenticate")
            .unwrap()
            .contains(r#"max_age="9""#)
    );
}

#[tokio::test]
async fn malformed_query_is_logged_once_and_never_quoted() {
    let log = Log::default();
    let _guard = listen(tracing_subscriber::fmt().with_writer(log.clone()).finish());
    let scene = Scene::new(&[]).await;
    let bearer = format!("Bearer {}", scene.token(&ada()));
    for _ in 0..5 {
        let path = "/forward-auth?secret-setting";
        assert_eq!(scene.status(path, &[("authorization", &bearer)]).await, 403);
        let path = "/forward-auth?claim=hidden-name:hidden-value";
        assert_eq!(scene.status(path, &[("authorization", &bearer)]).await, 403);
    }
    let text = log.text();
    assert_eq!(
        text.matches("the query of forward-auth is malformed")
            .count(),
        1,
        "{text}"
    );
    assert!(text.contains("ERROR"));
    assert!(
        !text.contains("secret-setting") && !text.contains("hidden"),
        "{text}"
    );
}

#[tokio::test]
async fn browsers_are_sent_to_sign_in_and_back() {
    let scene = Scene::new(&[("SIGN_IN_URL", SIGN_IN)]).await;
    let navigate = ("sec-fetch-mode", "navigate");
    let site = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "site.example:8443"),
    ];
    let get = ("x-forwarded-method", "GET");
    let back = |url: &str| {
        let encoded: String = url::form_urlencoded::byte_serialize(url.as_bytes()).collect();
        format!("{SIGN_IN}&redirect_to={encoded}")
    };

    // By the headers of Traefik and Caddy.
    let uri = ("x-forwarded-uri", "/a?b=c&d=/e");
    let response = scene
        .ask(
            Method::GET,
            "/forward-auth",
            &[navigate, get, uri, site[0], site[1]],
        )
        .await;
    assert_eq!(response.status(), 302);
    assert_eq!(
        location(&response),
        Some(back("https://site.example:8443/a?b=c&d=/e"))
    );
    // By the path of Envoy.
    let response = scene
        .ask(
            Method::GET,
            "/forward-auth/a?b=c",
            &[navigate, site[0], site[1]],
        )
        .await;
    assert_eq!(response.status(), 302);
    assert_eq!(
        location(&response),
        Some(back("https://site.example:8443/a?b=c"))
    );
    // nginx turns a 302 into 500.
    let nginx = [
        navigate,
        ("x-original-method", "GET"),
        ("x-original-uri", "//x"),
        site[0],
        site[1],
    ];
    let response = scene.ask(Method::GET, "/forward-auth", &nginx).await;
    assert_eq!(response.status(), 401);
    assert_eq!(
        location(&response),
        Some(back("https://site.example:8443//x"))
    );
}

#[tokio::test]
async fn redirect_to_never_leads_to_another_site() {
    let scene = Scene::new(&[("SIGN_IN_URL", SIGN_IN)]).await;
    let navigate = ("sec-fetch-mode", "navigate");
    let site = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "site.example:8443"),
    ];
    let get = ("x-forwarded-method", "GET");
    let uri = ("x-forwarded-uri", "/a?b=c&d=/e");
    // If a part of the URL is missing, there is no `redirect_to`.
    let bare = Some(SIGN_IN.to_owned());
    for headers in [
        &[navigate, get, uri][..],
        &[navigate, get, uri, site[0]],
        &[navigate, get, site[0], site[1]],
        &[
            navigate,
            get,
            ("x-forwarded-uri", "@evil.example/"),
            site[0],
            site[1],
        ],
        &[navigate, get, ("x-forwarded-uri", "evil"), site[0], site[1]],
        &[
            navigate,
            get,
            uri,
            ("x-forwarded-proto", "javascript"),
            site[1],
        ],
        &[
            navigate,
            get,
            uri,
            site[0],
            ("x-forwarded-host", "a@evil.example"),
        ],
        &[
            navigate,
            get,
            uri,
            site[0],
            ("x-forwarded-host", "a.example/x"),
        ],
        &[
            navigate,
            get,
            uri,
            site[0],
            site[1],
            ("x-forwarded-host", "b.example"),
        ],
    ] {
        let response = scene.ask(Method::GET, "/forward-auth", headers).await;
        assert_eq!(response.status(), 302, "{headers:?}");
        assert_eq!(location(&response), bare, "{headers:?}");
    }
}

#[tokio::test]
async fn only_navigation_that_needs_a_sign_in_is_redirected() {
    let scene = Scene::new(&[("SIGN_IN_URL", SIGN_IN)]).await;
    let navigate = ("sec-fetch-mode", "navigate");
    let get = ("x-forwarded-method", "GET");
    let uri = ("x-forwarded-uri", "/a");
    let cross = ("sec-fetch-site", "cross-site");
    let cookie = format!("hanko={}", scene.token(&ada().unverified_email("a@b.c")));
    for (path, headers, status) in [
        ("/forward-auth", &[get, uri][..], 401),
        (
            "/forward-auth",
            &[("sec-fetch-mode", "cors"), get, uri],
            401,
        ),
        (
            "/forward-auth",
            &[navigate, ("x-forwarded-method", "POST"), uri],
            401,
        ),
        ("/forward-auth", &[navigate, uri], 401),
        (
            "/forward-auth",
            &[
                navigate,
                cross,
                ("x-forwarded-method", "POST"),
                ("cookie", &cookie),
            ],
            403,
        ),
        (
            "/forward-auth?verified_email",
            &[navigate, get, ("cookie", &cookie)],
            403,
        ),
    ] {
        let response = scene.ask(Method::GET, path, headers).await;
        assert_eq!(response.status(), status, "{headers:?}");
        assert_eq!(location(&response), None, "{headers:?}");
    }

    // A sign-in that is too old.
    let old = ada().signed_in_ago(Duration::from_secs(100));
    let cookie = format!("hanko={}", scene.token(&old));
    let response = scene
        .ask(
            Method::GET,
            "/forward-auth?max_age=60",
            &[navigate, get, ("cookie", &cookie)],
        )
        .await;
    assert_eq!(location(&response), Some(format!("{SIGN_IN}&max_age=60")));
}
