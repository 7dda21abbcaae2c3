//! Patterns: what a name in the room asks for, and the matcher that it becomes.
//!
//! ```text
//! PATTERN            a regular expression, case-sensitive, as it stands
//! -OPTIONS:PATTERN   the same with options: letters, and at their end g=GLOB
//!                      i  any case          s  case as it stands       S  any case unless there are capitals
//!                      F  no expression but a text                     w  whole words
//!                      j  answer in JSON, one object a line            l  names of files alone
//!                      g=GLOB  files of such names alone (with / of such paths); g=!GLOB all but those
//! ```
//!
//! `%2F` stands for a slash and `%25` for a percent sign, in a glob `%3A` for a colon; any other percent sign is itself. A
//! line feed parts alternatives, as grep has it. Only letters before the first colon make the prefix form: `->next` and `-x`
//! are patterns, and `-:PATTERN` takes any pattern whatever it begins with.
//!
//! How expressions are read stands in `syntax`.
//!
//! Owns what is written where. Does not own what is searched.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};

use super::syntax::{escape, translated};

/// An expression may not become larger than so many bytes, nor what it remembers while it runs: one that is short can
/// mean much.
const PROGRAM_MAX: usize = 16 << 20;
const MEMORY_MAX: usize = 64 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Case {
    #[default]
    Sensitive,
    Any,
    /// Any, unless there are capitals.
    Smart,
}

/// What an answer consists of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Output {
    /// `path:line:text`
    #[default]
    Lines,
    Json,
    /// Paths of the files that match.
    Names,
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Query {
    pub text: Box<[u8]>,
    pub case: Case,
    pub literal: bool,
    pub word: bool,
    pub glob: Option<Box<str>>,
    pub output: Output,
}

/// Why something is no pattern: says where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PatternError(String);

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PatternError {}

/// A query that is ready to run.
pub struct Matcher {
    pub lines: RegexMatcher,
    glob: Option<Glob>,
}

struct Glob {
    matcher: GlobMatcher,
    /// Of paths; else of names.
    paths: bool,
    /// All files but these.
    negated: bool,
}

impl Query {
    /// What a name in the room asks for.
    pub fn of_name(name: &[u8]) -> Result<Query, PatternError> {
        let mut query = Query::default();
        let text = match prefix_of(name) {
            Some((options, text)) => {
                query.set(options)?;
                text
            }
            None => name,
        };
        query.text = decoded(text, false).into();
        Ok(query)
    }

    /// The name that asks for this, in the prefix form.
    pub fn name(&self) -> Vec<u8> {
        let mut name = vec![b'-'];
        match self.case {
            Case::Sensitive => {}
            Case::Any => name.push(b'i'),
            Case::Smart => name.push(b'S'),
        }
        for (set, letter) in [
            (self.literal, b'F'),
            (self.word, b'w'),
            (self.output == Output::Json, b'j'),
            (self.output == Output::Names, b'l'),
        ] {
            if set {
                name.push(letter);
            }
        }
        if let Some(glob) = &self.glob {
            name.extend_from_slice(b"g=");
            for byte in encoded(glob.as_bytes()) {
                match byte {
                    b':' => name.extend_from_slice(b"%3A"),
                    byte => name.push(byte),
                }
            }
        }
        name.push(b':');
        name.extend(encoded(&self.text));
        name
    }

    fn set(&mut self, options: &[u8]) -> Result<(), PatternError> {
        let mut rest = options;
        while let Some((letter, after)) = rest.split_first() {
            rest = after;
            match letter {
                b'i' => self.case = Case::Any,
                b's' => self.case = Case::Sensitive,
                b'S' => self.case = Case::Smart,
                b'F' => self.literal = true,
                b'w' => self.word = true,
                b'j' => self.output = Output::Json,
                b'l' => self.output = Output::Names,
                b'g' if after.starts_with(b"=") => {
                    let glob = decoded(&after[1..], true);
                    let glob = String::from_utf8(glob).map_err(|_| PatternError("the glob is not UTF-8".to_owned()))?;
                    self.glob = Some(glob.into());
                    rest = &[];
                }
                other => {
                    let other = char::from(*other);
                    return Err(PatternError(format!(
                        "unknown option {other:?} before the colon: the options are i, s, S, F, w, j, l and g=GLOB, and \
                         -:PATTERN takes any pattern"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Ready to run; or what is wrong with it, and where.
    pub fn compile(&self) -> Result<Matcher, PatternError> {
        let glob = self.glob.as_deref().map(Glob::new).transpose()?;
        let mut builder = RegexMatcherBuilder::new();
        builder
            .multi_line(true)
            .line_terminator(Some(b'\n'))
            .case_insensitive(self.case == Case::Any)
            .case_smart(self.case == Case::Smart)
            .word(self.word)
            .size_limit(PROGRAM_MAX)
            .dfa_size_limit(MEMORY_MAX);
        let alternatives: Vec<String> =
            self.text.split(|byte| *byte == b'\n').map(|one| self.expression(one)).collect();
        let wrong = |error: grep_regex::Error| PatternError(error.to_string());
        // Each by itself, before the engine joins and wraps them: or two that are wrong could be right together, and the
        // place would be one in what nobody wrote.
        for one in &alternatives {
            let parsed = regex_syntax::ast::parse::Parser::new().parse(one);
            parsed.map_err(|error| PatternError(error.to_string()))?;
        }
        let lines = builder.build_many(&alternatives).map_err(wrong)?;
        Ok(Matcher { lines, glob })
    }

    /// In the syntax of the engine.
    fn expression(&self, text: &[u8]) -> String {
        let mut out = String::with_capacity(text.len());
        for chunk in text.utf8_chunks() {
            match self.literal {
                true => escape(chunk.valid(), &mut out),
                false => translated(chunk.valid(), &mut out),
            }
            for byte in chunk.invalid() {
                out.push_str(&format!("(?-u:\\x{byte:02X})"));
            }
        }
        out
    }

    /// What tells results for one file apart: the glob and the form of the answer do not matter there.
    pub fn of_one_file(&self) -> Query {
        let output = if self.output == Output::Names { Output::Names } else { Output::Lines };
        Query { glob: None, output, ..self.clone() }
    }
}

impl Matcher {
    /// Is a file of this path, from the directory that is searched, asked for?
    pub fn takes(&self, path: &[u8]) -> bool {
        let Some(glob) = &self.glob else { return true };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let what = if glob.paths { path } else { name };
        let what = std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(what));
        glob.matcher.is_match(what) != glob.negated
    }
}

impl Glob {
    fn new(text: &str) -> Result<Glob, PatternError> {
        let (negated, glob) = match text.strip_prefix('!') {
            Some(glob) => (true, glob),
            None => (false, text),
        };
        let paths = glob.contains('/');
        let glob = glob.strip_prefix('/').unwrap_or(glob);
        let built = GlobBuilder::new(glob).literal_separator(true).build();
        let matcher = built.map_err(|error| PatternError(format!("glob: {error}")))?.compile_matcher();
        Ok(Glob { matcher, paths, negated })
    }
}

/// Options and the rest, if this is the prefix form.
fn prefix_of(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = name.strip_prefix(b"-")?;
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let (options, text) = (&rest[..colon], &rest[colon + 1..]);
    let letters = options.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let rest = &options[letters..];
    let is_glob = rest.starts_with(b"=") && options[..letters].ends_with(b"g");
    (rest.is_empty() || is_glob).then_some((options, text))
}

/// What a part of a name stands for. `glob`: a colon ends the options, so it is spelled `%3A` in a glob.
pub fn decoded(text: &[u8], glob: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        let (byte, taken) = match (byte, after) {
            (b'%', [b'2', b'F' | b'f', ..]) => (b'/', 3),
            (b'%', [b'2', b'5', ..]) => (b'%', 3),
            (b'%', [b'3', b'A' | b'a', ..]) if glob => (b':', 3),
            (byte, _) => (*byte, 1),
        };
        out.push(byte);
        rest = &rest[taken..];
    }
    out
}

/// As part of a name.
pub fn encoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b'/' => out.extend_from_slice(b"%2F"),
            b'%' => out.extend_from_slice(b"%25"),
            byte => out.push(*byte),
        }
    }
    out
}

/// Is this a name that editors, version control and desktops look for beside what they open? It is no pattern, or each
/// look would be a search; and an editor would find another one at work on the answer.
pub fn is_probe(name: &[u8]) -> bool {
    match name {
        [b'.', b'#', ..] => true,
        [b'.', second, ..] if second.is_ascii_alphabetic() || *second == b'_' => true,
        [b'.', .., b'.', b's', b'w', b'a'..=b'z'] => true,
        [b'#', _, .., b'#'] => true,
        _ => name == b"4913",
    }
}

#[cfg(test)]
mod tests {
    use grep_matcher::Matcher as _;
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str) -> Query {
        Query::of_name(name.as_bytes()).expect("a query")
    }

    fn matches(name: &str, line: &str) -> bool {
        let compiled = query(name).compile().unwrap_or_else(|error| panic!("{name}: {error}"));
        compiled.lines.is_match(line.as_bytes()).expect("no error")
    }

    #[test]
    fn a_slash_and_a_percent_sign_are_spelled_and_nothing_else_is() {
        assert_eq!(&*query("a%2Fb%2fc").text, b"a/b/c");
        assert_eq!(&*query("%252F %2 %41 100%").text, b"%2F %2 %41 100%");
    }

    #[test]
    fn only_letters_and_a_colon_make_a_prefix() {
        for name in ["->next", "-foo", "-", "--:x", "-1:x", "a-i:x"] {
            assert_eq!(&*query(name).text, name.as_bytes(), "{name}");
        }
        assert_eq!(&*query("-:-i:x").text, b"-i:x");
        assert_eq!(&*query("-i:").text, b"");
        let error = Query::of_name(b"-std::vector").unwrap_err().to_string();
        assert!(error.contains("'t'") && error.contains("-:PATTERN"), "{error}");
    }

    #[test]
    fn options_are_as_published() {
        assert!(!matches("abc", "ABC") && matches("-i:abc", "ABC"));
        assert!(matches("-S:abc", "ABC") && !matches("-S:Abc", "ABC") && !matches("-iS:aBc", "ABC"));
        assert!(!matches("-is:abc", "ABC"));
        assert!(matches("-F:a.c(", "xa.c(y") && !matches("-F:a.c", "abc"));
        assert!(matches("-w:abc", "(abc)") && !matches("-w:abc", "abcd"));
        assert!(matches("a\nb", "b") && !matches("a\nb", "c"));
        assert_eq!(query("-j:x").output, Output::Json);
        assert_eq!(query("-l:x").output, Output::Names);
    }

    #[test]
    fn globs_are_of_names_or_of_paths() {
        let takes = |glob: &str, path: &str| query(&format!("-g={glob}:x")).compile().unwrap().takes(path.as_bytes());
        assert!(takes("*.rs", "a/b.rs") && !takes("*.rs", "a/b.c"));
        assert!(takes("*.{rs,c}", "b.c") && !takes("!*.rs", "a/b.rs") && takes("!*.rs", "a/b.c"));
        assert!(takes("a%2F*.rs", "a/b.rs") && !takes("a%2F*.rs", "a/c/b.rs") && takes("**%2Fb.rs", "a/c/b.rs"));
        assert!(query("-g=[:x").compile().is_err_and(|error| error.to_string().contains("glob")));
    }

    #[test]
    fn a_bad_expression_is_an_error_that_names_the_place() {
        for (name, named) in [
            ("foo(bar", "unclosed group"),
            ("[a-", "unclosed character class"),
            ("a)|(b", "unopened group"),
            ("b\n(a", "unclosed group"),
            (r"(a)\1", "backreference"),
            ("*a", "repetition"),
        ] {
            let error = query(name).compile().err().expect(name).to_string();
            assert!(error.contains(named) && error.contains('^') && !error.contains("(?:"), "{name}: {error}");
        }
        let error = query("(((((a{100}){100}){100}){100}){100})").compile().err().unwrap().to_string();
        assert!(error.contains("size"), "{error}");
    }

    #[test]
    fn what_is_not_utf_8_is_looked_for_as_it_is() {
        for prefix in [&b""[..], b"-F:"] {
            let query = Query::of_name(&[prefix, b"a\xffb"].concat()).unwrap();
            let compiled = query.compile().unwrap();
            assert!(compiled.lines.is_match(b"xa\xffbx").unwrap() && !compiled.lines.is_match(b"ab").unwrap());
        }
    }

    #[test]
    fn what_editors_look_for_is_no_pattern() {
        for name in [".git", ".foo.swp", ".^foo.swp", ".[a-z].swx", ".#foo", ".#^foo", "#foo#", "4913", ".DS_Store"] {
            assert!(is_probe(name.as_bytes()), "{name}");
        }
        for name in [".*foo", ".", ".+", "foo", "#define", "^.git", "-:.git", r"\.git", "swp", "."] {
            assert!(!is_probe(name.as_bytes()), "{name}");
        }
    }

    fn queries() -> impl Strategy<Value = Query> {
        let case = prop_oneof![Just(Case::Sensitive), Just(Case::Any), Just(Case::Smart)];
        let output = prop_oneof![Just(Output::Lines), Just(Output::Json), Just(Output::Names)];
        let text = prop::collection::vec(1u8.., 0..40);
        let glob = prop::option::of("[a-zA-Z0-9*?!/%:._-]{1,12}");
        (text, case, any::<(bool, bool)>(), glob, output).prop_map(|(text, case, (literal, word), glob, output)| {
            Query { text: text.into(), case, literal, word, glob: glob.map(Into::into), output }
        })
    }

    proptest! {
        #[test]
        fn a_query_survives_its_name(query in queries()) {
            let name = query.name();
            prop_assert!(!name.contains(&b'/'));
            prop_assert_eq!(Query::of_name(&name), Ok(query));
        }

        #[test]
        fn a_literal_finds_itself_and_only_where_it_is(text in "[^\n\0]{1,20}", around in "[a-z ]{0,5}") {
            let query = Query { text: text.clone().into_bytes().into(), literal: true, ..Query::default() };
            let compiled = query.compile().unwrap();
            let line = format!("{around}{text}{around}");
            prop_assert!(compiled.lines.is_match(line.as_bytes()).unwrap());
            prop_assert_eq!(compiled.lines.is_match(around.as_bytes()).unwrap(), around.contains(&text));
        }

        #[test]
        fn nothing_that_is_typed_panics(name in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(query) = Query::of_name(&name) {
                let _ = query.compile();
            }
        }
    }
}
