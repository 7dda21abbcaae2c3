//! gc's synchronous cores: what is asked and answered, in which order.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use super::request::Requests;
use super::sweep::{PAGE, Sweep};
use crate::base::{ExtentId, Ino, ObjectId, Sequence};
use crate::format::commit::{checkpoint_name, segment_name};
use crate::format::key::{Key, Part};
use crate::format::record::{Piece, Record};
use crate::vault::checkpoint::Marks;

fn id(number: u32) -> ObjectId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    ObjectId(id)
}

/// A sweep that listed segments 1 to 3 and checkpoints 8 and 9.
fn listed() -> Sweep {
    let mut sweep = Sweep::new(0x5a);
    assert_eq!(sweep.page(), Some(("segments/5a/".to_owned(), String::new())));
    sweep.listed(&[]);
    assert_eq!(sweep.page(), Some(("segments/".to_owned(), String::new())), "they are few");
    sweep.listed(&[1, 2, 3].map(|n| segment_name(id(n))));
    assert_eq!(sweep.page(), Some(("checkpoint/".to_owned(), String::new())));
    sweep.listed(&[8, 9].map(|n| checkpoint_name(id(n))));
    assert_eq!(sweep.page(), None);
    sweep
}

#[test]
fn d2_only_what_was_listed_and_nothing_names_goes() {
    let mut sweep = listed();
    let time = Instant::now();
    sweep.stands(time);
    let orphans = sweep.orphans(&HashSet::from([id(2), id(4), id(9)])).unwrap();
    assert_eq!((orphans.segments, orphans.checkpoints), (vec![id(1), id(3)], vec![id(8)]));
    assert_eq!(orphans.since, time, "the grace counts from the commit");
}

#[test]
fn d2_nothing_goes_before_a_commit_that_began_after_the_list_stands() {
    assert_eq!(listed().orphans(&HashSet::new()), None);
    let mut sweep = Sweep::new(0);
    sweep.stands(Instant::now());
    sweep.listed(&[]);
    sweep.listed(&[1, 2, 3].map(|n| segment_name(id(n))));
    sweep.listed(&[]);
    assert_eq!(sweep.orphans(&HashSet::new()), None, "a commit that stood before the list was whole proves nothing");
}

/// Names below the place of two digits: ids that begin with `place`.
fn names(place: u8, count: u32) -> Vec<String> {
    (0..count).map(|n| segment_name(id(u32::from(place) << 24 | n))).collect()
}

#[test]
fn many_segments_are_listed_place_by_place_from_any_on_and_what_is_not_ours_is_left() {
    let mut sweep = Sweep::new(0xfe);
    let mut asked = Vec::new();
    while let Some((prefix, after)) = sweep.page() {
        let place = prefix.strip_prefix("segments/").map(|rest| u8::from_str_radix(&rest[..2], 16).unwrap());
        let answer = match (place, after.as_str()) {
            (None, _) => Vec::new(),
            // More than a page lies there.
            (Some(0x03), "") => names(3, PAGE as u32),
            (Some(0x03), after) => {
                assert_eq!(after, segment_name(id(3 << 24 | (PAGE as u32 - 1))));
                vec!["segments/03/notes.txt".to_owned(), segment_name(id(4 << 24 | 77_777))]
            }
            (Some(place), _) => names(place, 20),
        };
        sweep.listed(&answer);
        asked.push(prefix);
    }
    assert_eq!((asked.len(), asked[0].as_str(), asked[2].as_str()), (258, "segments/fe/", "segments/00/"));
    sweep.stands(Instant::now());
    let orphans = sweep.orphans(&HashSet::new()).unwrap();
    assert_eq!(orphans.segments.len(), PAGE + 255 * 20 + 1);
}

#[test]
fn where_there_are_more_than_it_seemed_the_places_are_gone_through() {
    let mut sweep = Sweep::new(7);
    sweep.listed(&names(7, 1));
    assert_eq!(sweep.page().unwrap().0, "segments/");
    sweep.listed(&names(0, PAGE as u32));
    assert_eq!(sweep.page(), Some(("segments/07/".to_owned(), String::new())));
}

#[test]
fn c6_what_other_files_and_newer_programs_name_counts() {
    let mut marks = Marks::default();
    let shared = ExtentId { owner: Ino(7), number: 5 };
    let own = ExtentId { owner: Ino(9), number: 1 };
    let copied = ExtentId { owner: Ino(8), number: 2 };
    let newer = Key { ino: Ino(9), part: Part::Other { kind: 9, rest: [0; 32], len: 0 } };
    // {0: {30: [[7, 5], 12]}}: an extent of another file, and a log object.
    let bytes = [0xa1, 0x00, 0xa1, 0x18, 30, 0x82, 0x82, 7, 5, 12];
    marks.visit(&newer, &Record::decode(&newer, &bytes).unwrap());
    for (offset, extent) in [(0, own), (9, copied)] {
        let piece = Piece { offset, len: 9, extent, start: 0 };
        marks.visit(&Key::map(Ino(9), offset), &Record::Map(piece));
    }
    assert_eq!(marks.extents, HashSet::from([shared, copied]), "its own file is asked when it is needed");
    assert_eq!(marks.logs, HashSet::from([Sequence(12)]));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_was_under_way_answers_no_question() {
    let requests = Arc::new(Requests::default());
    let first = tokio::spawn({
        let requests = requests.clone();
        async move { requests.commit(Vec::new()).await }
    });
    requests.asked().await;
    let under_way = requests.begin().unwrap();
    assert!(requests.begin().is_none(), "it is taken");
    let second = tokio::spawn({
        let requests = requests.clone();
        async move { requests.commit(Vec::new()).await }
    });
    requests.asked().await;
    requests.done(under_way.number);
    first.await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(!second.is_finished(), "its commit has not begun");
    let next = requests.begin().unwrap();
    requests.done(next.number);
    second.await.unwrap();
    assert!(requests.asked().now_or_never().is_none());
}
