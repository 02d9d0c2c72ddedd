//! The service of this repository as one would write it with axum and axum-jwt-auth.

use std::{env, sync::Arc};

use axum::{
    Json, Router,
    extract::FromRef,
    http::{header::AUTHORIZATION, request::Parts},
    routing::get,
};
use axum_extra::extract::CookieJar;
use axum_jwt_auth::{AuthError, Claims, Decoder, RemoteJwksDecoder, TokenExtractor};
use jsonwebtoken::{Algorithm, Validation};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

#[derive(Clone, Deserialize)]
#[allow(dead_code, reason = "a handler would read them")]
struct SessionClaims {
    sub: String,
    session_id: String,
    exp: u64,
}

#[derive(Clone, FromRef)]
struct AppState {
    decoder: Decoder<SessionClaims>,
}

/// The token of the Authorization header, or without that header, of the `hanko` cookie.
struct SessionToken;

impl TokenExtractor for SessionToken {
    async fn extract_token(parts: &mut Parts) -> Result<String, AuthError> {
        if let Some(value) = parts.headers.get(AUTHORIZATION) {
            return value
                .to_str()
                .ok()
                .and_then(|value| value.strip_prefix("Bearer "))
                .map(ToOwned::to_owned)
                .ok_or(AuthError::MissingToken);
        }
        CookieJar::from_headers(&parts.headers)
            .get("hanko")
            .map(|cookie| cookie.value().to_owned())
            .ok_or(AuthError::MissingToken)
    }
}

async fn greeting() -> Json<Message> {
    Json(Message {
        message: "Poem x Hanko!",
    })
}

async fn protected(_session: Claims<SessionClaims, SessionToken>) -> Json<Message> {
    Json(Message {
        message: "Hello from protected route!",
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER
        .install_default()
        .map_err(|_| "another crypto provider was installed")?;
    let hanko = env::var("HANKO_API_URL")?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_aud = false;
    let decoder = RemoteJwksDecoder::builder()
        .jwks_url(format!("{hanko}/.well-known/jwks.json"))
        .validation(validation)
        .build()?;
    let decoder = Arc::new(decoder);
    decoder.initialize().await?;

    let app = Router::new()
        .route("/", get(greeting))
        .route("/protected", get(protected))
        .with_state(AppState { decoder });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", env::var("PORT")?.parse()?)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
