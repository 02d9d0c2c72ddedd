//! HTTP/1.1 byte for byte: a client library would refuse to send most of what an attacker sends.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A parsed response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: String,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Response {
    /// The value of a header that may occur once.
    pub(super) fn header(&self, name: &str) -> Result<Option<&str>, String> {
        let mut values = self
            .headers
            .iter()
            .filter_map(|(header, value)| (header == name).then_some(value.as_str()));
        let value = values.next();
        match values.next() {
            None => Ok(value),
            Some(_) => Err(format!("{name} occurs twice: {self:?}")),
        }
    }

    /// Whether `text` is anywhere in the response.
    pub(super) fn contains(&self, text: &str) -> bool {
        self.body.contains(text) || self.headers.iter().any(|(_, value)| value.contains(text))
    }
}

/// The head of a request that ends its connection.
pub(super) fn head<V: AsRef<[u8]>>(
    request_line: &str,
    headers: impl IntoIterator<Item = (&'static str, V)>,
) -> Vec<u8> {
    let mut request =
        format!("{request_line}\r\nHost: api.example\r\nConnection: close\r\n").into_bytes();
    for (name, value) in headers {
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value.as_ref());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// Sends `request` over a new connection and reads the response to its end.
pub(super) async fn exchange(address: SocketAddr, request: &[u8]) -> Response {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request).await.expect("a request sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Response {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or_default();
    Response {
        status: status.to_owned(),
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    }
}
