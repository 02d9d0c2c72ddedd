//! What hyper reads from and writes to.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Answers up to this size, which are almost all, go to the kernel in one piece.
const SMALL: usize = 1024;

/// A TCP stream that joins the head and the body of a small answer.
///
/// Copying some hundred octets costs less than having the kernel gather them: `send` is a shorter way than `writev`.
pub(super) struct Stream(TokioIo<TcpStream>);

impl Stream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(TokioIo::new(stream))
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut TokioIo<TcpStream>> {
        Pin::new(&mut self.get_mut().0)
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(context, octets)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(context)
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
                return self.inner().poll_write_vectored(context, parts);
            };
            place.copy_from_slice(part);
            rest = behind;
        }
        let length = SMALL - rest.len();
        self.inner().poll_write(context, &joined[..length])
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn parts_go_out_in_their_order_whether_they_are_joined_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        for body_length in [0, 1, SMALL - 11, SMALL - 10, SMALL - 9, 4 * SMALL] {
            let stream = TcpStream::connect(address).await.expect("a listener");
            let (mut peer, _) = listener.accept().await.expect("a connection");
            let head = [b'h'; 10];
            let body: Vec<u8> = (b'a'..=b'z').cycle().take(body_length).collect();
            let mut stream = Stream::new(stream);
            // The last is empty, as the rest of what hyper has may be.
            let parts = [IoSlice::new(&head), IoSlice::new(&body), IoSlice::new(&[])];
            let written =
                poll_fn(|context| Pin::new(&mut stream).poll_write_vectored(context, &parts)).await;
            drop(stream);
            let mut received = Vec::new();
            peer.read_to_end(&mut received).await.expect("the octets");
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
