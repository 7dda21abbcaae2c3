//! J8: bulk extents lie in staged files, and go to the vault with them or out of them.

use super::super::staged;
use super::*;
use crate::format::padding;

/// Multiples of 5 are bulk: see `extent_bytes`.
const BULK: u32 = 70_000;

fn stages() -> Settings {
    Settings { stage_least: BULK as usize, ..settings() }
}

fn staged_files(disk: &SimulatedDisk) -> Vec<String> {
    let names = disk.list(DIR).unwrap();
    names.into_iter().filter(|name| staged::parse(name).is_some()).map(|name| format!("{DIR}/{name}")).collect()
}

fn ids(numbers: impl IntoIterator<Item = u64>) -> HashSet<ExtentId> {
    numbers.into_iter().map(extent_id).collect()
}

/// A journal in which these extents are durable, each with a change of its own.
async fn holding(disk: &Arc<SimulatedDisk>, numbers: impl IntoIterator<Item = u64>) -> (Arc<Journal>, Running) {
    let journal = open_with(disk, stages());
    let running = run(&journal);
    for n in numbers {
        journal.append(change(n), vec![extent(n)]);
    }
    journal.wait_durable(journal.end()).await.unwrap();
    (journal, running)
}

#[tokio::test(start_paused = true)]
async fn bulk_is_written_once_beside_the_journal_file_and_found_again() {
    let disk = SimulatedDisk::new(1);
    let before = len(&disk, &{
        let _ = open_with(&disk, stages());
        newest_file(&disk)
    });
    let (journal, running) = holding(&disk, [5, 6, 10]).await;
    assert!(len(&disk, &newest_file(&disk)) < before + u64::from(BULK), "it is not there too");
    let [path] = &staged_files(&disk)[..] else { panic!("{:?}", disk.paths()) };
    assert_eq!(len(&disk, path), 2 * u64::from(BULK));
    drop((journal, running));
    for disk in [disk.copy(), disk.copy().power_cut(&mut Dice::new(1)), disk.kill()] {
        let recovered = recover(&disk, 0).unwrap();
        assert_eq!(numbers(&recovered), [5, 6, 10]);
        let places = recovered.extent_places();
        for n in [5, 6, 10] {
            assert_eq!(recovered.read_extent(&places[&extent_id(n)]).unwrap(), extent_bytes(n));
        }
        let journal = Journal::resume(recovered, random(9), stages(), Position(0)).unwrap();
        for n in [5, 6, 10] {
            let wanted = extent_bytes(n);
            assert_eq!(journal.read(extent_id(n), 7..90).unwrap().unwrap(), wanted.slice(7..90));
        }
        assert!(journal.take_whole(&ids([5, 10])).await.is_empty(), "an earlier mount may have sent it");
    }
}

#[tokio::test(start_paused = true)]
async fn it_travels_padded_with_all_that_it_holds_and_only_once() {
    let disk = SimulatedDisk::new(1);
    let (journal, _running) = holding(&disk, [5, 6, 10]).await;
    let whole = journal.take_whole(&ids([5, 6, 10])).await;
    let [whole] = &whole[..] else { panic!("{} of them", whole.len()) };
    assert_eq!(whole.extents, [(extent_id(5), 0), (extent_id(10), BULK)]);
    assert_eq!(whole.len as usize, padding::class(2 * BULK as usize).unwrap());
    let object = journal.read_whole(whole).unwrap();
    for (n, at) in [(5, 0), (10, BULK as usize)] {
        assert_eq!(object.slice(at..at + BULK as usize), extent_bytes(n));
    }
    // It is durable.
    assert_eq!(len(&disk.copy().power_cut(&mut Dice::new(1)), &staged_files(&disk)[0]), u64::from(whole.len));
    assert!(journal.take_whole(&ids([5, 10])).await.is_empty());
    // What comes later lies elsewhere.
    journal.append(change(15), vec![extent(15)]);
    journal.wait_durable(journal.end()).await.unwrap();
    assert_eq!(journal.read_whole(whole).unwrap(), object);
    assert_eq!(journal.take_whole(&ids([15])).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_does_not_travel_with_what_must_not_nor_after_a_part_of_it_has() {
    let disk = SimulatedDisk::new(1);
    let (journal, _running) = holding(&disk, [5, 10]).await;
    assert!(journal.take_whole(&ids([5])).await.is_empty(), "one stays");
    assert!(journal.take_whole(&ids([5, 10])).await.is_empty());
    let disk = SimulatedDisk::new(2);
    let (journal, _running) = holding(&disk, [5, 10]).await;
    journal.travels_alone(extent_id(5));
    assert!(journal.take_whole(&ids([5, 10])).await.is_empty(), "one has left");
    let disk = SimulatedDisk::new(3);
    let (journal, _running) = holding(&disk, [5, 10, 15]).await;
    journal.release(&[extent_id(5), extent_id(10)]);
    assert!(journal.take_whole(&ids([15])).await.is_empty(), "it is mostly dead");
    let disk = SimulatedDisk::new(4);
    let (journal, _running) = holding(&disk, [5, 10, 15, 20, 25]).await;
    journal.release(&[extent_id(5)]);
    let whole = journal.take_whole(&ids([10, 15, 20, 25])).await;
    assert_eq!(whole.iter().flat_map(|whole| &whole.extents).count(), 4, "little that is dead travels along");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_durable_yet_keeps_it_from_travelling() {
    let disk = SimulatedDisk::new(1);
    let (journal, _running) = holding(&disk, [5]).await;
    journal.append(change(10), vec![extent(10)]);
    assert!(journal.take_whole(&ids([5])).await.is_empty());
    journal.wait_durable(journal.end()).await.unwrap();
    assert_eq!(journal.read(extent_id(10), 0..9).unwrap().unwrap(), extent_bytes(10).slice(..9));
}

#[tokio::test(start_paused = true)]
async fn j5_it_goes_with_its_journal_file_and_what_a_crash_left_with_the_next_mount() {
    let disk = SimulatedDisk::new(1);
    let (journal, running) = holding(&disk, [5, 10]).await;
    let on_disk = journal.disk_bytes();
    journal.begin_file().await;
    let second = journal.append(change(15), vec![extent(15)]);
    journal.wait_durable(second).await.unwrap();
    assert_eq!(staged_files(&disk).len(), 2, "each belongs to one journal file");
    let noted = journal.append(took(1, Position(2)), vec![]);
    journal.wait_durable(noted).await.unwrap();
    let before = disk.copy();
    journal.release(&[extent_id(5), extent_id(10)]);
    disk.fail_sync_dir(1);
    journal.committed(Position(2));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(staged_files(&disk).len(), 2, "the journal file is not gone for good yet");
    journal.begin_file().await;
    assert_eq!(staged_files(&disk).len(), 1);
    assert!(journal.disk_bytes() < on_disk);
    drop(running);
    // The crash came between the removals.
    let first = staged_files(&before).into_iter().find(|path| !staged_files(&disk).contains(path)).unwrap();
    let left = disk.create(&first).unwrap();
    left.write_at(b"left", 0).unwrap();
    let journal = open_with(&disk, stages());
    assert_eq!(staged_files(&disk).len(), 1);
    assert_eq!(journal.read(extent_id(15), 0..9).unwrap().unwrap(), extent_bytes(15).slice(..9));
}

#[tokio::test(start_paused = true)]
async fn j3_damage_in_a_staged_file_is_an_error_or_a_torn_tail() {
    let disk = SimulatedDisk::new(1);
    let (journal, _running) = holding(&disk, [1, 5]).await;
    let [path] = &staged_files(&disk)[..] else { panic!() };
    let spoil: [&dyn Fn(&SimulatedDisk); 3] = [
        &|disk| disk.corrupt(path, 777, |bytes| bytes[0] ^= 1),
        &|disk| disk.truncate(path, BULK as usize - 1),
        &|disk| disk.remove(path).unwrap(),
    ];
    for spoil in spoil {
        let torn = disk.copy();
        spoil(&torn);
        assert_eq!(
            numbers(&recover(&torn, 0).unwrap()),
            [0; 0],
            "one block brought both, and nothing says it was durable"
        );
        assert!(matches!(recover(&torn, 2), Err(JournalError::Damaged(_))), "something does");
    }
    drop(journal);
}

#[tokio::test(start_paused = true)]
async fn j4_what_a_failed_write_or_fdatasync_of_it_touched_is_written_again() {
    for seed in 0..40 {
        let disk = SimulatedDisk::new(seed);
        let (journal, running) = holding(&disk, [5]).await;
        journal.begin_file().await;
        match seed % 3 {
            0 => disk.fail_sync_data(1),
            1 => disk.fail_writes(1),
            _ => disk.fail_sync_dir(1),
        }
        let position = journal.append(change(10), vec![extent(10)]);
        journal.wait_durable(position).await.unwrap();
        assert!(journal.take_whole(&ids([10])).await.is_empty(), "the disk failed under it");
        journal.append(change(15), vec![extent(15)]);
        journal.wait_durable(journal.end()).await.unwrap();
        assert_eq!(journal.take_whole(&ids([15])).await.len(), 1, "seed {seed}: later ones travel");
        drop(running);
        let disk = disk.power_cut(&mut Dice::new(seed));
        let recovered = recover(&disk, 0).unwrap();
        assert_eq!(numbers(&recovered), [5, 10, 15], "seed {seed}");
        let journal = Journal::resume(recovered, random(seed), stages(), Position(0)).unwrap();
        for n in [5, 10, 15] {
            assert_eq!(journal.read(extent_id(n), 0..50).unwrap().unwrap(), extent_bytes(n).slice(..50));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn j6_a_disk_without_room_for_its_padding_has_not_failed() {
    let disk = SimulatedDisk::new(1);
    let (journal, _running) = holding(&disk, [5]).await;
    disk.set_capacity(Some(0));
    assert!(journal.take_whole(&ids([5])).await.is_empty());
    assert_eq!(journal.failures(), 0);
    disk.set_capacity(None);
    let wanted = extent_bytes(5);
    assert_eq!(journal.read(extent_id(5), 0..BULK).unwrap().unwrap(), wanted);
    journal.append(change(10), vec![extent(10)]);
    journal.wait_durable(journal.end()).await.unwrap();
    assert_eq!(journal.take_whole(&ids([10])).await.len(), 1, "later ones travel");
    assert_eq!(numbers(&recover(&disk, 0).unwrap()), [5, 10]);
}

#[tokio::test(start_paused = true)]
async fn l4_what_unlinked_files_hold_in_it_moves_to_the_side_file() {
    let disk = SimulatedDisk::new(1);
    let journal = open_with(&disk, Settings { file_bytes: 100_000, disk_bytes: 800_000, ..stages() });
    let _running = run(&journal);
    for n in [5, 10, 15, 20, 25, 30] {
        journal.append(change(n), vec![extent(n)]);
        journal.wait_durable(journal.end()).await.unwrap();
    }
    let noted = journal.append(took(1, Position(6)), vec![]);
    journal.wait_durable(noted).await.unwrap();
    journal.release(&[10, 15, 20, 25].map(extent_id));
    journal.committed(Position(6));
    journal.begin_file().await;
    assert_eq!(journal.read(extent_id(5), 3..900).unwrap().unwrap(), extent_bytes(5).slice(3..900));
    assert_eq!(journal.read(extent_id(30), 3..900).unwrap().unwrap(), extent_bytes(30).slice(3..900));
    assert!(staged_files(&disk).len() < 3, "{:?}", disk.paths());
}
