//! Server-Sent Events and a WebSocket that end with the session of their user.
//!
//! ```sh
//! HANKO_API_URL=https://….hanko.io cargo run --example streams      # or the URL that `cargo run -- dev` prints
//! curl -N -H "Authorization: Bearer $TOKEN" localhost:8000/events   # the first event, heartbeats, and why it ended
//! websocat -H "Authorization: Bearer $TOKEN" ws://localhost:8000/socket
//! ```
//!
//! Let Hanko send its webhooks to `/webhooks/hanko`, and the streams of a user who signs out end within milliseconds.
//! Without webhooks they end within `SESSION_CACHE_TTL`, half a minute by default: Hanko is asked while they are open.
//!
//! `PORT` is the port, 8000 by default; 0 picks a free one. The address is printed.

#![allow(
    clippy::unused_async,
    reason = "operations are async, whether they wait or not"
)]

use std::{env, error::Error, time::Duration};

use futures_util::{
    SinkExt, StreamExt,
    stream::{self, BoxStream},
};
use poem::{
    EndpointExt, Request, Route, Server, handler,
    http::{StatusCode, header::ORIGIN},
    listener::{Acceptor, Listener, TcpListener},
    middleware::SizeLimit,
    post,
    web::{
        Data,
        sse::Event,
        websocket::{BoxWebSocketUpgraded, CloseCode, Message, WebSocket, WebSocketStream},
    },
};
use poem_hanko::{EndReason, Hanko, HankoAuth, HankoUrl, PlainHttp, Session, WithProblems};
use poem_openapi::{Object, OpenApi, OpenApiService, payload::EventStream, types::ToJSON};
use tokio::time::{MissedTickBehavior, interval};

/// Shorter than the idle timeout of any proxy in between.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What a stream sends.
#[derive(Object)]
struct News {
    /// `opened`, `heartbeat`, and at last `ended`.
    kind: String,
    /// Why the session has ended.
    #[oai(skip_serializing_if_is_none)]
    reason: Option<String>,
}

impl News {
    fn new(kind: &str, reason: Option<EndReason>) -> Self {
        Self {
            kind: kind.to_owned(),
            reason: reason.map(|reason| reason.to_string()),
        }
    }
}

/// The news of a session until it ends. Select on your own channel here, too.
fn news(session: &Session) -> BoxStream<'static, News> {
    let ended = Box::pin(session.ended());
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = Some((ended, heartbeat, "opened"));
    stream::unfold(state, async |state| {
        let (mut ended, mut heartbeat, kind) = state?;
        tokio::select! {
            biased;
            reason = &mut ended => Some((News::new("ended", Some(reason)), None)),
            // The first tick is immediate.
            _ = heartbeat.tick() => Some((News::new(kind, None), Some((ended, heartbeat, "heartbeat")))),
        }
    })
    .boxed()
}

struct Api;

#[OpenApi]
impl Api {
    /// Stream the news as Server-Sent Events
    #[oai(path = "/events", method = "get", operation_id = "streamEvents")]
    async fn events(&self, auth: HankoAuth) -> EventStream<BoxStream<'static, News>> {
        EventStream::new(news(&auth))
            .to_event(|item| Event::message(item.to_json_string()).event_type(item.kind))
    }

    /// Stream the news over a WebSocket
    #[oai(path = "/socket", method = "get", operation_id = "openSocket")]
    async fn socket(
        &self,
        auth: HankoAuth,
        request: &Request,
        hanko: Data<&Hanko>,
        socket: WebSocket,
    ) -> poem::Result<BoxWebSocketUpgraded> {
        // Any page can open a WebSocket to any host, and the browser sends the session cookie along.
        let origin = request.header(ORIGIN);
        if !origin.is_none_or(|origin| hanko.trusts_origin(origin)) {
            return Err(StatusCode::FORBIDDEN.into());
        }
        Ok(socket
            .on_upgrade(async move |socket| send_all(news(&auth), socket).await)
            .boxed())
    }
}

async fn send_all(mut news: BoxStream<'static, News>, mut socket: WebSocketStream) {
    loop {
        tokio::select! {
            item = news.next() => {
                let message = match item {
                    Some(item) => Message::text(item.to_json_string()),
                    // The session has ended.
                    None => Message::close_with(CloseCode::Policy, "the session has ended"),
                };
                let is_last = message.is_close();
                if socket.send(message).await.is_err() || is_last {
                    return;
                }
            }
            // Reading responds to pings, and notices that the client has gone.
            message = socket.next() => if message.is_none_or(|message| message.is_err()) {
                return;
            }
        }
    }
}

/// Receives Hanko's webhooks.
#[handler]
async fn webhook(hanko: Data<&Hanko>, body: Vec<u8>) -> StatusCode {
    match hanko.receive_webhook(&body).await {
        Ok(_event) => StatusCode::NO_CONTENT,
        Err(error) if error.retry_after().is_some() => StatusCode::SERVICE_UNAVAILABLE,
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "an example is configured by the environment"
)]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("HANKO_API_URL").map_err(|_| "set HANKO_API_URL")?;
    let port = env::var("PORT").map_or(Ok(8000), |port| port.parse::<u16>())?;
    let acceptor = TcpListener::bind(("127.0.0.1", port))
        .into_acceptor()
        .await?;
    let address = acceptor.local_addr()[0]
        .as_socket_addr()
        .map(|address| format!("http://{address}"))
        .ok_or("not a TCP listener")?;

    let hanko = Hanko::builder(HankoUrl::parse(&url, PlainHttp::LoopbackOnly)?)
        // The origins of your pages.
        .trusted_origins([address.clone()])
        .build()?;
    let api = OpenApiService::new(WithProblems(Api), "Streams", "1.0");
    let app = Route::new()
        .at(
            "/webhooks/hanko",
            post(webhook).with(SizeLimit::new(64 * 1024)),
        )
        .nest("/", api)
        .data(hanko);
    println!("listening on {address}");
    Server::new_with_acceptor(acceptor).run(app).await?;
    Ok(())
}
