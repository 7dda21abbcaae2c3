//! A connection that can be slow: so many bytes a second, in each direction.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Sleep;

use super::Fault;

pub struct Wire {
    stream: TcpStream,
    fault: watch::Receiver<Fault>,
    reads: Pin<Box<Sleep>>,
    writes: Pin<Box<Sleep>>,
}

impl Wire {
    pub fn new(stream: TcpStream, fault: watch::Receiver<Fault>) -> Wire {
        let now = || Box::pin(tokio::time::sleep(Duration::ZERO));
        Wire { stream, fault, reads: now(), writes: now() }
    }

    /// Bytes a second, and how many of them at once.
    fn slow(&self) -> Option<(u64, usize)> {
        match *self.fault.borrow() {
            Fault::Slow(rate) => Some((rate, (rate as usize / 10).max(64))),
            _ => None,
        }
    }
}

fn rest(sleep: &mut Pin<Box<Sleep>>, bytes: usize, rate: u64) {
    sleep.as_mut().reset(tokio::time::Instant::now() + Duration::from_secs_f64(bytes as f64 / rate as f64));
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some((rate, most)) = self.slow() else { return Pin::new(&mut self.stream).poll_read(cx, buf) };
        ready!(self.reads.as_mut().poll(cx));
        let mut part = vec![0; most.min(buf.remaining())];
        let mut part = ReadBuf::new(&mut part);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        rest(&mut self.reads, part.filled().len(), rate);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Some((rate, most)) = self.slow() else { return Pin::new(&mut self.stream).poll_write(cx, buf) };
        ready!(self.writes.as_mut().poll(cx));
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &buf[..buf.len().min(most)]))?;
        rest(&mut self.writes, written, rate);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
