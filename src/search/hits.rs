//! What a search finds in one file, and the answer that is made of what it finds in all of them.
//!
//! Owns the form of an answer: `path:line:text`, or JSON, or names, in the order of the paths' bytes; then lines that begin
//! with `dripfs: ` and say what is not in it. Everything here is plaintext, and wiped when dropped.

use serde::Serialize;

use super::pattern::Output;
use crate::crypto::secret::SecretVec;

/// The lines of one file that match.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Hits {
    /// Of each line: its number, and where its text ends.
    lines: Vec<(u64, usize)>,
    text: Bytes,
}

/// Plaintext that grows in steps, so that each byte is moved a few times at most.
#[derive(Default, Debug)]
struct Bytes(SecretVec);

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        *self.0 == *other.0
    }
}

impl Eq for Bytes {}

impl Bytes {
    fn push(&mut self, more: &[u8]) {
        let len = self.0.len() + more.len();
        if len > self.0.capacity() {
            self.0.grow_to(len.max(2 * self.0.capacity()));
        }
        self.0.extend_from_slice(more);
    }
}

impl Hits {
    pub fn push(&mut self, line: u64, text: &[u8]) {
        self.text.push(text);
        self.lines.push((line, self.text.0.len()));
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// The memory that it takes.
    pub fn cost(&self) -> usize {
        self.text.0.capacity() + self.lines.capacity() * size_of::<(u64, usize)>()
    }

    pub fn text_len(&self) -> usize {
        self.text.0.len()
    }

    /// What it adds to an answer, about.
    pub fn rendered(&self, path: &[u8]) -> usize {
        self.text.0.len() + self.lines.len() * (path.len() + 24)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut start = 0;
        self.lines.iter().map(move |(line, end)| {
            let text = &self.text.0[start..*end];
            start = *end;
            (*line, text)
        })
    }

    /// All of it as bytes, to be sealed.
    pub fn to_bytes(&self) -> SecretVec {
        let mut out = SecretVec::with_capacity(8 + self.lines.len() * 16 + self.text.0.len());
        out.extend_from_slice(&(self.lines.len() as u64).to_le_bytes());
        for (line, end) in &self.lines {
            out.extend_from_slice(&line.to_le_bytes());
            out.extend_from_slice(&(*end as u64).to_le_bytes());
        }
        out.extend_from_slice(&self.text.0);
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
        hits.text.push(text);
        Some(hits)
    }
}

/// An answer. It does not change.
pub struct Answer {
    bytes: Bytes,
    /// Where the lines of matches end, and those begin that say what is missing.
    pub notes_at: usize,
    pub matches: u64,
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
    path: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    line: u64,
    text: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_hex: Option<String>,
}

#[derive(Serialize)]
struct JsonNote<'a> {
    note: &'a str,
}

impl Answer {
    /// `found` in any order; `notes` in this one. What does not fit into `most` bytes (JSON is longer than what it tells) is
    /// not in it.
    pub fn new(
        mut found: Vec<(Box<[u8]>, std::sync::Arc<Hits>)>,
        mut notes: Vec<String>,
        output: Output,
        most: usize,
    ) -> Answer {
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut bytes = Bytes::default();
        let lines = output == Output::Lines;
        bytes.0.grow_to(found.iter().filter(|_| lines).map(|(path, hits)| hits.rendered(path)).sum());
        let mut fits = 0;
        for (path, hits) in &found {
            render(&mut bytes, path, hits, output);
            fits += 1;
            if bytes.0.len() > most && fits < found.len() {
                notes.push("partial: cut off, since the answer is too long".to_owned());
                break;
            }
        }
        found.truncate(fits);
        let notes_at = bytes.0.len();
        for note in &notes {
            // A line feed in a file's name must not begin a line of its own.
            let note: String =
                note.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
            match output {
                Output::Json => json(&mut bytes, &JsonNote { note: &note }),
                Output::Lines | Output::Names => bytes.push(format!("dripfs: {note}\n").as_bytes()),
            }
        }
        let matches = found.iter().map(|(_, hits)| hits.len() as u64).sum();
        let files = found.into_iter().map(|(path, _)| path).collect();
        Answer { bytes, notes_at, matches, files, whole: notes.is_empty() }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes.0
    }

    /// The memory that it takes.
    pub fn cost(&self) -> usize {
        self.bytes.0.capacity() + self.files.iter().map(|path| path.len() + 32).sum::<usize>() + 256
    }

    pub fn summary(&self) -> String {
        let (files, notes_at) = (self.files.len() as u64, self.notes_at as u64);
        let summary = Summary { matches: self.matches, files, partial: !self.whole, notes_at };
        serde_json::to_string(&summary).unwrap_or_default()
    }

    pub fn says_the_same(&self, other: &Answer) -> bool {
        *self.bytes.0 == *other.bytes.0
    }
}

fn render(out: &mut Bytes, path: &[u8], hits: &Hits, output: Output) {
    match output {
        Output::Names => {
            out.push(path);
            out.push(b"\n");
        }
        Output::Lines => {
            for (line, text) in hits.iter() {
                out.push(path);
                out.push(format!(":{line}:").as_bytes());
                out.push(text);
                out.push(b"\n");
            }
        }
        Output::Json => {
            for (line, text) in hits.iter() {
                let (path_hex, text_hex) = (hex_if_needed(path), hex_if_needed(text));
                let (path, text) = (String::from_utf8_lossy(path), String::from_utf8_lossy(text));
                json(out, &JsonLine { path, path_hex, line, text, text_hex });
            }
        }
    }
}

/// JSON has no bytes: where they are no UTF-8, they are told in hexadecimal too.
fn hex_if_needed(bytes: &[u8]) -> Option<String> {
    match std::str::from_utf8(bytes) {
        Ok(_) => None,
        Err(_) => Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

fn json(out: &mut Bytes, value: &impl Serialize) {
    // Straight into what is wiped. Strings and numbers cannot fail.
    struct Into<'a>(&'a mut Bytes);
    impl std::io::Write for Into<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.push(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let _ = serde_json::to_writer(Into(out), value);
    out.push(b"\n");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn hits(lines: &[(u64, &[u8])]) -> Hits {
        let mut hits = Hits::default();
        lines.iter().for_each(|(line, text)| hits.push(*line, text));
        hits
    }

    fn found(files: &[(&str, &[(u64, &[u8])])]) -> Vec<(Box<[u8]>, Arc<Hits>)> {
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
    fn an_answer_that_is_too_long_is_cut_between_files_and_says_so() {
        let answer = Answer::new(found(&[("a", &[(1, b"x")]), ("b", &[(1, b"y")])]), Vec::new(), Output::Lines, 2);
        assert_eq!(answer.bytes(), b"a:1:x\ndripfs: partial: cut off, since the answer is too long\n");
        assert!(!answer.whole && answer.files.len() == 1 && answer.matches == 1);
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
