//! J6 and promise 6: what a full journal refuses, and what it does not.

use super::*;

const SMALL: Settings = Settings { disk_bytes: 800_000, reserve_bytes: 40_000, ..SETTINGS };

/// Files until there is no room for another name.
async fn fill(fs: &Fs, journal: &Journal) -> usize {
    for k in 0.. {
        // Long names: some of them fill a journal.
        let name = format!("{k:0>200}");
        match fs.create(Ino::ROOT, name.as_bytes(), 0o644, USER).await {
            Ok(_) => journal.wait_durable(journal.end()).await.expect("durable"),
            Err(FsError::NoSpace) => return k,
            Err(other) => panic!("{other}"),
        }
    }
    unreachable!()
}

#[tokio::test(start_paused = true)]
async fn j6_names_are_refused_on_a_full_journal_and_may_be_removed() {
    let (fs, journal) = over(SimulatedDisk::new(7), SMALL, Clock::System);
    let writer = tokio::spawn(journal.clone().run());
    let last = fill(&fs, &journal).await;
    assert!(last > 100, "{last}");
    assert!(journal.disk_bytes() < SMALL.disk_bytes - SMALL.reserve_bytes + 4096);
    let name = |k: usize| format!("{k:0>200}").into_bytes();
    let ino = fs.lookup(Ino::ROOT, &name(0)).await.expect("lookup").ino;
    let refused = [
        fs.mkdir(Ino::ROOT, b"d", 0o755, USER).await.map(drop),
        fs.link(ino, Ino::ROOT, b"l").await.map(drop),
        fs.setxattr(ino, b"user.x", b"", false, false).await,
        fs.rename(Ino::ROOT, &name(0), Ino::ROOT, b"r", RenameMode::Replace).await,
        fs.setattr(ino, SetAttributes { mode: Some(0o600), ..SetAttributes::default() }, SUPERUSER).await.map(drop),
    ];
    assert_eq!(refused, std::array::repeat(Err(FsError::NoSpace)));
    fs.unlink(Ino::ROOT, &name(0)).await.expect("unlink");
    let ino = fs.lookup(Ino::ROOT, &name(1)).await.expect("lookup").ino;
    fs.truncate(ino, 0, false).await.expect("truncate");
    journal.wait_durable(journal.end()).await.expect("durable");
    // Even that ends somewhere.
    let mut refused = None;
    for k in 2..last {
        refused = fs.unlink(Ino::ROOT, &name(k)).await.err();
        journal.wait_durable(journal.end()).await.expect("durable");
        if refused.is_some() {
            break;
        }
    }
    assert!(refused.is_none_or(|error| error == FsError::NoSpace));
    assert!(journal.disk_bytes() < SMALL.disk_bytes + 4096);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn j6_names_are_refused_once_a_failing_disk_has_used_up_the_memory() {
    let disk = SimulatedDisk::new(7);
    let settings = Settings { memory_bytes: 200_000, reserve_bytes: 40_000, ..SETTINGS };
    let (fs, journal) = over(disk.clone(), settings, Clock::System);
    let writer = tokio::spawn(journal.clone().run());
    disk.fail_writes(u32::MAX);
    let mut refused = None;
    for k in 0..2000 {
        refused = fs.mkdir(Ino::ROOT, format!("{k}").as_bytes(), 0o755, USER).await.err();
        if refused.is_some() {
            break;
        }
    }
    assert!(matches!(refused, Some(FsError::Io(_))), "EIO, and it says why: {refused:?}");
    disk.fail_writes(0);
    journal.wait_durable(journal.end()).await.expect("what was answered is kept");
    fs.mkdir(Ino::ROOT, b"again", 0o755, USER).await.expect("all goes on");
    writer.abort();
}

/// A file with dirty bytes for which a disk has no room, with a capture of them under way or not.
async fn stuck(capturing: bool) -> (Fs, Arc<Journal>, Arc<SimulatedDisk>, Ino, tokio::task::JoinHandle<()>) {
    let disk = SimulatedDisk::new(7);
    let (fs, journal) = over(disk.clone(), Settings { reserve_bytes: 40_000, ..SETTINGS }, Clock::System);
    let writer = tokio::spawn(journal.clone().run());
    let ino = fs.mk(Ino::ROOT, "big");
    journal.wait_durable(journal.end()).await.expect("durable");
    disk.set_capacity(Some(100_000));
    // Until the journal has looked at the disk again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    fs.write(ino, 0, vec![1; 300_000], false).await.expect("there is memory for it");
    if capturing {
        fs.flush(ino).await.expect("flush");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    (fs, journal, disk, ino, writer)
}

#[tokio::test(start_paused = true)]
async fn j6_truncation_to_nothing_needs_no_room_for_what_it_throws_away() {
    for capturing in [false, true] {
        let (fs, journal, disk, ino, writer) = stuck(capturing).await;
        let began = tokio::time::Instant::now();
        fs.open(ino, true, true, USER).await.expect("O_TRUNC");
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(fs.at(ino).size, 0);
        assert_eq!(fs.read(ino, 0, 100).await.expect("read"), b""[..]);
        // New bytes go where the old ones were, and nothing of those comes back.
        fs.write(ino, 50_000, vec![2; 1000], false).await.expect("write");
        assert_eq!(fs.at(ino).size, 51_000);
        disk.set_capacity(None);
        fs.settle(&[ino]).await.expect("it is in the journal");
        journal.wait_durable(journal.end()).await.expect("durable");
        let read = fs.read(ino, 0, 60_000).await.expect("read");
        assert!(read.len() == 51_000 && read[..50_000].iter().all(|b| *b == 0) && read[50_000..] == [2; 1000]);
        // A capture that was under way may end later: it appends nothing.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(fs.is_settled(ino) && fs.at(ino).size == 51_000);
        assert_eq!(fs.cache.counts().dirty_bytes, 0);
        writer.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn j6_bytes_that_found_no_room_stay_dirty_until_there_is_some() {
    let (fs, journal, disk, ino, writer) = stuck(true).await;
    assert_eq!(fs.fsync(ino, false).await, Err(FsError::NoSpace));
    assert_eq!(fs.read(ino, 299_000, 4096).await.expect("read").len(), 1000);
    disk.set_capacity(None);
    fs.settle(&[ino]).await.expect("all goes on");
    journal.wait_durable(journal.end()).await.expect("durable");
    assert!(fs.read(ino, 0, 300_000).await.expect("read") == vec![1; 300_000]);
    writer.abort();
}
