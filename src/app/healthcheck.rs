//! `healthcheck`: probes the running instance, for containers without a shell.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use futures_util::future::{self, Either};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::config::ProbeAddress;
use crate::clock::Clock;

/// How long the instance may take to respond. Orchestrators wait 1 s (Kubernetes) to 30 s (Docker) for a probe.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest body that is read. A problem is far smaller.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What the probe tests.
#[derive(Clone, Copy, Debug)]
pub(super) enum Probe {
    /// Whether the process serves requests.
    Alive,
    /// Whether it can verify sessions.
    Ready,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Probes the instance at `address`. On the listener of the API, the probes are below `prefix`. Returns the text to print.
pub(super) async fn probe(
    probe: Probe,
    address: ProbeAddress,
    prefix: &str,
    clock: &dyn Clock,
) -> Result<String, String> {
    let path = match probe {
        Probe::Alive => "/livez",
        Probe::Ready => "/readyz",
    };
    let (address, path) = match address {
        ProbeAddress::Admin(address) => (address, path.to_owned()),
        ProbeAddress::Api(address) => (address, format!("{prefix}{path}")),
    };
    let address = reachable(address);
    if address.port() == 0 {
        return Err("the port is 0, which picks a free one: set PORT or ADMIN_ADDRESS".to_owned());
    }
    let url = format!("http://{address}{path}");
    let request = std::pin::pin!(get(address, &path));
    match future::select(request, clock.sleep(TIMEOUT)).await {
        Either::Left((Ok(Health::Good), _)) => Ok(format!("{url} returned 200")),
        Either::Left((Ok(Health::Bad(bad)), _)) => Err(format!("{url} returned {bad}")),
        Either::Left((Err(error), _)) => Err(format!("{url} cannot be reached: {error}")),
        Either::Right(_) => Err(format!("{url} did not respond within {TIMEOUT:?}")),
    }
}

/// Returns the address at which a client reaches a listener on `address`: loopback if that is unspecified.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

enum Health {
    Good,
    Bad(BadHealth),
}

/// A response other than 200.
struct BadHealth {
    status: u16,
    /// The `detail` of the problem in its body.
    detail: Option<String>,
}

impl fmt::Display for BadHealth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.status)?;
        match &self.detail {
            Some(detail) => write!(formatter, ": {detail}"),
            None => Ok(()),
        }
    }
}

/// Sends one request over a new connection, without a proxy and without TLS.
async fn get(address: SocketAddr, path: &str) -> Result<Health, BoxError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(Health::Good);
        }
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
        let body = body.collect().await?.to_bytes();
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Health::Bad(BadHealth {
            status,
            detail: problem["detail"].as_str().map(ToOwned::to_owned),
        }))
    };
    let (exchange, connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    match future::select(exchange, connection).await {
        Either::Left((outcome, _)) => outcome,
        // The connection may end as soon as the response has arrived.
        Either::Right((outcome, exchange)) => match exchange.await {
            Ok(health) => Ok(health),
            Err(error) => Err(outcome.err().map_or(error, Into::into)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_address_means_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:8000", "127.0.0.1:8000"),
            ("[::]:9000", "[::1]:9000"),
            ("192.0.2.7:80", "192.0.2.7:80"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), reached);
        }
    }
}
