//! `rescue`: where the histories are, where their files go, and what is said of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::args::Rescue;
use super::exit::{self, Failure};
use super::{client, passphrase, printable, runtime};
use crate::mount::rescue::{self, HistoryReport, Report, Request};
use crate::mount::serve::MountStatus;
use crate::mount::{environment, mountpoint, state_dir};
use crate::store;

pub fn rescue(args: &Rescue) -> Result<u8, Failure> {
    let mounted = mounted(&args.place)?;
    let mut earlier = None;
    let (url, state, to) = match (mounted, &args.to) {
        (Some((dir, status)), _) if status.status.state == "fenced" => return Err(fenced(&dir)),
        (Some((dir, status)), to) => {
            if args.remove && to.is_none() {
                earlier = rescue::earlier(&dir).map_err(|e| Failure::error(format!("{}: {e}", dir.display())))?;
            }
            let to = to.clone().unwrap_or_else(|| dir.join(rescue::default_name(SystemTime::now())));
            (status.status.url, PathBuf::from(status.status.state_directory), to)
        }
        (None, Some(to)) => {
            let url = args.place.to_str().ok_or_else(|| Failure::usage("a URL is UTF-8"))?;
            let store = store::open(url)?;
            let root = rustix::process::geteuid().is_root();
            let state = state_dir::choose(args.state.as_deref(), store.url(), &environment, root)?;
            (store.url().to_owned(), state, to.clone())
        }
        (None, None) => {
            return Err(Failure::usage(
                "no drive is mounted there: with the URL of a vault, say with --to OUT where the files go",
            ));
        }
    };
    let to = std::path::absolute(&to).map_err(|e| Failure::error(format!("{}: {e}", to.display())))?;
    if !state.is_dir() {
        return Err(Failure::error(format!(
            "{}: there is no state directory of {url} on this machine: nothing was ever set aside",
            state.display()
        )));
    }
    let store = store::open(&url)?;
    let passphrase = passphrase::get(&args.passphrase, &environment, store.url(), false)?;
    let runtime = runtime()?;
    let request = Request { state, to, earlier, remove: args.remove };
    let report = runtime.block_on(rescue::rescue(&store, &passphrase, &request));
    runtime.shutdown_background();
    let report = report.map_err(|error| Failure::from(error).at(&url))?;
    let text = match args.json {
        true => client::json_line(&serde_json::to_value(&report).map_err(|e| Failure::error(e.to_string()))?),
        false => words(&report),
    };
    // The files are written: a closed pipe takes nothing away from that.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if report.is_whole() { exit::OK } else { exit::NOT_WHOLE })
}

/// What a fenced drive could not send still lies in its journal, in use.
fn fenced(dir: &Path) -> Failure {
    let dir = dir.display();
    Failure::error(format!(
        "the drive on {dir} is fenced: what it could not send is in its journal, which the next mount sets aside; \
         `dripfs umount {dir}`, mount it again, then rescue"
    ))
}

/// The drive that is mounted there; `None` if `place` is no mount point.
fn mounted(place: &Path) -> Result<Option<(PathBuf, MountStatus)>, Failure> {
    let Ok(dir) = mountpoint::canonical(place) else { return Ok(None) };
    if !mountpoint::mounted_on(&dir).is_some_and(|mount| mount.is_dripfs()) {
        return Ok(None);
    }
    Ok(Some((dir.clone(), client::status_of(&dir)?)))
}

fn words(report: &Report) -> String {
    if report.histories.is_empty() {
        return "nothing is set aside\n".to_owned();
    }
    let mut lines = Vec::new();
    for history in &report.histories {
        history_words(history, &mut lines);
    }
    lines.iter().map(|line| printable(line) + "\n").collect()
}

fn history_words(history: &HistoryReport, lines: &mut Vec<String>) {
    let since = history.set_aside.as_ref().map_or(String::new(), |since| format!(", set aside {since}"));
    let (written, to) = (history.written.len(), history.to.display());
    let done = match history.found.len() {
        0 => format!("{written} files, links and directories written to {to}"),
        found if written == 0 => {
            format!("{found} files, links and directories stand in {to} already, read and found equal")
        }
        found => format!("{written} files, links and directories written to {to}, where {found} stood already"),
    };
    lines.push(format!("{}{since}: {} changes; {done}", history.directory, history.changes));
    if history.based_on_vault {
        lines.push("  its index was not usable: what it had not changed itself is as the vault has it now".to_owned());
    }
    for file in &history.incomplete {
        for range in &file.ranges {
            let (offset, length, why) = (range.offset, range.length, &range.why);
            lines.push(format!("  incomplete: {}: {length} bytes at {offset} are nowhere any more ({why})", file.path));
        }
    }
    for file in &history.not_written {
        lines.push(format!("  not written: {}: {}", file.path, file.why));
    }
    for file in &history.attributes_lost {
        lines.push(format!("  not as it was: {}: {}", file.path, file.why));
    }
    for path in &history.removed {
        lines.push(format!("  removed there: {path}"));
    }
    for name in &history.renamed {
        lines.push(format!("  renamed there: {} to {}", name.from, name.to));
    }
    if history.names_unknown > 0 {
        lines.push(format!("  {} names more were removed or changed there", history.names_unknown));
    }
    if history.deleted {
        lines.push(format!("  {} is not kept any more", history.directory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::rescue::{Incomplete, Range};

    #[test]
    fn a_report_names_every_file_that_did_not_come_whole() {
        let ranges = vec![Range { offset: 7, length: 9, why: "missing".into() }];
        let history = HistoryReport {
            directory: "aside/1".into(),
            incomplete: vec![Incomplete { path: "a.incomplete".into(), ranges }],
            removed: vec!["b\n".into()],
            ..HistoryReport::default()
        };
        let report = Report { to: "/out".into(), histories: vec![history] };
        assert!(!report.is_whole());
        let shown = words(&report);
        assert!(shown.contains("a.incomplete: 9 bytes at 7"), "{shown}");
        assert_eq!(shown.lines().count(), 3, "{shown}");
        let found = HistoryReport { found: vec!["a".into(), "b".into()], ..HistoryReport::default() };
        let shown = words(&Report { to: "/out".into(), histories: vec![found] });
        assert!(shown.contains("; 2 files, links and directories stand in"), "{shown}");
        assert_eq!(words(&Report::default()), "nothing is set aside\n");
    }
}
