//! Who asks while the drive is still being opened: a store may be slow, and a passphrase takes its time.
//!
//! Status says at once that it is being opened; everything else waits until the drive is there, and is passed on then.
//! Does not own what the commands do ([`super::serve`]).

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::control::{Command, Handler, Reply};
use super::serve::{Request, beating};

/// The state of a mount that is no drive yet.
pub const OPENING: &str = "opening";

/// What status shows of it: what a drive has to tell is not known yet, so nothing stands for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpeningStatus {
    #[serde(serialize_with = "super::path_json::lossy")]
    pub mountpoint: PathBuf,
    pub pid: u32,
    pub unmounting: bool,
    /// [`OPENING`].
    pub state: String,
    pub reason: String,
    pub url: String,
    pub state_directory: String,
}

pub struct Reception<H> {
    status: OpeningStatus,
    since: Instant,
    open: watch::Sender<Option<Arc<H>>>,
}

impl<H: Handler> Reception<H> {
    pub fn new(request: &Request) -> Reception<H> {
        let status = OpeningStatus {
            mountpoint: request.dir.clone(),
            pid: std::process::id(),
            unmounting: false,
            state: OPENING.to_owned(),
            reason: String::new(),
            url: request.url.clone(),
            state_directory: request.drive.state.to_string_lossy().into_owned(),
        };
        Reception { status, since: Instant::now(), open: watch::Sender::new(None) }
    }

    /// From now on this one answers.
    pub fn pass_on_to(&self, handler: Arc<H>) {
        self.open.send_replace(Some(handler));
    }

    fn status(&self) -> OpeningStatus {
        let reason = format!("not mounted yet; begun {} s ago", self.since.elapsed().as_secs());
        OpeningStatus { reason, ..self.status.clone() }
    }
}

impl<H: Handler> Handler for Reception<H> {
    async fn handle(self: Arc<Self>, command: Command, replies: mpsc::Sender<Reply>) {
        let mut open = self.open.subscribe();
        let now = open.borrow_and_update().clone();
        let handler = match (now, &command) {
            (Some(handler), _) => handler,
            (None, Command::Status) => {
                let last = match serde_json::to_value(self.status()) {
                    Ok(status) => Reply::Done(status),
                    Err(e) => Reply::Error { code: 1, message: e.to_string() },
                };
                // A client that left does not hear it.
                let _ = replies.send(last).await;
                return;
            }
            (None, _) => {
                let opened = beating(&replies, || None, open.wait_for(Option::is_some)).await;
                let opened = opened.ok().and_then(|handler| handler.clone());
                opened.expect("the sender lives as long as this, and waits for a handler")
            }
        };
        handler.handle(command, replies).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says to everything that it was asked.
    struct Toy;

    impl Handler for Toy {
        async fn handle(self: Arc<Self>, _: Command, replies: mpsc::Sender<Reply>) {
            replies.send(Reply::Done("asked".into())).await.unwrap();
        }
    }

    fn reception() -> Arc<Reception<Toy>> {
        let status = OpeningStatus {
            mountpoint: "/mnt/x".into(),
            pid: 7,
            unmounting: false,
            state: OPENING.to_owned(),
            reason: String::new(),
            url: "file:///v".to_owned(),
            state_directory: "/state".to_owned(),
        };
        Arc::new(Reception { status, since: Instant::now(), open: watch::Sender::new(None) })
    }

    #[tokio::test(start_paused = true)]
    async fn status_is_answered_at_once_and_the_rest_when_the_drive_is_there() {
        let reception = reception();
        let (sender, mut replies) = mpsc::channel(64);
        reception.clone().handle(Command::Status, sender).await;
        let Some(Reply::Done(status)) = replies.recv().await else { panic!("no answer") };
        assert_eq!((&status["state"], &status["url"]), (&"opening".into(), &"file:///v".into()), "{status}");
        assert!(status.get("pending_bytes").is_none(), "what is not known is not told: {status}");

        let (sender, mut replies) = mpsc::channel(64);
        let sync = tokio::spawn(reception.clone().handle(Command::Sync, sender));
        for _ in 0..3 {
            assert!(matches!(replies.recv().await, Some(Reply::Progress(_))), "a sign of life");
        }
        reception.pass_on_to(Arc::new(Toy));
        sync.await.unwrap();
        let mut last = None;
        while let Some(reply) = replies.recv().await {
            last = Some(reply);
        }
        assert_eq!(last, Some(Reply::Done("asked".into())));
        let (sender, mut replies) = mpsc::channel(64);
        reception.handle(Command::Status, sender).await;
        assert_eq!(replies.recv().await, Some(Reply::Done("asked".into())));
    }
}
