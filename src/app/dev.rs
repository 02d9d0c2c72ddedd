//! The page of `poem-hanko dev` that signs a made-up person in at the local Hanko, and ends the session.

use std::{collections::HashMap, sync::Arc, time::Duration};

use poem::{
    Body, Request, Response, Result, get, handler,
    http::{HeaderValue, Method, StatusCode, header},
    post,
    web::{Data, Html},
};
use poem::{EndpointExt, IntoResponse};
use poem_openapi::registry::{MetaApi, MetaOperation};
use url::form_urlencoded;

use crate::{
    auth::{BEARER_SCHEME, Rejection, authenticate, comes_from_trusted_page},
    edge::Pages,
    hanko::Hanko,
    openapi::swagger_ui::escape,
    problem::{Problem, ProblemType, Unavailable, allowing},
    testing::{LocalHanko, Person, SESSION_LIFESPAN},
};

/// Where the page is.
pub(super) const SIGN_IN_PATH: &str = "/dev/sign-in";

/// The form has two short fields.
const MAX_FORM_BYTES: usize = 4 * 1024;
/// The longest address that can receive mail (RFC 5321 section 4.5.3.1.3), and long enough for a user name.
const MAX_FIELD_BYTES: usize = 254;

const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; \
    base-uri 'none'; frame-ancestors 'none'";

/// Where the form goes that ends the session.
const END_SESSION_PATH: &str = "/dev/end-session";

/// Where the form leads to.
#[derive(Clone, Copy)]
struct NextPage(&'static str);

pub(super) fn add_pages(pages: Pages, local_hanko: Arc<LocalHanko>, has_docs: bool) -> Pages {
    let next_page = NextPage(if has_docs { "../docs" } else { "sign-in" });
    pages
        .at(
            SIGN_IN_PATH,
            allowing("GET, HEAD, POST", get(sign_in_page).post(sign_in))
                .data(Arc::clone(&local_hanko))
                .data(next_page),
        )
        .at(
            END_SESSION_PATH,
            allowing("POST", post(end_session)).data(local_hanko),
        )
}

/// An operation that a session is enough for, to be tried by hand.
pub(super) struct ExampleRequest {
    method: Method,
    path: String,
}

impl ExampleRequest {
    /// Returns the first operation that requires a session and nothing else: a GET if there is one.
    pub(super) fn find(apis: &[MetaApi]) -> Option<Self> {
        let mut candidates: Vec<Self> = apis
            .iter()
            .flat_map(|api| &api.paths)
            .flat_map(|path| {
                path.operations
                    .iter()
                    .filter(|operation| requires_only_session(operation))
                    .map(|operation| Self {
                        method: operation.method.clone(),
                        path: path.path.clone(),
                    })
            })
            .collect();
        candidates.sort_by_key(|candidate| candidate.method != Method::GET);
        candidates.into_iter().next()
    }

    /// Returns a command that works as pasted.
    pub(super) fn curl(&self, api: &str, token: &str) -> String {
        let method = match self.method {
            Method::GET => String::new(),
            ref other => format!("-X {other} "),
        };
        format!(
            "curl {method}-H 'Authorization: Bearer {token}' {api}{}",
            self.path
        )
    }
}

fn requires_only_session(operation: &MetaOperation) -> bool {
    let has_scheme = operation
        .security
        .iter()
        .any(|alternative| alternative.contains_key(BEARER_SCHEME));
    let is_optional = operation.security.iter().any(HashMap::is_empty);
    let needs_more = operation.params.iter().any(|parameter| parameter.required)
        || operation.request.as_ref().is_some_and(|body| body.required);
    has_scheme && !is_optional && !needs_more
}

#[handler]
async fn sign_in_page(request: &Request) -> Response {
    // A token that is not good any more is as good as none here.
    let session = authenticate(request).await.ok().flatten();
    let status = session.map_or_else(String::new, |session| {
        let name = session.email().map_or_else(
            || session.user_id().to_string(),
            |email| email.address.clone(),
        );
        include_str!("dev/signed_in.html").replace("{name}", &escape(&name))
    });
    let page = include_str!("dev/sign_in.html").replace("{status}", &status);
    Html(page)
        .with_header(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY)
        .into_response()
}

/// Ends the session at the local Hanko, which tells the API by webhook, as Hanko would. The cookie stays, so that it can
/// be seen that the token is refused.
#[handler]
async fn end_session(request: &Request, local_hanko: Data<&Arc<LocalHanko>>) -> Result<Response> {
    let session = authenticate(request)
        .await?
        .ok_or(Rejection::MissingCredentials)?;
    local_hanko
        .end_session(session.id().as_uuid())
        .await
        .map_err(|error| {
            tracing::warn!(event = "webhook_not_delivered", %error, "the webhook was not delivered");
            Unavailable::from(Duration::from_secs(1))
        })?;
    Ok(see_other("sign-in"))
}

fn see_other(location: &'static str) -> Response {
    Response::builder()
        .status(StatusCode::SEE_OTHER)
        .header(header::LOCATION, location)
        .finish()
}

#[handler]
async fn sign_in(
    request: &Request,
    body: Body,
    hanko: Data<&Hanko>,
    local_hanko: Data<&Arc<LocalHanko>>,
    next_page: Data<&NextPage>,
) -> Result<Response> {
    if !comes_from_trusted_page(request.headers(), &hanko) {
        return Err(Rejection::CrossSiteRequest.into());
    }
    let form = body.into_bytes_limit(MAX_FORM_BYTES).await?;
    let person = match read_person(&form) {
        Ok(person) => person,
        Err(detail) => {
            return Ok(Problem::from(ProblemType::BAD_REQUEST)
                .with_detail(detail)
                .into_response());
        }
    };
    let session = local_hanko.sign_in(&person);
    // As Hanko's frontend SDK sets it: for the whole host, and within reach of scripts.
    let cookie = format!(
        "{}={}; Path=/; Max-Age={}; SameSite=Lax",
        hanko.cookie_name(),
        session.token,
        SESSION_LIFESPAN.as_secs()
    );
    let cookie = HeaderValue::try_from(cookie).map_err(poem::error::InternalServerError)?;
    let mut response = see_other(next_page.0.0);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

fn read_person(form: &[u8]) -> Result<Person, &'static str> {
    let field = |name: &str| {
        form_urlencoded::parse(form)
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    };
    let is_plain =
        |value: &str| value.len() <= MAX_FIELD_BYTES && !value.chars().any(char::is_control);

    let email = field("email").ok_or("An e-mail address is needed.")?;
    let has_both_sides = email
        .rsplit_once('@')
        .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if !has_both_sides || !is_plain(&email) || email.contains(char::is_whitespace) {
        return Err("This is not an e-mail address.");
    }
    let username = field("username");
    if !username.as_deref().is_none_or(is_plain) {
        return Err("The user name is too long.");
    }
    let person = Person::with_email(email);
    Ok(match username {
        Some(username) => person.username(username),
        None => person,
    })
}
