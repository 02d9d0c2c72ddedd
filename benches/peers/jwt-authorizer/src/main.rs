//! The service of this repository as one would write it with axum and jwt-authorizer.

use std::env;

use axum::{Json, Router, routing::get};
use jwt_authorizer::{
    Authorizer, IntoLayer, JwtAuthorizer, JwtClaims, Validation, layer::JwtSource,
};
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

async fn greeting() -> Json<Message> {
    Json(Message {
        message: "Poem x Hanko!",
    })
}

async fn protected(_session: JwtClaims<SessionClaims>) -> Json<Message> {
    Json(Message {
        message: "Hello from protected route!",
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys = format!("{}/.well-known/jwks.json", env::var("HANKO_API_URL")?);
    let mut authorizers = Vec::new();
    // The Authorization header first, then the cookie.
    for source in [
        JwtSource::AuthorizationHeader,
        JwtSource::Cookie("hanko".to_owned()),
    ] {
        let authorizer: Authorizer<SessionClaims> = JwtAuthorizer::from_jwks_url(&keys)
            .validation(Validation::new().aud(&["localhost"]))
            .jwt_source(source)
            .build()
            .await?;
        authorizers.push(authorizer);
    }
    let app = Router::new()
        .route("/protected", get(protected).layer(authorizers.into_layer()))
        .route("/", get(greeting));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", env::var("PORT")?.parse()?)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
