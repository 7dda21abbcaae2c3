//! What a glance sees is what the file held when it was taken; and what a read sees is what it holds.

use proptest::prelude::*;

use super::*;
use crate::base::disk::simulated::SimulatedDisk;
use crate::fs::tests::{SETTINGS, over};

const SIZE: usize = 5000;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize),
    /// What is dirty comes into the journal.
    Settle,
    /// All that memory holds decrypted goes.
    Forget,
    Truncate(usize),
    Punch(usize, usize),
    Read(usize, usize),
    Glance,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (0..SIZE - 600, 1..600usize);
    let step = prop_oneof![
        4 => place().prop_map(|(at, len)| Step::Write(at, len)),
        2 => Just(Step::Settle),
        1 => Just(Step::Forget),
        1 => (0..SIZE).prop_map(Step::Truncate),
        1 => place().prop_map(|(at, len)| Step::Punch(at, len)),
        2 => place().prop_map(|(at, len)| Step::Read(at, len)),
        3 => Just(Step::Glance),
    ];
    prop::collection::vec(step, 1..30)
}

/// Takes glances while the file changes, and looks through all of them in the end, a few bytes at a time.
async fn run(steps: Vec<Step>) {
    let (fs, journal) = over(SimulatedDisk::new(7), SETTINGS, Clock::System);
    tokio::spawn(journal.run());
    let (cache, ino) = (fs.cache.clone(), fs.mk(Ino::ROOT, "f"));
    let (mut model, mut glances) = (Vec::<u8>::new(), Vec::new());
    for (n, step) in (1..).zip(steps) {
        match step {
            Step::Write(at, len) => {
                cache.write(ino, at as u64, &vec![n; len]).unwrap();
                model.resize(model.len().max(at + len), 0);
                model[at..at + len].fill(n);
            }
            Step::Settle => cache.barrier(&[ino]).await.unwrap(),
            Step::Forget => {
                cache.frames.wipe(ino);
                cache.fresh.wipe(ino);
            }
            Step::Truncate(size) => {
                cache.truncate(ino, size as u64).await.unwrap();
                model.resize(size, 0);
            }
            Step::Punch(at, len) => {
                cache.punch(ino, at as u64..(at + len) as u64, None).await.unwrap();
                let end = model.len().min(at + len);
                model[at.min(end)..end].fill(0);
            }
            Step::Read(at, len) => {
                let read = cache.read(ino, at as u64, len).await.unwrap();
                let end = model.len().min(at + len);
                assert_eq!(read[..], model[at.min(end)..end]);
            }
            Step::Glance => glances.push((cache.glance(ino).unwrap(), model.clone())),
        }
    }
    glances.push((cache.glance(ino).unwrap(), model));
    let newest = glances.len() - 1;
    for (n, (mut glance, then)) in glances.into_iter().enumerate() {
        assert_eq!(glance.size, then.len() as u64);
        let mut out = vec![0xee; 333];
        for at in (0..then.len()).step_by(333) {
            let expected = &then[at..then.len().min(at + 333)];
            match cache.see(&mut glance, at as u64, &mut out) {
                Ok(seen) => assert!(seen == expected.len() && out[..seen] == *expected, "glance {n} at {at}"),
                Err(error) => assert!(error == CacheError::Stale && n < newest, "glance {n} at {at}: {error}"),
            }
        }
    }
}

proptest! {
    #[test]
    fn a_glance_sees_what_the_file_held_when_it_was_taken(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(steps));
    }
}

#[tokio::test]
async fn equal_versions_have_equal_contents() {
    let (fs, journal) = over(SimulatedDisk::new(7), SETTINGS, Clock::System);
    tokio::spawn(journal.run());
    let (cache, ino) = (fs.cache.clone(), fs.mk(Ino::ROOT, "f"));
    let mut seen = std::collections::HashMap::new();
    for n in 0..20u8 {
        match n % 4 {
            0 | 1 => cache.write(ino, 0, &[n]).unwrap(),
            2 => cache.barrier(&[ino]).await.unwrap(),
            _ => _ = cache.truncate(ino, u64::from(n)).await.unwrap(),
        }
        let contents = cache.read(ino, 0, 100).await.unwrap();
        let version = cache.contents_version(ino).unwrap();
        assert_eq!(version, cache.glance(ino).unwrap().version);
        assert_eq!(*seen.entry(version).or_insert(contents.clone()), contents, "{n}");
    }
    assert!(seen.len() >= 15);
}
