//! The page of `dev` that signs a fictional user in at the local Hanko, and ends the session.

mod form;
mod page;

use std::{collections::HashMap, sync::Arc, time::Duration};

use poem::{
    Body, EndpointExt, Request, Response, Result, get, handler,
    http::{HeaderValue, Method, StatusCode, header},
    post,
    web::Data,
};
use poem_openapi::registry::{MetaApi, MetaOperation};
use url::form_urlencoded;

use self::{
    form::{Form, Mistake},
    page::SignInPage,
};
use crate::{
    auth::{BEARER_SCHEME, Rejection, authenticate, comes_from_trusted_page},
    edge::{Pages, html::accepts_html},
    hanko::{Hanko, Session},
    problem::{Problem, ProblemType, Unavailable, allowing},
    testing::{LocalHanko, SESSION_LIFESPAN},
};

/// The path of the sign-in page.
pub(super) const SIGN_IN_PATH: &str = "/dev/sign-in";

/// Enough for the claims of the largest cookie, percent-encoded, and the other fields.
const MAX_FORM_BYTES: usize = 16 * 1024;
/// The largest cookie, name and value together, that browsers store (RFC 6265bis section 5.6).
const MAX_COOKIE_BYTES: usize = 4096;

/// The path that receives the form that ends the session.
const END_SESSION_PATH: &str = "/dev/end-session";

/// The state that the pages share.
#[derive(Clone)]
struct DevState {
    local_hanko: Arc<LocalHanko>,
    has_docs: bool,
}

pub(super) fn add_pages(pages: Pages, local_hanko: Arc<LocalHanko>, has_docs: bool) -> Pages {
    let state = DevState {
        local_hanko,
        has_docs,
    };
    pages
        .at(
            SIGN_IN_PATH,
            allowing("GET, HEAD, POST", get(sign_in_page).post(sign_in)).data(state.clone()),
        )
        .at(
            END_SESSION_PATH,
            allowing("POST", post(end_session)).data(state),
        )
}

/// A request to an operation that requires only a session, to be tried by hand.
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

    /// Returns a `curl` command that works as pasted.
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
    let guards = [
        ProblemType::INSUFFICIENT_PERMISSION,
        ProblemType::SIGN_IN_TOO_OLD,
    ];
    let is_guarded = operation.responses.responses.iter().any(|response| {
        guards
            .iter()
            .any(|problem_type| response.description.contains(problem_type.uri()))
    });
    has_scheme && !is_optional && !needs_more && !is_guarded
}

impl DevState {
    /// Returns the page, with a notice about the session of the request.
    async fn page(&self, request: &Request) -> SignInPage {
        let outcome = authenticate(request).await;
        let is_at_hanko = |session: &Session| self.local_hanko.session_data(session.id()).is_some();
        SignInPage {
            notice: page::notice(&outcome, is_at_hanko),
            form: Form::example(),
            mistake: None,
            has_docs: self.has_docs,
        }
    }

    /// Returns an error as a page to a browser, and as a problem to any other client.
    async fn failed(
        &self,
        request: &Request,
        error: poem::Error,
        notice: &str,
    ) -> Result<Response> {
        if !accepts_html(request.headers()) {
            return Err(error);
        }
        let mut page = self.page(request).await;
        page.notice.insert_str(0, &page::information(notice));
        Ok(page.into_response(error.status()))
    }

    /// Signs a person in.
    fn sign_in(&self, form: &Form, cookie_name: &str) -> Result<HeaderValue, Mistake> {
        let (person, age) = form.person()?;
        // Two tokens of the same claims have the same length.
        let sample = self.local_hanko.claims_of(&person);
        let size = cookie_name.len() + self.local_hanko.sign_claims(&sample).len();
        let too_large = || {
            let message = format!(
                "These claims make a cookie of {size} bytes, and browsers keep no cookie of more than {MAX_COOKIE_BYTES}."
            );
            Mistake::new("claims", message)
        };
        if size > MAX_COOKIE_BYTES {
            return Err(too_large());
        }
        let session = self.local_hanko.sign_in(&person);
        // As Hanko's frontend SDK sets it: for the whole host, and readable by scripts.
        let cookie = format!(
            "{cookie_name}={}; Path=/; Max-Age={}; SameSite=Lax",
            session.token,
            SESSION_LIFESPAN.saturating_sub(age).as_secs()
        );
        HeaderValue::try_from(cookie).map_err(|_| too_large())
    }
}

#[handler]
async fn sign_in_page(request: &Request, state: Data<&DevState>) -> Response {
    state.page(request).await.into_response(StatusCode::OK)
}

/// Ends the session at the local Hanko, which sends a webhook to the API, as Hanko does. The cookie stays, so that users can
/// see that the API rejects its token.
#[handler]
async fn end_session(
    request: &Request,
    body: Body,
    hanko: Data<&Hanko>,
    state: Data<&DevState>,
) -> Result<Response> {
    let session = match authenticate(request).await {
        Ok(Some(session)) => session,
        Ok(None) => {
            let notice = "No session was ended, because nobody is signed in.";
            let cookie_name = hanko.cookie_name().to_owned();
            let rejection = Rejection::MissingCredentials { cookie_name };
            return state.failed(request, rejection.into(), notice).await;
        }
        Err(rejection) => {
            let notice = format!("No session was ended: {rejection}.");
            return state.failed(request, rejection.into(), &notice).await;
        }
    };
    let form = body.into_bytes_limit(MAX_FORM_BYTES).await?;
    let shown = form_urlencoded::parse(&form).find(|(name, _)| name == "session");
    if shown.is_some_and(|(_, id)| id != session.id().to_string()) {
        let notice = "No session was ended: another one has started in this browser since the page was opened.";
        let error =
            Problem::new(StatusCode::CONFLICT, "about:blank", "Conflict").with_detail(notice);
        return state.failed(request, error.into(), notice).await;
    }
    if let Err(error) = state.local_hanko.end_session(session.id()).await {
        tracing::warn!(event = "webhook_not_delivered", %error, "the webhook was not delivered");
        let notice = "The session has ended at Hanko, but its webhook was not delivered.";
        let error = Unavailable::from(Duration::from_secs(1)).into();
        return state.failed(request, error, notice).await;
    }
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
    state: Data<&DevState>,
) -> Result<Response> {
    if !comes_from_trusted_page(request.headers(), &hanko) {
        let notice = "Nobody was signed in: the form was sent from another site.";
        let error = Problem::from(ProblemType::CROSS_SITE_REQUEST).with_detail(notice);
        return state.failed(request, error.into(), notice).await;
    }
    let body = match body.into_bytes_limit(MAX_FORM_BYTES).await {
        Ok(body) => body,
        Err(error) => {
            let notice = format!(
                "Nobody was signed in: the form could not be read, or has more than {} KiB.",
                MAX_FORM_BYTES / 1024
            );
            return state.failed(request, error.into(), &notice).await;
        }
    };
    let form = Form::read(&body);
    match state.sign_in(&form, hanko.cookie_name()) {
        Ok(cookie) => {
            let next_page = if state.has_docs { "../docs" } else { "sign-in" };
            let mut response = see_other(next_page);
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            Ok(response)
        }
        Err(mistake) if accepts_html(request.headers()) => {
            let mut page = state.page(request).await;
            page.form = form;
            page.mistake = Some(mistake);
            Ok(page.into_response(StatusCode::BAD_REQUEST))
        }
        Err(mistake) => Err(Problem::from(ProblemType::BAD_REQUEST)
            .with_detail(mistake.message)
            .into()),
    }
}
