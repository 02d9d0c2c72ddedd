//! Serves requests over TCP.
//!
//! Poem's own server sets no timer, so that half a header keeps a connection open for ever; it knows no limit of
//! connections, and spins where descriptors run out. Hence this loop on hyper-util.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use http_body_util::combinators::BoxBody;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use poem::{
    http::{Method, Request, header, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use super::{
    edge::{Edge, REQUEST_ID},
    stream::Stream,
};
use crate::{clock::Clock, hanko::Hanko};

/// Connections beyond these wait until one of them ends.
const MAX_CONNECTIONS: usize = 16 * 1024;
/// How long a client may take to send the head of a request, the pause before it included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The most that is read of one HTTP/1 head: a token of the largest size and the headers of a proxy fit in.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The same for HTTP/2.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// How long a client may leave unread what was sent to it.
#[cfg(target_os = "linux")]
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How many requests an HTTP/2 connection may have open: what browsers expect at least (RFC 9113 section 6.5.2).
const MAX_CONCURRENT_STREAMS: u32 = 100;
/// An HTTP/2 connection on which no request has begun for between this time and twice as long is closed. Answering pings is
/// no reason to keep it.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often an idle HTTP/2 connection is asked whether it is alive.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// The pause after a connection could not be accepted, as where descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a browser may remember the answer to a preflight request.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_mins(10);

pub(super) async fn serve(
    listener: TcpListener,
    edge: Edge,
    clock: Arc<dyn Clock>,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) {
    let cors = Arc::new(cors(edge.hanko().clone()));
    let edge = Arc::new(edge);
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // Else every request is interrupted to look whether its client has gone, which takes a system call and a buffer.
        // Whoever has only closed its half gets an answer so, too.
        .half_close(true)
        .max_buf_size(MAX_HEAD_BYTES);
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES);
    let protocols = Arc::new((http1, http2));
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let (stop, stopping) = watch::channel(());

    // Where descriptors run out, that is said once and not with every attempt.
    let mut is_failing = false;
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let (stream, remote_address, permit) = match accepted {
            Ok(accepted) => {
                is_failing = false;
                accepted
            }
            Err(error) => {
                if !is_failing {
                    tracing::warn!(%error, "could not accept a connection");
                }
                is_failing = true;
                clock.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(local_address) = stream.local_addr() else {
            continue;
        };
        // Answers are small and written at once: waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        // Else whoever asks and never reads keeps the connection for ever.
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT));
        let has_asked = Arc::new(AtomicBool::new(false));
        let service = Service {
            edge: Arc::clone(&edge),
            cors: Arc::clone(&cors),
            local_address,
            remote_address,
            has_asked: Arc::clone(&has_asked),
        };
        // In a box, as below, since a future in a future takes room twice, for as long as the connection lives.
        let connection = Box::pin(converse(
            stream,
            service,
            Arc::clone(&protocols),
            graceful.watcher(),
            stopping.clone(),
            Arc::clone(&clock),
        ));
        let head_timeout = clock.sleep(HEAD_TIMEOUT);
        tokio::spawn(async move {
            let _permit = permit;
            // hyper's own timer knows only the head of a request of HTTP/1.
            let stays_silent = async {
                head_timeout.await;
                if has_asked.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = connection => {}
                () = stays_silent => tracing::debug!("closed a connection that did not ask for anything"),
            }
        });
    }

    drop(stop);
    drop(listener);
    let running = graceful.count();
    if running > 0 {
        tracing::info!(connections = running, ?grace, "shutting down");
    }
    tokio::select! {
        () = graceful.shutdown() => {}
        () = clock.sleep(grace) => tracing::warn!("some requests did not finish in time"),
    }
}

/// The response to one request. In a box, since a connection that waits for requests needs no room for it.
type Answering = Pin<
    Box<dyn Future<Output = Result<hyper::Response<BoxBody<Bytes, io::Error>>, Infallible>> + Send>,
>;

/// What answers the requests of one connection.
#[derive(Clone)]
struct Service {
    edge: Arc<Edge>,
    cors: Arc<CorsLayer>,
    local_address: SocketAddr,
    remote_address: SocketAddr,
    has_asked: Arc<AtomicBool>,
}

impl Service {
    fn answer(&self, request: Request<Incoming>) -> Answering {
        self.has_asked.store(true, Ordering::Relaxed);
        // Most requests are not cross-origin, and need nothing of it.
        if !request.headers().contains_key(header::ORIGIN) {
            return self.pass_on(request);
        }
        let service = self.clone();
        let service = tower::service_fn(move |request| service.pass_on(request));
        Box::pin(self.cors.layer(service).oneshot(request))
    }

    fn pass_on(&self, request: Request<Incoming>) -> Answering {
        let request = (
            request,
            LocalAddr(self.local_address.into()),
            RemoteAddr(self.remote_address.into()),
            Scheme::HTTP,
        )
            .into();
        let answering = Arc::clone(&self.edge).answer(request);
        Box::pin(answering.map(|response| Ok(response.into())))
    }
}

/// Serves one connection until either side closes it.
async fn converse(
    stream: TcpStream,
    service: Service,
    protocols: Arc<(http1::Builder, http2::Builder<TokioExecutor>)>,
    watcher: Watcher,
    mut stopping: watch::Receiver<()>,
    clock: Arc<dyn Clock>,
) {
    let speaks_http2 = tokio::select! {
        speaks_http2 = speaks_http2(&stream) => speaks_http2,
        _ = stopping.changed() => return,
    };
    // It may have been closed before it began.
    let Ok(speaks_http2) = speaks_http2 else {
        return;
    };
    let (http1, http2) = &*protocols;
    let stream = Stream::new(stream);
    let has_asked = Arc::clone(&service.has_asked);
    let service = service_fn(move |request| service.answer(request));
    let ended = if speaks_http2 {
        let falls_silent = async {
            loop {
                clock.sleep(IDLE_TIMEOUT).await;
                if !has_asked.swap(false, Ordering::Relaxed) {
                    break;
                }
            }
        };
        let connection = Box::pin(watcher.watch(http2.serve_connection(stream, service)));
        tokio::select! {
            ended = connection => ended,
            () = falls_silent => return,
        }
    } else {
        Box::pin(watcher.watch(http1.serve_connection(stream, service))).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// Waits for the first octets of a connection, which tell the protocol. `PRI` is the method with which every HTTP/2
/// connection begins, and no HTTP/1 request does (RFC 9113 section 3.4).
///
/// hyper-util can tell as well, by reading all of that preface, and then takes twice the room for every HTTP/1 connection.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const METHOD: &[u8] = b"PRI";
    let mut first = [0; METHOD.len()];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first == METHOD),
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, remote_address) = listener.accept().await?;
    Ok((stream, remote_address, permit))
}

/// Cross-origin access with credentials for the origins that `hanko` trusts (Fetch standard, section 3.3).
fn cors(hanko: Hanko) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| {
            origin
                .to_str()
                .is_ok_and(|origin| hanko.trusts_origin(origin))
        }))
        .allow_credentials(true)
        .allow_methods(AllowMethods::list([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ]))
        .allow_headers(AllowHeaders::list([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            REQUEST_ID,
        ]))
        .expose_headers([header::WWW_AUTHENTICATE, header::RETRY_AFTER, REQUEST_ID])
        .max_age(PREFLIGHT_MAX_AGE)
}
