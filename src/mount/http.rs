//! Metrics and health over HTTP, for this machine alone (A18): `GET /metrics`, `GET /health`, nothing else.
//!
//! Owns what is heard and refused. Does not own what is told.
//! Invariants: only loopback addresses are listened on; a request that names another host is refused, so that no page in a
//! browser gets at it by a name of its own that points here; a client that is slow costs one task, for a bounded time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// The longest request head that is read.
const HEAD_MAX: usize = 8 * 1024;
/// How many clients at a time.
const CLIENTS_MAX: usize = 8;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is told.
pub trait Told: Send + Sync + 'static {
    fn metrics(&self) -> String;
    /// The state in a word, and whether all is well.
    fn health(&self) -> (&'static str, bool);
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, told: Arc<impl Told>) {
    let room = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) if peer.ip().is_loopback() => {
                let told = told.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    // A client that is gone or too slow hears nothing; that is all that becomes of it.
                    let _ = tokio::time::timeout(PATIENCE, converse(stream, &*told)).await;
                });
            }
            Ok((_, peer)) => log::warn!("metrics: {peer} was turned away"),
            Err(e) => {
                // Out of descriptors, most likely: it passes, and must not spin.
                log::warn!("metrics: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Is it an address that only this machine reaches?
pub fn may_listen(address: &SocketAddr) -> bool {
    address.ip().is_loopback()
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, told: &impl Told) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX {
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await? {
            0 => return Ok(()),
            len => head.extend_from_slice(&piece[..len]),
        }
    }
    let (status, text) = answer(&String::from_utf8_lossy(&head), told);
    let kind = match text.ends_with("# EOF\n") {
        true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        false => "text/plain; charset=utf-8",
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nX-Content-Type-Options: nosniff\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn answer(head: &str, told: &impl Told) -> (&'static str, String) {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let hosts: Vec<&str> = lines
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case("host"))
        .map(|(_, host)| host.trim())
        .collect();
    match (method, path) {
        _ if !matches!(hosts[..], [host] if is_this_machine(host)) => {
            ("403 Forbidden", "ask for localhost, 127.0.0.1 or [::1]\n".to_owned())
        }
        ("GET", "/metrics") => ("200 OK", told.metrics()),
        ("GET", "/health") => match told.health() {
            (state, true) => ("200 OK", format!("{state}\n")),
            (state, false) => ("503 Service Unavailable", format!("{state}\n")),
        },
        ("GET", _) => ("404 Not Found", "/metrics or /health\n".to_owned()),
        _ => ("405 Method Not Allowed", "GET\n".to_owned()),
    }
}

/// A name of its own that a page gave to this machine's address is not.
fn is_this_machine(host: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Well(bool);

    impl Told for Well {
        fn metrics(&self) -> String {
            "dripfs_up 1\n".to_owned()
        }
        fn health(&self) -> (&'static str, bool) {
            ("ready", self.0)
        }
    }

    fn ask(head: &str) -> &'static str {
        answer(&format!("{head}\r\n\r\n"), &Well(true)).0
    }

    #[test]
    fn a18_only_this_machine_is_answered_and_only_two_paths() {
        assert_eq!(ask("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9000"), "200 OK");
        assert_eq!(ask("GET /health HTTP/1.1\r\nhost: LOCALHOST"), "200 OK");
        assert_eq!(ask("GET /health HTTP/1.1\r\nHost: [::1]:80"), "200 OK");
        for host in ["evil.example", "evil.example:9000", "127.0.0.1.evil.example", "localhost@evil", "", "127.0.0.1:x"]
        {
            assert_eq!(ask(&format!("GET /metrics HTTP/1.1\r\nHost: {host}")), "403 Forbidden", "{host}");
        }
        assert_eq!(ask("GET /metrics HTTP/1.1"), "403 Forbidden");
        assert_eq!(ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil"), "403 Forbidden");
        assert_eq!(ask("GET /status HTTP/1.1\r\nHost: localhost"), "404 Not Found");
        assert_eq!(ask("POST /metrics HTTP/1.1\r\nHost: localhost"), "405 Method Not Allowed");
        assert!(answer("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", &Well(false)).0.starts_with("503"));
        let may = |address: &str| may_listen(&address.parse().unwrap());
        assert!(may("127.0.0.1:1") && may("[::1]:1") && !may("0.0.0.0:1") && !may("[::]:1") && !may("10.0.0.1:1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_too_much_or_nothing_is_let_go() {
        let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
        ours.write_all(&vec![b'x'; HEAD_MAX]).await.unwrap();
        converse(theirs, &Well(true)).await.unwrap();
        let mut said = String::new();
        ours.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 403"), "{said}");
        let (_silent, theirs) = tokio::io::duplex(64);
        assert!(tokio::time::timeout(PATIENCE, converse(theirs, &Well(true))).await.is_err());
    }
}
