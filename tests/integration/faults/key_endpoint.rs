//! A key endpoint that fails as the test says, and counts its requests.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::support::within;

/// What the endpoint does with a request.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// These bytes, and then the end of the connection.
    Bytes(Vec<u8>),
    /// The same, but only once the gate is open.
    Gated(Gate, Vec<u8>),
    /// Nothing. The connection stays open.
    Silence,
    /// The connection is reset.
    Reset,
    /// The first bytes, and then the others again and again until the client stops reading.
    Endless(Vec<u8>, Vec<u8>),
    /// The head of a good response, and then one byte each millisecond forever.
    Drip,
}

impl Answer {
    /// A good response, as Hanko sends it.
    pub(super) fn key_set(key_set: &Value) -> Self {
        Self::key_set_with(key_set, "Cache-Control: max-age=600\r\n")
    }

    /// A good response with these header lines.
    pub(super) fn key_set_with(key_set: &Value, headers: &str) -> Self {
        Self::body(&key_set.to_string(), headers)
    }

    /// Status 200 and any body.
    pub(super) fn body(body: &str, headers: &str) -> Self {
        Self::status("200 OK", body, headers)
    }

    /// Any status and body.
    pub(super) fn status(status: &str, body: &str, headers: &str) -> Self {
        let length = body.len();
        Self::Bytes(
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\
                 Connection: close\r\n\r\n{body}"
            )
            .into_bytes(),
        )
    }

    /// This response, delayed until the gate is opened.
    pub(super) fn behind(self, gate: &Gate) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Gated(gate.clone(), bytes),
            other => panic!("{other:?} cannot be held back"),
        }
    }
}

/// Delays responses until it is opened.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(super) fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(super) fn open(&self) {
        self.0.send_replace(true);
    }

    async fn opened(&self) {
        let _ = self.0.subscribe().wait_for(|is_open| *is_open).await;
    }
}

/// Serves key sets on loopback, well or badly.
pub(super) struct KeyEndpoint {
    address: SocketAddr,
    state: Arc<State>,
    server: Option<JoinHandle<()>>,
    /// Keeps the port while nothing listens. Connections are refused then, since this one never listens.
    _reserved: TcpSocket,
}

struct State {
    answer: Mutex<Answer>,
    requests: watch::Sender<u64>,
    body_bytes: watch::Sender<u64>,
}

impl KeyEndpoint {
    /// A port at which every connection is refused until [`come_up`](Self::come_up).
    pub(super) fn down() -> Self {
        let reserved = socket(0);
        Self {
            address: reserved.local_addr().expect("a bound socket"),
            state: Arc::new(State {
                answer: Mutex::new(Answer::Silence),
                requests: watch::Sender::new(0),
                body_bytes: watch::Sender::new(0),
            }),
            server: None,
            _reserved: reserved,
        }
    }

    /// An endpoint that sends this response until it is changed.
    pub(super) fn answering(answer: Answer) -> Self {
        let mut endpoint = Self::down();
        endpoint.answer(answer);
        endpoint.come_up();
        endpoint
    }

    pub(super) fn come_up(&mut self) {
        let listener = socket(self.address.port()).listen(1024).expect("a port");
        let state = Arc::clone(&self.state);
        self.server = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                connections.spawn(async move { state.serve(stream).await });
            }
        }));
    }

    /// Refuses connections from now on, and breaks those that are open.
    pub(super) async fn go_down(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _cancelled = server.await;
        }
    }

    /// Sets the response to every request from now on.
    pub(super) fn answer(&self, answer: Answer) {
        *self.state.current() = answer;
    }

    /// The value for `HANKO_API_URL`.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests came in.
    pub(super) fn requests(&self) -> u64 {
        *self.state.requests.borrow()
    }

    /// Waits until this many requests have arrived since the start.
    #[track_caller]
    pub(super) fn wait_for_requests(&self, requests: u64) -> impl Future<Output = ()> {
        wait_for(&self.state.requests, requests)
    }

    /// How many bytes of endless and dripping bodies were written.
    pub(super) fn body_bytes(&self) -> u64 {
        *self.state.body_bytes.borrow()
    }

    /// Waits until this many of them were written.
    #[track_caller]
    pub(super) fn wait_for_body_bytes(&self, bytes: u64) -> impl Future<Output = ()> {
        wait_for(&self.state.body_bytes, bytes)
    }
}

impl Drop for KeyEndpoint {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

impl State {
    fn current(&self) -> std::sync::MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one request. It is no error if the client disconnects early.
    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let answer = self.current().clone();
        self.requests.send_modify(|requests| *requests += 1);
        match answer {
            Answer::Bytes(bytes) => stream.write_all(&bytes).await.ok()?,
            Answer::Gated(gate, bytes) => {
                gate.opened().await;
                stream.write_all(&bytes).await.ok()?;
            }
            Answer::Silence => std::future::pending().await,
            Answer::Reset => stream.set_zero_linger().ok()?,
            Answer::Endless(first, then) => {
                stream.write_all(&first).await.ok()?;
                loop {
                    self.write_body(&mut stream, &then).await?;
                }
            }
            Answer::Drip => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                    .await
                    .ok()?;
                let mut ticks = tokio::time::interval(Duration::from_millis(1));
                loop {
                    ticks.tick().await;
                    self.write_body(&mut stream, b" ").await?;
                }
            }
        }
        Some(())
    }

    async fn write_body(&self, stream: &mut TcpStream, bytes: &[u8]) -> Option<()> {
        stream.write_all(bytes).await.ok()?;
        self.body_bytes
            .send_modify(|written| *written += bytes.len() as u64);
        Some(())
    }
}

#[track_caller]
fn wait_for(counter: &watch::Sender<u64>, least: u64) -> impl Future<Output = ()> {
    let mut counter = counter.subscribe();
    within(async move {
        counter
            .wait_for(|count| *count >= least)
            .await
            .expect("the counter lives as long as the endpoint");
    })
}

/// A bound socket that shares its port with others of this process.
fn socket(port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("a shared port");
    socket
        .bind((Ipv4Addr::LOCALHOST, port).into())
        .expect("a free port");
    socket
}
