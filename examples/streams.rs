//! Server-Sent Events and a WebSocket that end with the session of their user.
//!
//! ```sh
//! cargo run --example streams -- dev                                # prints a URL and a session token
//! curl -N -H "Authorization: Bearer $TOKEN" localhost:8000/events   # the first event, heartbeats, and why it ended
//! websocat -H "Authorization: Bearer $TOKEN" ws://localhost:8000/socket
//! ```
//!
//! When the session ends at Hanko, its streams end within milliseconds of the webhook. Without webhooks they end within
//! `SESSION_CACHE_TTL`, half a minute by default, because Hanko is asked while they are open.

#![allow(
    clippy::unused_async,
    reason = "operations are async, whether they wait or not"
)]

use std::{process::ExitCode, time::Duration};

use futures_util::{
    SinkExt, StreamExt,
    stream::{self, BoxStream},
};
use poem::web::{
    sse::Event,
    websocket::{BoxWebSocketUpgraded, CloseCode, Message, WebSocket, WebSocketStream},
};
use poem_hanko::{App, EndReason, HankoAuth, Session};
use poem_openapi::{Object, OpenApi, payload::EventStream, types::ToJSON};
use tokio::time::{MissedTickBehavior, interval};

/// Shorter than the idle timeout of any proxy in between.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What a stream sends.
#[derive(Object)]
struct News {
    /// `opened`, `heartbeat`, and finally `ended`.
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

/// Returns the news of a session until it ends. Select on your own channel here, too.
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
        socket: WebSocket,
    ) -> poem::Result<BoxWebSocketUpgraded> {
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
            // Reading responds to pings, and detects that the client has disconnected.
            message = socket.next() => if message.is_none_or(|message| message.is_err()) {
                return;
            }
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    App::new(Api, "streams", "1.0").run().await
}
