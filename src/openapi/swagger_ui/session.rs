//! Tells the page of Swagger UI who is signed in.

use poem::{
    Endpoint, IntoResponse, Request, Response, Result,
    http::{HeaderValue, header},
    web::Json,
};
use serde_json::{Value, json};

use crate::{
    auth::{Rejection, authenticate},
    hanko::Session,
};

/// Responds with the session of the request, as every operation would authenticate it. Here, a missing or rejected session is
/// not an error.
pub(super) struct SessionStatus;

impl Endpoint for SessionStatus {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let status = match authenticate(&request).await {
            Ok(Some(session)) => signed_in(&session),
            Ok(None) => json!({ "status": "anonymous" }),
            Err(
                rejection @ (Rejection::InvalidToken(..)
                | Rejection::SessionEnded(_)
                | Rejection::AmbiguousCredentials(_)),
            ) => json!({ "status": "rejected", "reason": rejection.to_string() }),
            Err(other) => return Err(other.into()),
        };
        let mut response = Json(status).into_response();
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

fn signed_in(session: &Session) -> Value {
    let mut status = json!({ "status": "signed_in", "user_id": session.user_id().to_string() });
    if let Some(email) = session.email() {
        status["email"] = json!(email.address);
    }
    if let Some(username) = session.username() {
        status["username"] = json!(username);
    }
    status
}
