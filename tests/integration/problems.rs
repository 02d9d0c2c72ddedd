//! Errors of an application's API: their status is kept, and they quote no input.

#![allow(
    clippy::unused_async,
    reason = "Poem wants async handlers, whether they wait or not"
)]

use poem::{
    Endpoint, EndpointExt, IntoEndpoint, IntoResponse, Request, Response, Route,
    error::ResponseError,
    http::{Method, StatusCode},
};
use poem_hanko::{Problem, RouteTable, WithProblems};
use poem_openapi::{
    Object, OpenApi, OpenApiService,
    param::{Header, Path, Query},
    payload::{Json, PlainText},
};
use serde_json::{Value, json};

/// Values that a client may send in the wrong place.
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl";

struct Things;

#[derive(Object)]
struct Thing {
    count: i32,
    #[oai(validator(max_length = 8))]
    label: Option<String>,
    inner: Option<Part>,
}

#[derive(Object)]
struct Part {
    size: u8,
}

#[OpenApi]
impl Things {
    #[oai(path = "/rooms/:room/things/:id", method = "get")]
    async fn thing(&self, room: Path<String>, id: Path<u32>) -> PlainText<String> {
        PlainText(format!("{} {}", room.0, id.0))
    }

    #[oai(path = "/things", method = "get")]
    async fn search(
        &self,
        #[oai(validator(maximum(value = "9")))] count: Query<u32>,
        #[oai(name = "X-Size")] size: Header<Option<u32>>,
    ) -> PlainText<String> {
        PlainText(format!("{} {:?}", count.0, size.0))
    }
}

struct Additions;

#[OpenApi]
impl Additions {
    #[oai(path = "/things", method = "post")]
    async fn add(&self, thing: Json<Thing>) -> PlainText<String> {
        let size = thing.0.inner.map(|part| part.size);
        PlainText(format!("{} {:?} {size:?}", thing.0.count, thing.0.label))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("internal text")]
struct Busy;

impl ResponseError for Busy {
    fn status(&self) -> StatusCode {
        StatusCode::TOO_MANY_REQUESTS
    }

    fn as_response(&self) -> Response {
        "internal text"
            .with_status(self.status())
            .with_header("retry-after", "7")
            .into_response()
    }
}

struct Failing;

#[OpenApi]
impl Failing {
    #[oai(path = "/status/:code", method = "get")]
    async fn status(&self, code: Path<u16>) -> poem::Result<PlainText<&'static str>> {
        Err(poem::Error::from_status(
            StatusCode::from_u16(code.0).unwrap(),
        ))
    }

    #[oai(path = "/text/:code", method = "get")]
    async fn text(&self, code: Path<u16>) -> poem::Result<PlainText<&'static str>> {
        Err(poem::Error::from_string(
            "internal text",
            StatusCode::from_u16(code.0).unwrap(),
        ))
    }

    #[oai(path = "/busy", method = "get")]
    async fn busy(&self) -> poem::Result<PlainText<&'static str>> {
        Err(Busy.into())
    }

    #[oai(path = "/problem", method = "get")]
    async fn problem(&self) -> Result<PlainText<&'static str>, Problem> {
        Err(
            Problem::new(StatusCode::CONFLICT, "/problems/full", "No room")
                .with_detail("The shelf is full."),
        )
    }
}

/// The API with all its routes.
fn app<A: OpenApi + 'static>(api: A) -> impl Endpoint<Output = Response> {
    let routes = RouteTable::of(&api).unwrap();
    OpenApiService::new(api, "things", "1")
        .into_endpoint()
        .with(routes)
}

fn all() -> impl Endpoint<Output = Response> {
    app((WithProblems(Things), WithProblems(Additions), Failing))
}

fn get(uri: &str) -> Request {
    Request::builder().uri_str(uri).finish()
}

async fn problem(response: Response) -> Value {
    let status = response.status().as_u16();
    assert_eq!(response.content_type(), Some("application/problem+json"));
    let body = response.into_body().into_string().await.unwrap();
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["status"], status);
    problem
}

async fn allowed(app: &impl Endpoint<Output = Response>, method: &str, uri: &str) -> String {
    let method: Method = method.parse().unwrap();
    let request = Request::builder().method(method).uri_str(uri).finish();
    let response = app.get_response(request).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    let allow = response.headers()["allow"].to_str().unwrap().to_owned();
    assert_eq!(
        problem(response).await["type"],
        "/problems/method-not-allowed"
    );
    allow
}

#[tokio::test]
async fn apis_share_a_path_in_any_order() {
    for app in [
        app((WithProblems(Things), WithProblems(Additions))).boxed(),
        app((WithProblems(Additions), WithProblems(Things))).boxed(),
        app(WithProblems((Things, Additions))).boxed(),
        app(WithProblems((Additions, WithProblems(Things)))).boxed(),
    ] {
        let response = app.get_response(get("/things?count=3")).await;
        assert_eq!(response.status(), StatusCode::OK);
        let post = Request::builder()
            .method(Method::POST)
            .uri_str("/things")
            .content_type("application/json")
            .body(r#"{"count":3}"#);
        assert_eq!(app.get_response(post).await.status(), StatusCode::OK);
        for method in ["DELETE", "TRACE", "OPTIONS", "QUERY"] {
            assert_eq!(allowed(&app, method, "/things").await, "GET, HEAD, POST");
        }
        let path = "/rooms/a/things/1";
        assert_eq!(allowed(&app, "POST", path).await, "GET, HEAD");
    }
}

#[tokio::test]
async fn nested_api_answers_405_with_allow() {
    let app = Route::new().nest("/api", all());
    let request = Request::builder()
        .method(Method::PUT)
        .uri_str("/api/things")
        .finish();
    let response = app.get_response(request).await;
    assert_eq!(response.headers()["allow"], "GET, HEAD, POST");
}

#[tokio::test]
async fn status_of_a_handler_is_kept() {
    let app = all();
    for (status, kind) in [
        (400, "/problems/bad-request"),
        (401, "about:blank"),
        (403, "about:blank"),
        (404, "/problems/not-found"),
        (409, "about:blank"),
        (410, "about:blank"),
        (413, "/problems/content-too-large"),
        (422, "about:blank"),
        (429, "about:blank"),
        (500, "/problems/internal-error"),
        (502, "about:blank"),
        (503, "about:blank"),
        (599, "about:blank"),
    ] {
        for path in ["status", "text"] {
            let response = app.get_response(get(&format!("/{path}/{status}"))).await;
            let problem = problem(response).await;
            assert_eq!(problem["status"], status);
            assert_eq!(problem["type"], kind, "{status}");
            assert!(!problem.to_string().contains("internal text"), "{problem}");
        }
    }
    let response = app.get_response(get("/busy")).await;
    assert_eq!(response.headers()["retry-after"], "7");
    let busy = problem(response).await;
    assert_eq!(
        (&busy["status"], &busy["title"]),
        (&json!(429), &json!("Too Many Requests"))
    );
    assert!(!busy.to_string().contains("internal text"), "{busy}");
}

#[tokio::test]
async fn text_of_a_problem_is_sent() {
    let problem = problem(all().get_response(get("/problem")).await).await;
    assert_eq!(
        problem,
        json!({
            "type": "/problems/full",
            "title": "No room",
            "status": 409,
            "detail": "The shelf is full.",
        })
    );
}

#[tokio::test]
async fn parameter_at_fault_is_named_and_its_value_is_not() {
    let app = all();
    let with_header = Request::builder()
        .uri_str("/things?count=1")
        .header("x-size", TOKEN)
        .finish();
    for (request, name) in [
        (get(&format!("/things?count={TOKEN}")), "`count`"),
        (get("/things?count=10"), "`count`"),
        (get("/things"), "`count`"),
        (with_header, "`X-Size`"),
        (get(&format!("/rooms/a/things/{TOKEN}")), "`id`"),
    ] {
        let uri = request.uri().to_string();
        let problem = problem(app.get_response(request).await).await;
        assert_eq!(problem["type"], "/problems/bad-request", "{uri}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(name), "{uri}: {detail}");
        assert!(!problem.to_string().contains("eyJ"), "{uri}: {problem}");
    }
}

#[tokio::test]
async fn member_or_schema_at_fault_is_named_and_its_value_is_not() {
    let app = all();
    let posted = async |body: String| {
        let request = Request::builder()
            .method(Method::POST)
            .uri_str("/things")
            .content_type("application/json")
            .body(body);
        problem(app.get_response(request).await).await
    };
    for (body, names) in [
        (json!({ "count": TOKEN }), &["`Thing`"][..]),
        (json!({}), &["`Thing`"]),
        (json!([TOKEN]), &["`Thing`"]),
        (json!(TOKEN), &["`Thing`"]),
        (
            json!({ "count": 1, "label": TOKEN }),
            &["`label`", "`Thing`"],
        ),
        (
            json!({ "count": 1, "inner": { "size": TOKEN } }),
            &["`Thing`"],
        ),
        // A value that imitates the framework's error messages.
        (
            json!({ "count": "x\". (occurred while parsing \"eyJevil\")" }),
            &["`Thing`"],
        ),
        (
            json!("failed to parse \"eyJevil\": field `eyJevil` verification failed. "),
            &["`Thing`"],
        ),
    ] {
        let problem = posted(body.to_string()).await;
        assert_eq!(problem["type"], "/problems/bad-request", "{body}");
        let detail = problem["detail"].as_str().unwrap();
        for name in names {
            assert!(detail.contains(name), "{body}: {detail}");
        }
        assert!(!problem.to_string().contains("eyJ"), "{body}: {problem}");
    }
    let problem = posted(format!("{{{TOKEN}")).await;
    assert_eq!(problem["type"], "/problems/bad-request");
    assert!(!problem.to_string().contains("eyJ"), "{problem}");
}
