//! Plain Poem handlers in Poem's own server, without an OpenAPI document, that accept the sessions of a Hanko.
//!
//! ```sh
//! HANKO_API_URL=https://….hanko.io cargo run --example plain_poem
//! curl -H "Authorization: Bearer $TOKEN" localhost:8000/hello
//! ```
//!
//! `PORT` is the port, 8000 by default.

use std::{env, error::Error, net::Ipv4Addr};

use poem::{EndpointExt, Request, Route, Server, get, handler, listener::TcpListener};
use poem_hanko::{Edge, Hanko, HankoUrl, require, webhook_endpoint};

#[handler]
async fn hello(request: &Request) -> poem::Result<String> {
    let session = require::<()>(request).await?;
    Ok(format!("Hello, {}!", session.user_id()))
}

#[allow(
    clippy::disallowed_methods,
    reason = "an example is configured by the environment"
)]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let url: HankoUrl = env::var("HANKO_API_URL")?.parse()?;
    let hanko = Hanko::builder(url).build()?;
    let app = Route::new()
        .at("/hello", get(hello))
        .at("/webhooks/hanko", webhook_endpoint())
        .with(Edge::new(&hanko));
    let port = env::var("PORT").map_or(Ok(8000), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    Server::new(listener).run(app).await?;
    Ok(())
}
