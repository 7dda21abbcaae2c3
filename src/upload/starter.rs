//! Starter: takes a file's dirty bytes into the pipeline when somebody asks, or time or memory does, and the next stage
//! has asked for more.
//!
//! Small captures run where they are asked for, without a hop to another task. Of others the *source* waits in line, not
//! its bytes: they are captured when there is memory for them and Encryption asks, so whatever is written over meanwhile
//! is sealed once. One that began runs as a task of its own, so that nobody's going away stops it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;

use super::encryption::Encryption;
use super::journal::JournalStage;
use super::{Capture, Sealed, Source, UploadError};
use crate::base::sizes::EXTENT_MAX;
use crate::base::{Ino, Position};
use crate::pipeline::{Class, INLINE_BYTES, Memory, StageStatus, Urgency, Use};

/// Fewer dirty bytes than this go before bulk.
const SMALL: usize = 256 * 1024;

#[derive(Clone)]
pub struct Starter {
    encryption: Arc<Encryption>,
    journal: Arc<JournalStage>,
    memory: Memory,
    /// Sources in line or under way.
    started: Arc<Mutex<BTreeMap<Ino, Urgency>>>,
}

/// A capture on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Started {
    /// Nothing was dirty.
    Nothing,
    /// It is in the journal (not yet durable).
    Done(Position),
    /// It will be: the source hears of it.
    Running,
}

impl Starter {
    pub fn new(encryption: Encryption, journal: JournalStage, memory: Memory) -> Starter {
        let (encryption, journal) = (Arc::new(encryption), Arc::new(journal));
        Starter { encryption, journal, memory, started: Arc::default() }
    }

    pub fn status(&self) -> [StageStatus; 2] {
        [self.encryption.status(), self.journal.status()]
    }

    /// Captures what `source` has, now or when its turn comes, and sends it down the pipeline. If it is in line or under way
    /// already, that becomes at least as urgent.
    pub fn start(&self, source: Arc<dyn Source>, class: Class) -> Result<Started, UploadError> {
        let (owner, dirty) = (source.owner(), source.dirty());
        if self.hurry(owner, class) {
            return Ok(Started::Running);
        }
        if dirty > INLINE_BYTES || !self.journal.has_room(dirty) {
            self.line_up(source, class, dirty, None);
            return Ok(Started::Running);
        }
        let Some(capture) = source.capture() else { return Ok(Started::Nothing) };
        if capture.bytes() > INLINE_BYTES {
            // It grew in between.
            self.line_up(source, class, capture.bytes(), Some(capture));
            return Ok(Started::Running);
        }
        let sealed = self.encryption.seal_here(&capture);
        let result = source.append(sealed);
        if let Err(error) = &result {
            source.give_back(error);
        }
        result.map(Started::Done)
    }

    /// Makes what is in line or under way of this source at least as urgent. False if nothing is.
    pub fn hurry(&self, owner: Ino, class: Class) -> bool {
        let started = self.started.lock();
        let Some(urgency) = started.get(&owner) else { return false };
        let raised = urgency.raise(class);
        drop(started);
        if raised {
            self.encryption.look_again();
            self.journal.look_again();
        }
        true
    }

    fn line_up(&self, source: Arc<dyn Source>, class: Class, dirty: usize, capture: Option<Capture>) {
        let class = if dirty <= SMALL { class.min(Class::Small) } else { class };
        let (owner, urgency) = (source.owner(), Urgency::new(class));
        self.started.lock().insert(owner, urgency.clone());
        let this = self.clone();
        tokio::spawn(async move {
            // A panic must not leave frozen bytes behind that nobody can ever send.
            let run = std::panic::AssertUnwindSafe(this.run(&source, &urgency, dirty, capture)).catch_unwind();
            let result = run.await.unwrap_or(Err(UploadError::Sealing));
            // Before the source hears of it: whoever waits may start it again at once.
            this.started.lock().remove(&owner);
            match result {
                // Whoever heard of the append itself, and needs more, was told that something is under way.
                Ok(_) => source.out_of_line(),
                Err(error) => source.give_back(&error),
            }
        });
    }

    /// `None` if there was nothing to capture any more.
    async fn run(
        &self,
        source: &Arc<dyn Source>,
        urgency: &Urgency,
        dirty: usize,
        capture: Option<Capture>,
    ) -> Result<Option<Position>, UploadError> {
        // Rides along until the journal has it all.
        let mut permit = self.memory.take(Use::Capture, urgency, dirty).await;
        let asked = self.encryption.offer(urgency, dirty.min(EXTENT_MAX)).await;
        let Some(capture) = capture.or_else(|| source.capture()) else { return Ok(None) };
        permit.grow_to(capture.bytes());
        let sealed = self.encryption.seal(capture, asked, urgency).await?;
        self.append(source, sealed, urgency).await.map(Some)
    }

    async fn append(
        &self,
        source: &Arc<dyn Source>,
        sealed: Vec<Sealed>,
        urgency: &Urgency,
    ) -> Result<Position, UploadError> {
        self.journal.append(source.clone(), sealed, urgency).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;
    use crate::base::Random;
    use crate::base::disk::simulated::{SeededBytes, SimulatedDisk};
    use crate::crypto::secret::{Key, SecretVec};
    use crate::format::keys::Keys;
    use crate::journal::Journal;
    use crate::journal::tests::small;
    use crate::pipeline::{self, Cpu};

    /// A file of which somebody needs several captures, and asks for the next as soon as one is in the journal.
    struct Hasty {
        this: Weak<Hasty>,
        starter: Starter,
        left: Mutex<u32>,
        look: Notify,
    }

    impl Hasty {
        fn start(&self) -> Started {
            self.starter.start(self.this.upgrade().unwrap(), Class::Waited).unwrap()
        }
    }

    impl Source for Hasty {
        fn owner(&self) -> Ino {
            Ino(7)
        }

        fn dirty(&self) -> usize {
            2 * INLINE_BYTES
        }

        fn capture(&self) -> Option<Capture> {
            let mut run = SecretVec::with_capacity(self.dirty());
            run.extend_from_slice(&vec![7; self.dirty()]);
            Some(Capture { owner: self.owner(), parts: vec![vec![Arc::new(run)]] })
        }

        fn append(&self, _: Vec<Sealed>) -> Result<Position, UploadError> {
            *self.left.lock() -= 1;
            assert_eq!(self.start(), Started::Running, "this one is in line still");
            Ok(Position(1))
        }

        fn give_back(&self, error: &UploadError) {
            panic!("{error}");
        }

        fn out_of_line(&self) {
            self.look.notify_one();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_again_at_the_append_is_told_when_the_line_is_free() {
        let keys = Arc::new(Keys::from_master(&Key::from_bytes([7; 32])));
        let random = Random::Simulated(Arc::new(SeededBytes::new(7)));
        let recovered = Journal::recover(SimulatedDisk::new(7), "journal", keys.clone(), Position(0)).unwrap();
        let journal = Journal::resume(recovered, random.clone(), small(), Position(0)).unwrap();
        let settings = pipeline::Settings::default();
        let sealing = Encryption::new(keys, random, false, Cpu::inline(), settings.seal);
        let stage = JournalStage::new(journal, settings.append);
        let starter = Starter::new(sealing, stage, Memory::new(settings.inflight_bytes));
        let source = Arc::new_cyclic(|this| {
            let (this, left) = (this.clone(), Mutex::new(3));
            Hasty { this, starter, left, look: Notify::new() }
        });
        let all = async {
            while *source.left.lock() > 0 {
                source.start();
                source.look.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("nobody says that it may go on");
    }
}
