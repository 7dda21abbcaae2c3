//! The control socket: how `dripfs sync`, `status`, `cache` and `umount` speak to the process that serves a mount.
//!
//! One JSON object a line. Asked: `{"command":"sync"}`. Answered: any number of `{"progress":{...}}` (or, to those who watch,
//! `{"event":{...}}`), then one
//! `{"done":...}` or `{"error":{"code":1,"message":"..."}}`.
//!
//! Owns the protocol on both sides. Does not own what the commands do.
//! Invariants: only the same user or root is heard; a line has at most [`LINE_MAX`] bytes; a client that reads slowly
//! or not at all costs one task and a few buffers, for a bounded time, and holds up nobody else; clients that wait for
//! long, however many, keep nobody from asking for status or unmounting.

use std::future::Future;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use super::drive::Progress;
use super::drive::events::Event;

/// The longest line that is read, on either side.
pub const LINE_MAX: u64 = 64 * 1024;
/// How many clients are listened to at a time; more wait.
const CLIENTS_MAX: usize = 32;
/// How many may wait for a sync, and as many for an unmount; more are turned away. Each costs a descriptor.
const WAITING_MAX: usize = 64;
/// How many may have files fetched or dropped.
const FETCHING_MAX: usize = 8;
/// How many may watch events.
const WATCHING_MAX: usize = 8;
/// How long a client may take to say something, and to read an answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
/// The serving side says something at least this often while a command runs.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a client waits for a sign of life.
const SERVER_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Command {
    /// Answers once everything written before is in the vault.
    Sync,
    Status,
    /// Tells of each upload and download until the client leaves or the mount ends.
    Events,
    /// The same numbers, as text for Prometheus.
    Metrics,
    /// Unmounts and drains, then answers.
    Umount,
    /// Fetches a file, or all files below a directory; paths are from the root of the drive.
    Warm {
        #[serde(with = "super::path_json")]
        path: PathBuf,
    },
    /// Lets go of what is kept of them.
    Drop {
        #[serde(with = "super::path_json")]
        path: PathBuf,
    },
    /// Lists files in memory, from an inode number on.
    Cached {
        #[serde(with = "super::path_json")]
        path: PathBuf,
        from: u64,
    },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Progress(Progress),
    Event(Event),
    Done(Value),
    Error { code: u8, message: String },
}

impl Reply {
    fn ends(&self) -> bool {
        !matches!(self, Reply::Progress(_) | Reply::Event(_))
    }
}

/// What carries out the commands.
pub trait Handler: Send + Sync + 'static {
    /// Sends replies, the last of them `Done` or `Error`. Progress goes by `try_send`: a slow client misses some.
    fn handle(self: Arc<Self>, command: Command, replies: mpsc::Sender<Reply>) -> impl Future<Output = ()> + Send;
}

/// Room for clients. One that is listened to, or gets a short answer, soon makes way for others; one that waits for the
/// vault does not, and is counted apart.
#[derive(Clone)]
struct Room {
    listening: Arc<Semaphore>,
    syncs: Arc<Semaphore>,
    unmounts: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

impl Room {
    fn new() -> Room {
        let room = |most| Arc::new(Semaphore::new(most));
        let (syncs, unmounts, fetches) = (room(WAITING_MAX), room(WAITING_MAX), room(FETCHING_MAX));
        Room { listening: room(CLIENTS_MAX), syncs, unmounts, fetches, watches: room(WATCHING_MAX) }
    }

    /// Where a command that takes long is counted.
    fn waiting(&self, command: &Command) -> Option<&Arc<Semaphore>> {
        match command {
            Command::Sync => Some(&self.syncs),
            Command::Umount => Some(&self.unmounts),
            Command::Warm { .. } | Command::Drop { .. } => Some(&self.fetches),
            Command::Events => Some(&self.watches),
            Command::Status | Command::Metrics | Command::Cached { .. } => None,
        }
    }
}

/// Serves clients until the listener fails or the caller drops this; each on its own task of `tasks`.
pub async fn serve(listener: tokio::net::UnixListener, handler: Arc<impl Handler>, tasks: TaskTracker) {
    let room = Room::new();
    let me = rustix::process::geteuid().as_raw();
    loop {
        let Ok(permit) = room.listening.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors, most likely: it passes, and must not spin.
                log::warn!("control socket: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == me || peer.uid() == 0 => {}
            Ok(peer) => {
                log::warn!("control socket: user {} was turned away", peer.uid());
                continue;
            }
            Err(_) => continue,
        }
        tasks.spawn(converse(stream, handler.clone(), room.clone(), permit));
    }
}

/// One client, from its first line until it closes or errs. `listened` counts it while it is being listened to.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send,
    handler: Arc<impl Handler>,
    room: Room,
    mut listened: OwnedSemaphorePermit,
) {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = tokio::io::BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut read).take(LINE_MAX);
        match tokio::time::timeout(CLIENT_PATIENCE, bounded.read_until(b'\n', &mut line)).await {
            Ok(Ok(0)) | Ok(Err(_)) | Err(_) => return,
            Ok(Ok(_)) => {}
        }
        let refused = |message: String| Reply::Error { code: 1, message };
        if line.last() != Some(&b'\n') {
            let _ = send(&mut write, &refused("the line is too long or unfinished".into())).await;
            return;
        }
        let command = match serde_json::from_slice::<Command>(&line) {
            Ok(command) => command,
            Err(e) => {
                let answer = refused(format!("the running dripfs does not know this command: {e}"));
                match send(&mut write, &answer).await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            }
        };
        let answered = match room.waiting(&command).map(|waiting| waiting.clone().try_acquire_owned()) {
            None => answer(&mut write, handler.clone(), command).await,
            Some(Err(_)) => {
                let many = "many others wait for the same already: try again later".to_owned();
                send(&mut write, &refused(many)).await
            }
            Some(Ok(waiting)) => {
                drop(listened);
                let answered = answer(&mut write, handler.clone(), command).await;
                drop(waiting);
                let Ok(again) = room.listening.clone().acquire_owned().await else { return };
                listened = again;
                answered
            }
        };
        if answered.is_err() {
            return;
        }
    }
}

/// Runs one command and passes its replies on. The command goes on if the client leaves: an unmount is not undone.
async fn answer(write: &mut (impl AsyncWrite + Unpin), handler: Arc<impl Handler>, command: Command) -> io::Result<()> {
    let (sender, mut replies) = mpsc::channel(16);
    tokio::spawn(handler.handle(command, sender));
    while let Some(reply) = replies.recv().await {
        send(write, &reply).await?;
        if reply.ends() {
            return Ok(());
        }
    }
    send(write, &Reply::Error { code: 1, message: "the command ended without an answer".into() }).await
}

async fn send(write: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    match tokio::time::timeout(CLIENT_PATIENCE, write.write_all(&line)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[derive(Debug, Error)]
pub enum CallError {
    /// The serving process says so.
    #[error("{message}")]
    Failed { code: u8, message: String },
    #[error("the process that serves the mount ended before it answered; what was fsynced is safe in its journal")]
    Ended,
    #[error("the process that serves the mount does not answer: {0}")]
    Silent(io::Error),
    #[error("the process that serves the mount answers what this dripfs does not understand: {0}")]
    Strange(String),
}

/// Asks the serving process and waits for its last word.
pub fn call(stream: UnixStream, command: &Command, progress: impl FnMut(Progress)) -> Result<Value, CallError> {
    converse_with(stream, command, progress, |_| true)
}

/// Hears events until the mount ends, or `told` wants no more.
pub fn watch(stream: UnixStream, told: impl FnMut(Event) -> bool) -> Result<Value, CallError> {
    converse_with(stream, &Command::Events, |_| (), told)
}

fn converse_with(
    stream: UnixStream,
    command: &Command,
    mut progress: impl FnMut(Progress),
    mut told: impl FnMut(Event) -> bool,
) -> Result<Value, CallError> {
    stream.set_read_timeout(Some(SERVER_PATIENCE)).map_err(CallError::Silent)?;
    stream.set_write_timeout(Some(SERVER_PATIENCE)).map_err(CallError::Silent)?;
    let mut line = serde_json::to_vec(command).map_err(|e| CallError::Strange(e.to_string()))?;
    line.push(b'\n');
    (&stream).write_all(&line).map_err(CallError::Silent)?;
    let mut read = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match io::Read::take(&mut read, LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return Err(CallError::Ended),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(CallError::Ended),
            Err(e) => return Err(CallError::Silent(e)),
            Ok(_) => {}
        }
        match serde_json::from_slice(&line).map_err(|e| CallError::Strange(e.to_string()))? {
            Reply::Progress(now) => progress(now),
            Reply::Event(event) if told(event.clone()) => {}
            Reply::Event(_) => return Ok(Value::Null),
            Reply::Done(value) => return Ok(value),
            Reply::Error { code, message } => return Err(CallError::Failed { code, message }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Syncs in three steps, knows its status, and cannot be unmounted.
    struct Toy;

    impl Handler for Toy {
        async fn handle(self: Arc<Self>, command: Command, replies: mpsc::Sender<Reply>) {
            let last = match command {
                Command::Sync => {
                    for pending_bytes in [3, 2, 1] {
                        let _ = replies.try_send(Reply::Progress(Progress { pending_files: 1, pending_bytes }));
                    }
                    Reply::Done(Value::Null)
                }
                Command::Status => Reply::Done(serde_json::json!({ "state": "ready" })),
                _ => Reply::Error { code: 1, message: "no".into() },
            };
            let _ = replies.send(last).await;
        }
    }

    /// A conversation with nobody else around.
    async fn alone(stream: impl AsyncRead + AsyncWrite + Send) {
        let room = Room::new();
        let permit = room.listening.clone().acquire_owned().await.unwrap();
        converse(stream, Arc::new(Toy), room, permit).await;
    }

    fn serving() -> (UnixStream, tokio::runtime::Runtime) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move { alone(tokio::net::UnixStream::from_std(theirs).unwrap()).await });
        (ours, runtime)
    }

    #[test]
    fn commands_are_answered_with_progress_and_one_last_word() {
        let (stream, _runtime) = serving();
        let mut seen = Vec::new();
        let again = || stream.try_clone().unwrap();
        assert_eq!(call(again(), &Command::Sync, |p| seen.push(p.pending_bytes)).unwrap(), Value::Null);
        assert_eq!(seen, [3, 2, 1]);
        assert_eq!(call(again(), &Command::Status, |_| ()).unwrap()["state"], "ready");
        let error = call(again(), &Command::Umount, |_| ()).unwrap_err();
        assert!(matches!(error, CallError::Failed { code: 1, message } if message == "no"));
    }

    #[test]
    fn the_lines_are_as_documented() {
        let line = |reply: &Reply| serde_json::to_string(reply).unwrap();
        assert_eq!(serde_json::to_string(&Command::Sync).unwrap(), r#"{"command":"sync"}"#);
        assert_eq!(serde_json::from_str::<Command>(r#"{"command":"umount"}"#).unwrap(), Command::Umount);
        let warm = Command::Warm { path: "a/b".into() };
        assert_eq!(serde_json::to_string(&warm).unwrap(), r#"{"command":"warm","path":"a/b"}"#);
        let list = r#"{"command":"cached","path":"","from":7}"#;
        assert_eq!(serde_json::from_str::<Command>(list).unwrap(), Command::Cached { path: "".into(), from: 7 });
        assert_eq!(
            line(&Reply::Progress(Progress { pending_files: 1, pending_bytes: 2 })),
            r#"{"progress":{"pending_files":1,"pending_bytes":2}}"#
        );
        assert_eq!(line(&Reply::Done(Value::Null)), r#"{"done":null}"#);
        assert_eq!(line(&Reply::Error { code: 11, message: "x".into() }), r#"{"error":{"code":11,"message":"x"}}"#);
    }

    #[test]
    fn an_unknown_command_is_refused_and_the_next_one_served() {
        let (stream, _runtime) = serving();
        (&stream).write_all(b"{\"command\":\"dance\"}\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("does not know this command"), "{line}");
        call(stream, &Command::Status, |_| ()).unwrap();
    }

    #[test]
    fn a_line_without_end_is_cut_off() {
        let (stream, _runtime) = serving();
        let sender = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            // The other side closes long before this is through.
            let _ = (&sender).write_all(&vec![b'x'; 16 * LINE_MAX as usize]);
        });
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("too long"), "{line}");
    }

    #[test]
    fn a_process_that_ended_is_told_from_one_that_answers() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(&theirs).read_line(&mut line).unwrap();
        });
        assert!(matches!(call(ours, &Command::Status, |_| ()), Err(CallError::Ended)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_let_go() {
        let (_silent, theirs) = tokio::io::duplex(64);
        let began = tokio::time::Instant::now();
        alone(theirs).await;
        assert_eq!(began.elapsed(), CLIENT_PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_let_go() {
        let (mut deaf, theirs) = tokio::io::duplex(32);
        deaf.write_all(b"{\"command\":\"sync\"}\n").await.unwrap();
        tokio::time::timeout(2 * CLIENT_PATIENCE, alone(theirs)).await.unwrap();
    }

    /// Syncs and unmounts never end.
    struct Stuck;

    impl Handler for Stuck {
        async fn handle(self: Arc<Self>, command: Command, replies: mpsc::Sender<Reply>) {
            if command != Command::Status {
                std::future::pending::<()>().await;
            }
            let _ = replies.send(Reply::Done(Value::Null)).await;
        }
    }

    async fn ask(path: &std::path::Path, line: &str) -> tokio::net::UnixStream {
        let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        stream
    }

    async fn hear(stream: tokio::net::UnixStream) -> String {
        let mut line = String::new();
        let heard = tokio::io::BufReader::new(stream);
        tokio::pin!(heard);
        tokio::time::timeout(Duration::from_secs(5), heard.read_line(&mut line)).await.expect("an answer").unwrap();
        line
    }

    #[tokio::test]
    async fn any_number_that_waits_keeps_nobody_from_status_and_umount() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let serving = tokio::spawn(serve(listener, Arc::new(Stuck), TaskTracker::new()));
        let mut waiting = Vec::new();
        for _ in 0..WAITING_MAX {
            waiting.push(ask(&path, "{\"command\":\"sync\"}\n").await);
            assert!(hear(ask(&path, "{\"command\":\"status\"}\n").await).await.contains("done"));
        }
        // The last ones may not be counted yet: they are served side by side.
        let refused = loop {
            let mut stream = ask(&path, "{\"command\":\"sync\"}\n").await;
            let mut byte = [0];
            match tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut byte)).await {
                Ok(_) => break hear(stream).await,
                Err(_) => waiting.push(stream),
            }
            assert!(waiting.len() < 2 * WAITING_MAX);
        };
        assert!(refused.contains("try again later"), "{refused}");
        waiting.push(ask(&path, "{\"command\":\"umount\"}\n").await);
        assert!(hear(ask(&path, "{\"command\":\"status\"}\n").await).await.contains("done"));
        serving.abort();
    }
}
