//! A loopback server that receives webhooks and responds as the test says.

#![allow(
    clippy::needless_pass_by_value,
    reason = "Poem hands extractors to its handlers by value"
)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use poem::{
    EndpointExt, Route, Server,
    endpoint::make,
    handler,
    http::{HeaderMap, StatusCode},
    listener::{Acceptor, TcpAcceptor},
    post,
    web::{Data, Json},
};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use crate::support::within;

/// A webhook as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Received {
    /// The claims of its token.
    pub(crate) fn claims(&self) -> Value {
        claims_of_token(self.body["token"].as_str().expect("a token"))
    }

    pub(crate) fn event(&self) -> &str {
        self.body["event"].as_str().expect("an event")
    }

    /// The id of the session or user that it is about.
    pub(crate) fn subject(&self) -> String {
        let claims = self.claims();
        claims["data"]["id"].as_str().expect("an id").to_owned()
    }
}

/// Decodes the claims of a token, unverified.
pub(crate) fn claims_of_token(token: &str) -> Value {
    decode_part(token, 1)
}

/// Decodes a part of a token: 0 is the header.
pub(crate) fn decode_part(token: &str, index: usize) -> Value {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    let part = token.split('.').nth(index).expect("a compact JWS");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url");
    serde_json::from_slice(&bytes).expect("JSON")
}

pub(crate) struct Receiver {
    pub(crate) url: String,
    state: Arc<State>,
}

struct State {
    received: watch::Sender<Vec<Received>>,
    status: Mutex<StatusCode>,
    /// A webhook gets a response for one of these.
    responses: Semaphore,
    /// How many webhooks have no response yet, and the most there were.
    open: Mutex<(usize, usize)>,
}

#[handler]
async fn receive(headers: &HeaderMap, body: Json<Value>, state: Data<&Arc<State>>) -> StatusCode {
    {
        let mut open = state.open.lock().unwrap();
        open.0 += 1;
        open.1 = open.1.max(open.0);
    }
    state.received.send_modify(|received| {
        received.push(Received {
            headers: headers.clone(),
            body: body.0,
        });
    });
    state.responses.acquire().await.unwrap().forget();
    state.open.lock().unwrap().0 -= 1;
    *state.status.lock().unwrap()
}

impl Receiver {
    /// Starts a receiver that responds to each webhook at once, with 204.
    pub(crate) fn start() -> Self {
        Self::with_responses(Semaphore::MAX_PERMITS)
    }

    /// Starts a receiver that sends no response until [`respond`](Self::respond) is called.
    pub(crate) fn silent() -> Self {
        Self::with_responses(0)
    }

    fn with_responses(responses: usize) -> Self {
        let state = Arc::new(State {
            received: watch::Sender::default(),
            status: Mutex::new(StatusCode::NO_CONTENT),
            responses: Semaphore::new(responses),
            open: Mutex::default(),
        });
        let routes = Route::new()
            .at("/webhooks", post(receive))
            .data(Arc::clone(&state));
        Self {
            url: format!("{}/webhooks", serve(routes)),
            state,
        }
    }

    /// Responds with this status from now on.
    pub(crate) fn set_status(&self, status: u16) {
        *self.state.status.lock().unwrap() = StatusCode::from_u16(status).unwrap();
    }

    /// Responds to this many more webhooks.
    pub(crate) fn respond(&self, count: usize) {
        self.state.responses.add_permits(count);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.borrow().clone()
    }

    /// The events and subjects of the webhooks, in the order of their arrival.
    pub(crate) fn summary(&self) -> Vec<(String, String)> {
        self.received()
            .iter()
            .map(|webhook| (webhook.event().to_owned(), webhook.subject()))
            .collect()
    }

    /// How many webhooks waited for a response at the same time, at most.
    pub(crate) fn most_at_once(&self) -> usize {
        self.state.open.lock().unwrap().1
    }

    /// Waits until this many webhooks have arrived.
    pub(crate) async fn wait_for(&self, count: usize) {
        let mut received = self.state.received.subscribe();
        within(received.wait_for(|received| received.len() >= count))
            .await
            .unwrap();
    }
}

/// Serves routes on a free port, and returns its URL.
pub(crate) fn serve(routes: impl poem::IntoEndpoint<Endpoint: 'static> + Send + 'static) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let acceptor = TcpAcceptor::from_std(listener).unwrap();
    let address = *acceptor.local_addr()[0].as_socket_addr().unwrap();
    tokio::spawn(
        Server::new_with_acceptor(acceptor).run_with_graceful_shutdown(
            routes,
            std::future::pending(),
            Some(Duration::ZERO),
        ),
    );
    format!("http://{address}")
}

/// Serves one body under `/.well-known/jwks.json`, with these headers.
pub(crate) fn serve_key_set(body: &str, headers: &[(String, String)]) -> String {
    let body = body.to_owned();
    let headers = headers.to_vec();
    serve(Route::new().at(
        "/.well-known/jwks.json",
        make(move |_request| {
            let mut response = poem::Response::builder();
            for (name, value) in &headers {
                response = response.header(name, value);
            }
            let response = response.body(body.clone());
            async move { Ok::<_, poem::Error>(response) }
        }),
    ))
}
