//! The problem that a rejected client receives: the same however a session is required, with the reason in the challenge and
//! the credential that was examined.

use std::sync::Arc;

use poem::{EndpointExt, Request, get, handler};
use poem_hanko::{
    Guard, HankoAuth, JsonBody, ManualClock, Require, Requirement, VerifiedEmail, require,
    testing::{LocalHanko, Person},
};
use poem_openapi::OpenApi;
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::support::{START, ada, client, config, header, local_hanko, send};

/// The guard of every route: it requires a verified e-mail address.
struct Ours;

impl Guard for Ours {
    const REQUIRES: Requirement = VerifiedEmail::REQUIRES;
}

struct Api;

#[OpenApi]
#[allow(clippy::unused_async, reason = "Poem requires async handlers")]
impl Api {
    #[oai(path = "/extractor", method = "get", operation_id = "getIt")]
    async fn get(&self, _auth: HankoAuth<Ours>) -> JsonBody<String> {
        JsonBody("welcome".to_owned())
    }

    #[oai(path = "/extractor", method = "post", operation_id = "postIt")]
    async fn post(&self, _auth: HankoAuth<Ours>) -> JsonBody<String> {
        JsonBody("welcome".to_owned())
    }
}

#[handler]
async fn by_function(request: &Request) -> poem::Result<&'static str> {
    require::<Ours>(request).await?;
    Ok("welcome")
}

#[handler]
fn welcome() -> &'static str {
    "welcome"
}

struct Scene {
    local_hanko: LocalHanko,
    address: std::net::SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Scene {
    async fn new() -> Self {
        let clock = ManualClock::new(START);
        let local_hanko = local_hanko(&clock).await;
        let mut config = config(&[("HANKO_COOKIE_NAME", "sid")]);
        config.hanko.url = Some(local_hanko.hanko_url());
        let server = poem_hanko::App::new(Api, "rejections", "1.0")
            .at("/function", get(by_function).post(by_function))
            .at(
                "/middleware",
                get(welcome).post(welcome).with(Require::<Ours>::new()),
            )
            .clock(Arc::new(clock))
            .bind(config)
            .await
            .unwrap();
        server.hanko().wait_for_key_set_fetches(1).await;
        let address = server.address();
        local_hanko.send_webhooks_to(format!("http://{address}/webhooks/hanko"));
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(server.run(async move {
            let _dropped = stopped.await;
        }));
        Self {
            local_hanko,
            address,
            _stop: stop,
        }
    }

    async fn ask(&self, method: &Method, path: &str, headers: &[(&str, String)]) -> Response {
        let url = format!("http://{}{path}", self.address);
        let request = client().request(method.clone(), url);
        let with_headers = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, value)
        });
        send(with_headers).await
    }
}

/// The credentials of a request, and its rejection.
struct Row {
    method: Method,
    headers: Vec<(&'static str, String)>,
    status: u16,
    /// The `error_description` of the challenge.
    challenge: Option<&'static str>,
    detail: &'static str,
}

async fn rows(local_hanko: &LocalHanko) -> Vec<Row> {
    let bearer = |token: &str| vec![("authorization", format!("Bearer {token}"))];
    let cookie = |token: &str| vec![("cookie", format!("sid={token}"))];
    let row = |headers, status, challenge, detail| Row {
        method: Method::GET,
        headers,
        status,
        challenge,
        detail,
    };
    let valid = local_hanko.sign_in(&ada()).token;
    let expired = local_hanko.expired_token(&ada());
    let ended = local_hanko.sign_in(&ada());
    local_hanko.end_session(&ended).await.unwrap().unwrap();
    let unverified = Person::default().unverified_email("eve@example.com");
    let unverified = local_hanko.sign_in(&unverified).token;
    vec![
        row(
            vec![],
            401,
            None,
            "No credentials were sent, neither a Bearer token nor the cookie `sid`.",
        ),
        row(
            bearer("x"),
            401,
            Some("the token is not a compact JWS"),
            "The token is not a compact JWS. The Bearer token was examined.",
        ),
        row(
            cookie(&expired),
            401,
            Some("the token has expired"),
            "The token has expired. The cookie `sid` was examined.",
        ),
        // The cookie would be accepted.
        row(
            [bearer(&expired), cookie(&valid)].concat(),
            401,
            Some("the token has expired"),
            "The token has expired. The Bearer token was examined.",
        ),
        row(
            bearer(&ended.token),
            401,
            Some("the session has ended"),
            "The session has ended. The Bearer token was examined.",
        ),
        row(
            cookie(&ended.token),
            401,
            Some("the session has ended"),
            "The session has ended. The cookie `sid` was examined.",
        ),
        row(
            [bearer(&valid), bearer(&valid)].concat(),
            400,
            Some("several credentials were sent"),
            "Several credentials were sent: there is more than one `Authorization` header.",
        ),
        row(
            vec![("cookie", format!("sid={valid}; sid={valid}"))],
            400,
            Some("several credentials were sent"),
            "Several credentials were sent: there is more than one cookie `sid`.",
        ),
        Row {
            method: Method::POST,
            ..row(
                [
                    cookie(&valid),
                    vec![("origin", "https://other.example".to_owned())],
                ]
                .concat(),
                403,
                None,
                "The cookie `sid` is accepted with this request only from a trusted origin.",
            )
        },
        row(
            bearer(&unverified),
            403,
            Some("requires a verified e-mail address"),
            "Requires a verified e-mail address. The Bearer token was examined.",
        ),
        row(
            cookie(&unverified),
            403,
            Some("requires a verified e-mail address"),
            "Requires a verified e-mail address. The cookie `sid` was examined.",
        ),
    ]
}

#[tokio::test]
async fn rejections_say_the_same_by_each_way_to_require_a_session() {
    let scene = Scene::new().await;
    for row in rows(&scene.local_hanko).await {
        for way in [
            "/extractor",
            "/function",
            "/middleware",
            "/forward-auth?verified_email",
        ] {
            let case = format!("{way}: {}", row.detail);
            let is_proxy = way.starts_with("/forward-auth");
            let mut headers = row.headers.clone();
            if is_proxy {
                headers.push(("x-forwarded-method", row.method.to_string()));
                headers.push(("x-forwarded-uri", "/".to_owned()));
            }
            let response = scene.ask(&row.method, way, &headers).await;
            // Proxies do not handle 400.
            let is_translated = is_proxy && row.status == 400;
            let status = if is_translated { 403 } else { row.status };
            assert_eq!(response.status(), status, "{case}");
            if !is_translated {
                let challenge = header(&response, "www-authenticate");
                let description = challenge.as_deref().and_then(|challenge| {
                    let (_, rest) = challenge.split_once("error_description=\"")?;
                    rest.split('"').next()
                });
                assert_eq!(description, row.challenge, "{case}");
            }
            let problem: Value = response.json().await.unwrap();
            assert_eq!(problem["detail"], row.detail, "{case}");
            assert_eq!(problem["status"], status, "{case}");
        }
    }
}
