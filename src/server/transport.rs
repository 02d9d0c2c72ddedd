//! The transport that hyper reads from and writes to.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::http2::FrameWatch;
use crate::edge::limits::{Connection, Ticket};

/// Responses up to this size go to the kernel in one piece. Almost all are that small.
const SMALL: usize = 1024;

/// How many bytes are read at once. hyper doubles its buffer of 8 KiB, for the rest of the connection, whenever one read
/// fills it.
const MAX_READ: usize = 8 * 1024 - 1;

/// How many reads in a row an HTTP/2 connection may make before it yields to other tasks. tokio allows 128, which is 1 MiB, or
/// 80,000 frames. Meanwhile, the streams that these frames start could not end, and hundreds of connections would wait.
const READS_AT_ONCE: u8 = 4;

/// How many bytes of a head fit in the buffer that each connection has.
const OWN_BUFFER: usize = 8 * 1024;

/// A TCP stream that notes what it receives, and holds the place of its connection while it is open, even after an upgrade,
/// when a handler owns it.
///
/// It joins the head and the body of a small response: to copy some hundred bytes and call `send` costs less than `writev`.
/// hyper's own `writev(false)` copies bodies of every size, into a buffer that the connection keeps.
pub(super) struct Transport {
    stream: TcpStream,
    ticket: Ticket,
    head_bytes: usize,
    frames: Option<Box<FrameWatch>>,
    reads: u8,
}

impl Transport {
    pub(super) fn new(stream: TcpStream, ticket: Ticket) -> Self {
        Self {
            stream,
            ticket,
            head_bytes: 0,
            frames: None,
            reads: 0,
        }
    }

    /// Watches the frames of HTTP/2 from now on.
    pub(super) fn watch_frames(&mut self) {
        self.frames = Some(Box::default());
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.ticket.connection
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Waits for the first bytes and copies them to `buffer`, without taking them out of the stream.
    pub(super) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.peek(buffer).await
    }

    fn note_received(&mut self, bytes: &[u8]) {
        let Ticket {
            limits, connection, ..
        } = &self.ticket;
        let begins_head = connection.received(&limits.clock);
        if let Some(frames) = &mut self.frames {
            limits.recharge(connection, frames.watch(bytes));
            connection.set_window(frames.window());
            return;
        }
        if begins_head {
            self.head_bytes = 0;
        }
        if connection.is_between_heads() {
            self.head_bytes += bytes.len();
            if self.head_bytes > OWN_BUFFER {
                // hyper's buffer doubles as it grows.
                limits.recharge(connection, 2 * self.head_bytes - OWN_BUFFER);
            }
        }
    }

    fn note_written(&mut self, outcome: &Poll<io::Result<usize>>, wanted: usize) {
        let is_complete = matches!(outcome, Poll::Ready(Ok(written)) if *written == wanted);
        self.ticket.connection.set_blocked(!is_complete);
    }
}

impl Read for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let connection = &this.ticket.connection;
        if connection.is_told_to_close() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if this.reads == READS_AT_ONCE {
            this.reads = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut space = [MaybeUninit::uninit(); MAX_READ];
        let mut space = ReadBuf::uninit(&mut space[..MAX_READ.min(buffer.remaining())]);
        let outcome = Pin::new(&mut this.stream).poll_read(context, &mut space);
        if outcome.is_pending() {
            this.reads = 0;
            // hyper's task has registered itself for commands. The task of an upgraded connection has not.
            if connection.is_upgraded() {
                connection.poll_command(context);
            }
            return Poll::Pending;
        }
        ready!(outcome)?;
        this.reads += u8::from(this.frames.is_some());
        let bytes = space.filled();
        if !bytes.is_empty() {
            this.note_received(bytes);
        }
        buffer.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl Write for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.ticket.connection.is_told_to_close() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let outcome = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.note_written(&outcome, bytes.len());
        outcome
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper does not read while it writes a response, so a streaming response with nothing to write would outlive its
        // client. hyper flushes whenever it is polled.
        if this.ticket.connection.is_streaming() {
            let mut next = [MaybeUninit::uninit()];
            let outcome = this
                .stream
                .poll_peek(context, &mut ReadBuf::uninit(&mut next));
            if matches!(outcome, Poll::Ready(Ok(0) | Err(_))) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        ready!(Pin::new(&mut this.stream).poll_flush(context))?;
        if this.frames.is_some() {
            this.ticket.connection.has_written();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut joined = [0; SMALL];
        let mut rest = &mut joined[..];
        for part in parts {
            let Some((place, behind)) = rest.split_at_mut_checked(part.len()) else {
                let this = self.get_mut();
                let outcome = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
                this.note_written(&outcome, parts.iter().map(|part| part.len()).sum());
                return outcome;
            };
            place.copy_from_slice(part);
            rest = behind;
        }
        let length = SMALL - rest.len();
        self.poll_write(context, &joined[..length])
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{app::Config, clock::ManualClock, edge::limits::Limits};

    #[tokio::test]
    async fn http2_connection_yields_to_other_tasks() {
        let config = Config::of_variables(&[]);
        let clock = Arc::new(ManualClock::new(Duration::ZERO));
        let limits = Arc::new(Limits::new(config.http.limits(), 1, clock));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut peer = TcpStream::connect(address).await.expect("a listener");
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut transport = Transport::new(stream, limits.connections.admit(&limits).await);
        transport.watch_frames();
        // Fits in the buffers of the sockets.
        let sent = 2 * usize::from(READS_AT_ONCE) * MAX_READ;
        peer.write_all(&vec![0; sent]).await.expect("sent");
        let mut received = 0;
        let mut most_at_once = 0;
        while received < sent {
            let at_once = poll_fn(|context| {
                let mut at_once = 0;
                let mut buffer = [0; MAX_READ];
                loop {
                    let mut space = hyper::rt::ReadBuf::new(&mut buffer);
                    let outcome = Pin::new(&mut transport).poll_read(context, space.unfilled());
                    match outcome.map(|read| read.map(|()| space.filled().len())) {
                        Poll::Ready(Ok(count @ 1..)) => at_once += count,
                        Poll::Pending if at_once == 0 => return Poll::Pending,
                        _ => return Poll::Ready(at_once),
                    }
                }
            })
            .await;
            most_at_once = most_at_once.max(at_once);
            received += at_once;
        }
        assert_eq!(received, sent);
        assert!(
            most_at_once <= usize::from(READS_AT_ONCE) * MAX_READ,
            "{most_at_once}"
        );
    }

    #[tokio::test]
    async fn parts_keep_their_order_whether_joined_or_not() {
        let config = Config::of_variables(&[]);
        let clock = Arc::new(ManualClock::new(Duration::ZERO));
        let limits = Arc::new(Limits::new(config.http.limits(), 1, clock));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        for body_length in [0, 1, SMALL - 11, SMALL - 10, SMALL - 9, 4 * SMALL] {
            let stream = TcpStream::connect(address).await.expect("a listener");
            let (mut peer, _) = listener.accept().await.expect("a connection");
            let head = [b'h'; 10];
            let body: Vec<u8> = (b'a'..=b'z').cycle().take(body_length).collect();
            let mut transport = Transport::new(stream, limits.connections.admit(&limits).await);
            // The last part is empty, as hyper's last part may be.
            let parts = [IoSlice::new(&head), IoSlice::new(&body), IoSlice::new(&[])];
            let written =
                poll_fn(|context| Pin::new(&mut transport).poll_write_vectored(context, &parts))
                    .await;
            drop(transport);
            let mut received = Vec::new();
            peer.read_to_end(&mut received).await.expect("the bytes");
            // The buffers of a new connection hold all of it.
            assert_eq!(written.expect("written"), head.len() + body_length);
            assert_eq!(
                received,
                [&head[..], &body].concat(),
                "a body of {body_length}"
            );
        }
    }
}
