//! What a search finds in one file, and the answer that is made of what it finds in all of them.
//!
//! Owns the form of an answer: `path:line:text`, or JSON, or names, in the order of the paths' bytes; then lines that begin
//! with `dripfs: ` and say what is not in it. Everything here is plaintext, and wiped when dropped.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use zeroize::Zeroize;

use super::pattern::Output;
use crate::crypto::secret::SecretVec;

/// The lines of one file that match.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Hits {
    /// Of each line: its number, and where its text ends.
    lines: Vec<(u64, usize)>,
    text: SecretVec,
}

/// What was found in files, by their paths.
pub type ByPath = Vec<(Box<[u8]>, Arc<Hits>)>;

/// What a line of an answer has beside its text, at most: path, number, two colons, line feed.
pub fn beside(path: &[u8]) -> usize {
    path.len() + 23
}

impl Hits {
    pub fn push(&mut self, line: u64, text: &[u8]) {
        self.text.extend_from_slice(text);
        self.lines.push((line, self.text.len()));
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The memory that it takes.
    pub fn cost(&self) -> usize {
        self.text.capacity() + self.lines.capacity() * size_of::<(u64, usize)>()
    }

    /// What it adds to an answer, at most, if each line has so much [`beside`] its text.
    pub fn rendered(&self, beside: usize) -> usize {
        self.text.len() + self.lines.len() * beside
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut start = 0;
        self.lines.iter().map(move |(line, end)| {
            let text = &self.text[start..*end];
            start = *end;
            (*line, text)
        })
    }

    /// All of it as bytes, to be sealed.
    pub fn to_bytes(&self) -> SecretVec {
        let mut out = SecretVec::with_capacity(8 + self.lines.len() * 16 + self.text.len());
        out.extend_from_slice(&(self.lines.len() as u64).to_le_bytes());
        for (line, end) in &self.lines {
            out.extend_from_slice(&line.to_le_bytes());
            out.extend_from_slice(&(*end as u64).to_le_bytes());
        }
        out.extend_from_slice(&self.text);
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Hits> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?));
        let count = usize::try_from(number(0)?).ok()?;
        let mut hits = Hits::default();
        for k in 0..count {
            let at = 8 + 16 * k;
            hits.lines.push((number(at)?, usize::try_from(number(at + 8)?).ok()?));
        }
        let text = bytes.get(8 + 16 * count..)?;
        let mut before = 0;
        for (_, end) in &hits.lines {
            if *end < before || *end > text.len() {
                return None;
            }
            before = *end;
        }
        hits.text.extend_from_slice(text);
        Some(hits)
    }
}

/// An answer. It does not change.
#[derive(Default)]
pub struct Answer {
    bytes: SecretVec,
    /// Where the lines of matches end, and those begin that say what is missing.
    notes_at: usize,
    matches: u64,
    /// Paths of the files that match, in order.
    pub files: Vec<Box<[u8]>>,
    /// Does it say all there is?
    pub whole: bool,
}

/// What `user.dripfs.search` tells of an answer.
#[derive(Serialize)]
struct Summary {
    matches: u64,
    files: u64,
    partial: bool,
    notes_at: u64,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    line: u64,
    text: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_hex: Option<String>,
}

impl Drop for JsonLine<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(text) = &mut self.text {
            text.zeroize();
        }
        self.text_hex.zeroize();
    }
}

#[derive(Serialize)]
struct JsonNote<'a> {
    note: &'a str,
}

impl Answer {
    /// `found` in any order; `notes` in this one. What does not fit into `most` bytes (JSON is longer than what it tells) is
    /// not in it.
    pub fn new(mut found: ByPath, mut notes: Vec<String>, output: Output, most: usize) -> Answer {
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut answer = Answer::default();
        if output == Output::Lines {
            answer.bytes.grow_to(found.iter().map(|(path, hits)| hits.rendered(beside(path))).sum::<usize>().min(most));
        }
        let mut all = found.iter().flat_map(|(path, hits)| hits.iter().map(move |(line, text)| (path, line, text)));
        for (path, line, text) in &mut all {
            render(&mut answer.bytes, path, line, text, output);
            answer.matches += 1;
            if answer.files.last() != Some(path) {
                answer.files.push(path.clone());
            }
            if answer.bytes.len() > most {
                break;
            }
        }
        if all.next().is_some() {
            notes.push("partial: cut off, since the answer is too long".to_owned());
        }
        answer.notes_at = answer.bytes.len();
        notes.iter().for_each(|note| tell(&mut answer.bytes, note, output));
        answer.whole = notes.is_empty();
        answer
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory that it takes.
    pub fn cost(&self) -> usize {
        self.bytes.capacity() + self.files.iter().map(|path| path.len() + 32).sum::<usize>() + 256
    }

    pub fn summary(&self) -> String {
        let (files, notes_at) = (self.files.len() as u64, self.notes_at as u64);
        let summary = Summary { matches: self.matches, files, partial: !self.whole, notes_at };
        serde_json::to_string(&summary).unwrap_or_default()
    }

    pub fn says_the_same(&self, other: &Answer) -> bool {
        self.bytes == other.bytes
    }
}

/// One line that matches.
fn render(out: &mut SecretVec, path: &[u8], line: u64, text: &[u8], output: Output) {
    match output {
        Output::Names => {
            out.extend_from_slice(path);
            out.extend_from_slice(b"\n");
        }
        Output::Lines => {
            out.extend_from_slice(path);
            out.extend_from_slice(format!(":{line}:").as_bytes());
            out.extend_from_slice(text);
            out.extend_from_slice(b"\n");
        }
        Output::Json => {
            let (path_hex, text_hex) = (hex_if_needed(path), hex_if_needed(text));
            let (path, text) = (String::from_utf8_lossy(path), String::from_utf8_lossy(text));
            json(out, &JsonLine { path, path_hex, line, text, text_hex });
        }
    }
}

/// One line about what is missing.
fn tell(out: &mut SecretVec, note: &str, output: Output) {
    // A line feed in a file's name must not begin a line of its own.
    let note: String = note.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    match output {
        Output::Json => json(out, &JsonNote { note: &note }),
        Output::Lines | Output::Names => out.extend_from_slice(format!("dripfs: {note}\n").as_bytes()),
    }
}

/// JSON has no bytes: where they are no UTF-8, they are told in hexadecimal too.
fn hex_if_needed(bytes: &[u8]) -> Option<String> {
    if std::str::from_utf8(bytes).is_ok() {
        return None;
    }
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        hex.extend([byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)])));
    }
    Some(hex)
}

fn json(out: &mut SecretVec, value: &impl Serialize) {
    // Straight into what is wiped. Strings and numbers cannot fail.
    struct Into<'a>(&'a mut SecretVec);
    impl std::io::Write for Into<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let _ = serde_json::to_writer(Into(out), value);
    out.extend_from_slice(b"\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hits(lines: &[(u64, &[u8])]) -> Hits {
        let mut hits = Hits::default();
        lines.iter().for_each(|(line, text)| hits.push(*line, text));
        hits
    }

    type Lines<'a> = &'a [(u64, &'a [u8])];

    fn found(files: &[(&str, Lines<'_>)]) -> ByPath {
        files.iter().map(|(path, lines)| (path.as_bytes().into(), Arc::new(hits(lines)))).collect()
    }

    #[test]
    fn lines_stand_in_the_order_of_paths_and_what_is_missing_behind_them() {
        let files = found(&[("a/b", &[(3, b"x"), (12, b"")]), ("a.c", &[(1, b"y")])]);
        let answer = Answer::new(files, vec!["partial: a\nb".to_owned()], Output::Lines, 1000);
        let text = std::str::from_utf8(answer.bytes()).unwrap();
        assert_eq!(text, "a.c:1:y\na/b:3:x\na/b:12:\ndripfs: partial: a\u{fffd}b\n");
        assert_eq!(&text[answer.notes_at..], "dripfs: partial: a\u{fffd}b\n");
        assert_eq!(answer.summary(), r#"{"matches":3,"files":2,"partial":true,"notes_at":24}"#);
    }

    #[test]
    fn an_answer_that_is_too_long_is_cut_between_lines_and_says_so() {
        let files = || found(&[("a", &[(1, b"x"), (2, b"y")]), ("b", &[(1, b"y")])]);
        for (most, expected, matches) in [(2, "a:1:x\n", 1), (9, "a:1:x\na:2:y\n", 2)] {
            let answer = Answer::new(files(), Vec::new(), Output::Lines, most);
            let expected = format!("{expected}dripfs: partial: cut off, since the answer is too long\n");
            assert_eq!(answer.bytes(), expected.as_bytes());
            assert!(!answer.whole && answer.files.len() == 1 && answer.matches == matches);
        }
        assert!(Answer::new(files(), Vec::new(), Output::Lines, 13).whole, "the last line is in it whole");
    }

    #[test]
    fn json_tells_bytes_that_are_no_text() {
        let answer = Answer::new(found(&[("p", &[(1, b"a\"\xff")])]), Vec::new(), Output::Json, 1000);
        let value: serde_json::Value = serde_json::from_slice(answer.bytes()).unwrap();
        assert_eq!(value["path"], "p");
        assert_eq!((value["line"].as_u64(), value["text_hex"].as_str()), (Some(1), Some("6122ff")));
        assert!(value.get("path_hex").is_none() && answer.whole);
    }

    proptest! {
        #[test]
        fn hits_survive_being_kept(lines in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..9)), 0..20)) {
            let mut kept = Hits::default();
            lines.iter().for_each(|(line, text)| kept.push(*line, text));
            let bytes = kept.to_bytes();
            let back = Hits::from_bytes(&bytes);
            prop_assert_eq!(back.as_ref(), Some(&kept));
            let seen: Vec<_> = kept.iter().map(|(line, text)| (line, text.to_vec())).collect();
            prop_assert_eq!(seen, lines);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(hits) = Hits::from_bytes(&bytes) {
                let _ = hits.iter().count();
            }
        }
    }
}
