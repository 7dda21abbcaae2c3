//! gc's synchronous cores: what is asked and answered, in which order.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use super::request::Requests;
use super::sweep::{PAGE, Sweep};
use crate::base::ObjectId;
use crate::format::commit::{checkpoint_name, segment_name};

fn id(number: u32) -> ObjectId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    ObjectId(id)
}

/// A sweep that listed segments 1 to 3 and checkpoints 8 and 9.
fn listed() -> Sweep {
    let mut sweep = Sweep::default();
    assert_eq!(sweep.page(), Some(("segments/", String::new())));
    sweep.listed(&[1, 2, 3].map(|n| segment_name(id(n))));
    assert_eq!(sweep.page(), Some(("checkpoint/", String::new())));
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
    let mut sweep = Sweep::default();
    sweep.stands(Instant::now());
    sweep.listed(&[1, 2, 3].map(|n| segment_name(id(n))));
    sweep.listed(&[]);
    assert_eq!(sweep.orphans(&HashSet::new()), None, "a commit that stood before the list was whole proves nothing");
}

#[test]
fn a_long_listing_comes_in_pages_and_what_is_not_ours_is_left() {
    let mut sweep = Sweep::default();
    let first: Vec<String> = (0..PAGE as u32).map(|n| segment_name(id(n))).collect();
    sweep.listed(&first);
    assert_eq!(sweep.page(), Some(("segments/", first.last().unwrap().clone())));
    let foreign = ["segments/ff/notes.txt".to_owned(), segment_name(id(u32::MAX))];
    sweep.listed(&foreign);
    sweep.listed(&[]);
    sweep.stands(Instant::now());
    let orphans = sweep.orphans(&HashSet::new()).unwrap();
    assert_eq!((orphans.segments.len(), orphans.segments.last()), (PAGE + 1, Some(&id(u32::MAX))));
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
