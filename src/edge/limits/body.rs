//! The bodies of requests and responses.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{
    body::{Body, Bytes, Frame, SizeHint},
    http::{HeaderMap, Response, StatusCode},
};
use poem::Request;

use super::{
    SMALL_BODY,
    exchange::{Exchange, LimitError, ResponseKind},
};

/// A body is passed on in pieces of this size, or as a whole if it is smaller.
///
/// A frame as it arrives may be a single byte in a buffer of 8 KiB, which extractors would keep until the body is complete.
const PIECE: usize = 256 * 1024;

/// A response of HTTP/2 is passed on in pieces of this size, which a frame has by default (RFC 9113 section 4.2).
const RESPONSE_PIECE: usize = 16 * 1024;

/// The initial capacity of the buffer for a body.
const FIRST_CAPACITY: usize = 1024;

/// A request body within the limits of its request. It is read when its handler asks for it.
pub(crate) struct RequestBody {
    incoming: BoxBody<Bytes, io::Error>,
    exchange: Arc<Exchange>,
    piece: Vec<u8>,
    received: usize,
    is_done: bool,
}

impl RequestBody {
    /// Puts the body of a request within the limits of its exchange.
    pub(crate) fn limit(request: &mut Request, exchange: &Arc<Exchange>) {
        let incoming = request.take_body().into();
        let body = Self::new(incoming, Arc::clone(exchange));
        request.set_body(poem::Body::from(body.boxed()));
    }

    fn new(incoming: BoxBody<Bytes, io::Error>, exchange: Arc<Exchange>) -> Self {
        Self {
            incoming,
            exchange,
            piece: Vec::new(),
            received: 0,
            is_done: false,
        }
    }

    fn fail(&mut self, error: LimitError) -> io::Error {
        self.is_done = true;
        self.piece = Vec::new();
        self.exchange.fail(error);
        io::Error::other("the request body has reached a limit")
    }

    /// Returns how many bytes the client has announced beyond those received; 0 if it announced no length.
    fn announced(&self) -> usize {
        usize::try_from(self.incoming.size_hint().lower()).unwrap_or(usize::MAX)
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), LimitError> {
        self.received += bytes.len();
        if self.received > self.exchange.max_body() {
            return Err(LimitError::BodyTooLarge);
        }
        let needed = self.piece.len() + bytes.len();
        if needed > self.piece.capacity() {
            let whole = needed.saturating_add(self.announced());
            // Twice the capacity, but at most the announced length, which is never reserved all at once.
            let capacity = needed
                .max(self.piece.capacity() * 2)
                .max(FIRST_CAPACITY)
                .min(whole.max(needed));
            self.exchange.charge(capacity - self.piece.capacity())?;
            self.piece.reserve_exact(capacity - self.piece.len());
        }
        self.piece.extend_from_slice(bytes);
        Ok(())
    }

    /// Passes the piece on. A piece of a large body is counted twice, since an extractor that collects the body copies it.
    fn take_piece(&mut self) -> Result<Frame<Bytes>, LimitError> {
        if self.received > SMALL_BODY {
            self.exchange.charge(self.piece.len())?;
        }
        Ok(Frame::data(std::mem::take(&mut self.piece).into()))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.is_done {
            return Poll::Ready(None);
        }
        if let Some(error) = this.exchange.error() {
            return Poll::Ready(Some(Err(this.fail(error))));
        }
        if this.received.saturating_add(this.announced()) > this.exchange.max_body() {
            return Poll::Ready(Some(Err(this.fail(LimitError::BodyTooLarge))));
        }
        loop {
            let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(context) else {
                this.exchange.wait_for_body(this.received);
                return Poll::Pending;
            };
            this.exchange.stop_waiting();
            match frame {
                Some(Ok(frame)) => {
                    // Trailers are not passed on: nothing reads them.
                    let Some(bytes) = frame.data_ref() else {
                        continue;
                    };
                    if let Err(error) = this.add(bytes) {
                        return Poll::Ready(Some(Err(this.fail(error))));
                    }
                    if this.piece.len() >= PIECE {
                        let piece = this.take_piece().map_err(|error| this.fail(error));
                        return Poll::Ready(Some(piece));
                    }
                }
                Some(Err(error)) => {
                    this.is_done = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.is_done = true;
                    if this.piece.is_empty() {
                        return Poll::Ready(None);
                    }
                    let rest = this.take_piece().map_err(|error| this.fail(error));
                    return Poll::Ready(Some(rest));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_done || (self.piece.is_empty() && self.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.exchange.stop_waiting();
    }
}

/// A response body that ends the exchange when it is dropped.
pub(crate) struct ResponseBody {
    body: BoxBody<Bytes, io::Error>,
    exchange: Arc<Exchange>,
    kind: ResponseKind,
    /// How a finite response of HTTP/2 is passed on. Boxed, since most are of HTTP/1.
    pieces: Option<Box<Pieces>>,
}

#[derive(Default)]
struct Pieces {
    /// Bytes that were read from the body and not passed on.
    rest: Bytes,
    /// Whether the last byte is passed on separately, so that the response exists until the client can read all others.
    holds_last: bool,
    /// Whether a piece was passed on that h2 may not have taken yet.
    has_passed_on: bool,
}

impl Pieces {
    /// Passes `body` on only as fast as its connection accepts it, so that the part that the client does not read waits here.
    fn poll(
        &mut self,
        body: &mut BoxBody<Bytes, io::Error>,
        exchange: &Exchange,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let connection = exchange.connection();
        if std::mem::take(&mut self.has_passed_on) {
            // hyper asks for more when h2 has taken the last piece.
            exchange.note_taken();
        }
        ready!(connection.poll_takes(context));
        while self.rest.is_empty() {
            let length = body.size_hint().exact().unwrap_or_default();
            self.holds_last |= connection.may_read_in_parts(length);
            match ready!(Pin::new(&mut *body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let mut length = self.rest.len().min(RESPONSE_PIECE);
        let is_last = length == self.rest.len() && body.size_hint().exact() == Some(0);
        if self.holds_last && is_last && length > 1 {
            length -= 1;
        }
        connection.take(length);
        self.has_passed_on = true;
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}

impl ResponseBody {
    /// Starts a response. Fails with its headers if it is a streaming one, or an upgrade, and there are too many of those.
    pub(crate) fn begin(
        response: Response<BoxBody<Bytes, io::Error>>,
        exchange: Arc<Exchange>,
    ) -> Result<Response<Self>, HeaderMap> {
        let length = response.body().size_hint().exact();
        let kind = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            ResponseKind::Upgrade
        } else if response.body().is_end_stream() || length.is_some() {
            ResponseKind::Finite
        } else {
            ResponseKind::Streaming
        };
        if !exchange.begin_response(kind, length.unwrap_or_default()) {
            return Err(response.into_parts().0.headers);
        }
        Ok(response.map(|body| Self::new(body, exchange, kind)))
    }

    /// Starts a response of a known length.
    pub(crate) fn finite(
        response: Response<BoxBody<Bytes, io::Error>>,
        exchange: Arc<Exchange>,
    ) -> Response<Self> {
        let kind = ResponseKind::Finite;
        let length = response.body().size_hint().exact();
        exchange.begin_response(kind, length.unwrap_or_default());
        response.map(|body| Self::new(body, exchange, kind))
    }

    fn new(body: BoxBody<Bytes, io::Error>, exchange: Arc<Exchange>, kind: ResponseKind) -> Self {
        let is_in_pieces = kind == ResponseKind::Finite && exchange.connection().is_http2();
        Self {
            body,
            exchange,
            kind,
            pieces: is_in_pieces.then(Box::default),
        }
    }

    /// Returns how many bytes were read from the body and not passed on.
    fn rest(&self) -> usize {
        self.pieces.as_ref().map_or(0, |pieces| pieces.rest.len())
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Some(pieces) = &mut this.pieces {
            return pieces.poll(&mut this.body, &this.exchange, context);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if !this.body.is_end_stream() {
            this.exchange.note_waiting();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest() == 0 && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        if let Some(length) = hint.exact().filter(|_| self.pieces.is_some()) {
            hint.set_exact(length + self.rest() as u64);
        }
        hint
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.exchange.end_response(self.kind);
    }
}
