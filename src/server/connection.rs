//! Serves the requests of one connection.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use http_body_util::combinators::BoxBody;
use hyper::{
    body::{Body as _, Bytes, Incoming},
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioTimer;
use pin_project_lite::pin_project;
use poem::{
    http::{HeaderValue, Request, Response, Version, header, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio_util::task::TaskTracker;

use super::transport::Transport;
use crate::{
    edge::{
        self, EdgeCore,
        cors::Origin,
        limits::{
            Command, Connection, Exchange, LimitError, Limits, MAX_FIELDS, MAX_UNWRITTEN,
            RequestBody, ResponseBody, take_begun,
        },
    },
    metrics::Method,
    problem::ProblemType,
    trace::RequestSpan,
};

/// The largest HTTP/1 head, in bytes. The largest token and the headers of a proxy fit in it.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The same for HTTP/2, counted as in RFC 9113 section 6.5.2: with 32 bytes more for each field.
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;
/// How many requests an HTTP/2 connection may have open: the least that browsers expect (RFC 9113 section 6.5.2).
const MAX_CONCURRENT_STREAMS: u32 = 100;
/// How many bytes of unread request bodies h2 holds, per connection and per stream: the initial window of the protocol.
const WINDOW_BYTES: u32 = 64 * 1024 - 1;
/// The size of the dynamic table with which a client may compress its fields. An entry keeps the buffer alive that it arrived
/// in, which may be 500 times as large: see [`FrameWatch`](super::http2::FrameWatch).
const HEADER_TABLE_BYTES: u32 = 0;
/// How often an idle HTTP/2 connection gets a PING, to find out whether it is alive.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How many bytes of the shared memory one HTTP/2 field occupies in addition to its text.
const FIELD_BYTES: usize = 104;
/// The size up to which the head of a request does not count as shared memory.
const OWN_HEAD_BYTES: usize = 1024;

/// What all connections of a server have in common.
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<Tracked>,
    edge: Arc<EdgeCore>,
    limits: Arc<Limits>,
}

/// Runs the streams of HTTP/2 as tasks that the server waits for.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(Stream {
            future,
            exchange: None,
        });
    }
}

pin_project! {
    /// A stream of HTTP/2, which ends when its response is reset. Dropping it makes h2 reset the stream.
    struct Stream<F> {
        #[pin]
        future: F,
        // Set when its response starts.
        exchange: Option<Arc<Exchange>>,
    }
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let outcome = this.future.poll(context);
        if let Some(begun) = take_begun() {
            *this.exchange = Some(begun);
        }
        match this.exchange {
            Some(exchange) if outcome.is_pending() => exchange.poll_unread(context),
            _ => outcome.map(drop),
        }
    }
}

impl Protocols {
    pub(super) fn new(edge: EdgeCore, limits: Arc<Limits>, tasks: TaskTracker) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            // `Limits::sweep` enforces the timeout of heads.
            .header_read_timeout(None)
            // Skips hyper's EOF probe, a system call and a buffer for each request; handlers are not cancelled when the
            // client disconnects.
            .half_close(true)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(MAX_HEAD_BYTES);
        let mut http2 = http2::Builder::new(Tracked(tasks));
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .header_table_size(HEADER_TABLE_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .max_send_buf_size(MAX_UNWRITTEN);
        Self {
            http1,
            http2,
            edge: Arc::new(edge),
            limits,
        }
    }
}

/// Serves one connection until either side closes it.
pub(super) async fn serve(
    mut transport: Transport,
    remote_address: SocketAddr,
    protocols: Arc<Protocols>,
) {
    let connection = Arc::clone(transport.connection());
    let Ok(local_address) = transport.local_address() else {
        return;
    };
    let is_http2 = {
        let mut sniff = pin!(is_http2(&transport));
        let outcome = std::future::poll_fn(|context| {
            let outcome = sniff.as_mut().poll(context);
            connection.note_read_attempt();
            // If bytes have arrived, they are a request, which is served even during the shutdown.
            if outcome.is_pending() && connection.poll_told(context).is_ready() {
                return Poll::Ready(None);
            }
            outcome.map(Some)
        });
        match outcome.await {
            Some(Ok(is_http2)) => is_http2,
            // The connection was told to close, or its client has closed it.
            _ => return,
        }
    };
    let limits = &protocols.limits;
    if is_http2 {
        if !limits.connections.admit_http2(&connection, &limits.clock) {
            tracing::debug!(
                event = "http2_connection_refused",
                "closed a connection: too many connections use HTTP/2"
            );
            return;
        }
        transport.watch_frames();
    }
    let service = Service {
        protocols: Arc::clone(&protocols),
        connection: Arc::clone(&connection),
        local_address,
        remote_address,
    };
    let service = service_fn(move |request| service.respond(request));
    // Boxed, since an `async` block would hold each of them twice.
    if is_http2 {
        let serving = Box::pin(protocols.http2.serve_connection(transport, service));
        run(serving, &connection, http2::Connection::graceful_shutdown).await;
    } else {
        let serving = protocols.http1.serve_connection(transport, service);
        let serving = Box::pin(serving.with_upgrades());
        run(
            serving,
            &connection,
            http1::UpgradeableConnection::graceful_shutdown,
        )
        .await;
    }
}

/// Runs a connection until it ends or is told to close.
async fn run<C>(mut serving: Pin<Box<C>>, connection: &Connection, drain: impl Fn(Pin<&mut C>))
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut is_draining = false;
    let ended = std::future::poll_fn(|context| {
        match connection.poll_command(context) {
            Some(Command::Close) => return Poll::Ready(Ok(())),
            Some(Command::Drain) if !is_draining => {
                is_draining = true;
                drain(serving.as_mut());
            }
            _ => {}
        }
        serving.as_mut().poll(context)
    });
    if let Err(error) = ended.await {
        tracing::debug!(event = "connection_failed", %error, "a connection failed");
    }
}

/// Waits for the first bytes of a connection, and returns whether it uses HTTP/2. Every HTTP/2 connection starts with the
/// method `PRI`, and no HTTP/1 request does (RFC 9113 section 3.4).
///
/// hyper-util can detect the protocol as well. But it reads the whole preface for that, and then takes twice the memory for
/// every HTTP/1 connection.
async fn is_http2(transport: &Transport) -> io::Result<bool> {
    const METHOD: &[u8] = b"PRI";
    let mut first = [0; METHOD.len()];
    match transport.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first == METHOD),
    }
}

/// The response to one request. Boxed so that an idle connection carries no space for it.
type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

/// Responds to the requests of one connection.
#[derive(Clone)]
struct Service {
    protocols: Arc<Protocols>,
    connection: Arc<Connection>,
    local_address: SocketAddr,
    remote_address: SocketAddr,
}

impl Service {
    fn respond(&self, request: Request<Incoming>) -> ResponseFuture {
        let (exchange, admitted) = Exchange::begin(&self.protocols.limits, &self.connection);
        let rejection = admitted
            .and_then(|()| charge_head(&request, &exchange))
            .map_err(LimitError::problem_type)
            .and_then(|()| check_head(&request))
            .err();
        let version = request.version();
        let method = Method::from(request.method());
        let leaves_buffers =
            has_large_body(&request) && self.protocols.limits.connections.are_many();
        let mut request = self.poem_request(request, &exchange);
        let edge = Arc::clone(&self.protocols.edge);
        let (span, entry) = edge.observe(&mut request);
        let of_edge = Arc::clone(&exchange);
        let finish = move |response: poem::Response, span: RequestSpan| {
            let limit = || exchange.error().map(LimitError::problem_type);
            let rejection = entry.is_some().then(limit).flatten().or(rejection);
            let (response, overload) = finish(
                response.into(),
                Arc::clone(&exchange),
                version,
                leaves_buffers,
            );
            exchange.count(method, response.status());
            span.responded(response.status());
            if let Some(entry) = entry {
                entry.log(response.status(), overload.or(rejection));
            }
            Ok(response)
        };
        // Most requests are not cross-origin.
        if edge.applies_cors(&request) {
            let response = edge.respond_to_origin(request, of_edge, rejection);
            let response = span.enclose(response);
            return Box::pin(response.map(move |response| finish(response, span)));
        }
        let response = edge.respond(request, of_edge, rejection, Origin::None);
        let response = span.enclose(response);
        Box::pin(response.map(move |response| finish(response, span)))
    }

    fn poem_request(&self, request: Request<Incoming>, exchange: &Arc<Exchange>) -> poem::Request {
        let has_body = !request.body().is_end_stream();
        let mut request: poem::Request = (
            request,
            LocalAddr(self.local_address.into()),
            RemoteAddr(self.remote_address.into()),
            Scheme::HTTP,
        )
            .into();
        if has_body {
            RequestBody::limit(&mut request, exchange);
        }
        request
    }
}

/// Returns whether the body does not fit in the buffer that each connection has. The memory of a larger body is not freed
/// while its connection is open. So while many connections are open, this one is closed after the response.
fn has_large_body(request: &Request<Incoming>) -> bool {
    const BUFFER: u64 = 8 * 1024;
    let body = request.body();
    !body.is_end_stream() && body.size_hint().upper().is_none_or(|bytes| bytes > BUFFER)
}

/// Counts a large HTTP/2 head as shared memory. The transport counts an HTTP/1 head, before it is complete.
fn charge_head(request: &Request<Incoming>, exchange: &Exchange) -> Result<(), LimitError> {
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    let fields: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES)
        .sum();
    let bytes = fields + request.uri().path().len();
    if bytes <= OWN_HEAD_BYTES {
        return Ok(());
    }
    exchange.charge(bytes)
}

/// Checks what hyper does not: the number of fields of HTTP/2, and that there is one `Host` (RFC 9112 section 3.2).
fn check_head(request: &Request<Incoming>) -> Result<(), ProblemType> {
    let headers = request.headers();
    if headers.len() > MAX_FIELDS {
        return Err(ProblemType::HEADER_FIELDS_TOO_LARGE);
    }
    let hosts = headers.get_all(header::HOST).iter().take(2).count();
    // HTTP/2 has `:authority` instead; HTTP/1.0 requires neither.
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(ProblemType::BAD_REQUEST);
    }
    Ok(())
}

/// Starts the response. If it is a streaming one, or an upgrade, and there are too many of those, starts a rejection instead,
/// and also returns its type.
fn finish(
    mut response: Response<BoxBody<Bytes, io::Error>>,
    exchange: Arc<Exchange>,
    version: Version,
    leaves_buffers: bool,
) -> (Response<ResponseBody>, Option<ProblemType>) {
    if version < Version::HTTP_2 && (exchange.is_draining() || leaves_buffers) {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    match ResponseBody::begin(response, Arc::clone(&exchange)) {
        Ok(response) => (response, None),
        Err(headers) => {
            let rejection = edge::reject_stream(headers);
            let response = ResponseBody::finite(rejection.into(), exchange);
            (response, Some(ProblemType::OVERLOADED))
        }
    }
}
