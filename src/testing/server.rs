use std::{sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use poem::{
    Endpoint,
    http::{Request, Response, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Fault, state::State};
use crate::clock::{Clock, SystemClock};

/// The pause after a connection could not be accepted, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `endpoint` until the future is dropped, which closes all connections at once.
///
/// Poem's own server keeps a handler running after its client has disconnected. The local Hanko would count requests that
/// nobody waits for any more.
pub(super) async fn serve<E: Endpoint + 'static>(
    listener: TcpListener,
    endpoint: E,
    state: Arc<State>,
) {
    let endpoint = Arc::new(endpoint);
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection =
                    serve_connection(stream, Arc::clone(&endpoint), Arc::clone(&state));
                connections.spawn(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "the local Hanko could not accept a connection");
                // Descriptors are freed in real time.
                SystemClock::new().sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Makes hyper close the connection.
#[derive(Debug, thiserror::Error)]
#[error("the local Hanko is down")]
struct Down;

async fn serve_connection<E: Endpoint>(stream: TcpStream, endpoint: Arc<E>, state: Arc<State>) {
    let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) else {
        return;
    };
    // Responses are small and written at once.
    let _ = stream.set_nodelay(true);
    let service = service_fn(async |request: Request<Incoming>| {
        if state.fault() == Fault::Down {
            return Err(Down);
        }
        let (local, remote) = (LocalAddr(local.into()), RemoteAddr(remote.into()));
        let request = (request, local, remote, Scheme::HTTP).into();
        let response: Response<_> = endpoint.get_response(request).await.into();
        // It may have been set since.
        if state.fault() == Fault::Down {
            return Err(Down);
        }
        Ok(response)
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // An error means that the client has disconnected, or that the fault has closed the connection.
    let _ = connection.await;
}
