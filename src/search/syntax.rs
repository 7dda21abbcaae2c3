//! Expressions: those of the Rust crate regex, read as `grep -E` reads them where both have a thing.
//!
//! A brace that begins no repetition is itself, `{,3}` is `{0,3}`, `[[]` is a bracket, `[[:alpha:]]` knows letters beyond
//! ASCII. There are no back-references; `\` in brackets is an escape; a repetition of nothing, as in `*a`, is an error.

/// A text, as it stands.
pub fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        if c.is_ascii_punctuation() && c != '_' && c != '<' && c != '>' {
            out.push('\\');
        }
        out.push(c);
    }
}

/// Into the syntax of the engine, what grep writes otherwise: a brace that begins no repetition is itself, and a repetition
/// may lack its least number; in brackets an opening bracket is itself, and classes know letters beyond ASCII.
pub fn translated(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => rest = escaped(rest, out),
            '[' => rest = brackets(rest, out),
            '{' => match repetition(rest) {
                Some(("", most)) => {
                    out.push_str(&format!("{{0,{most}"));
                    rest = &rest[1 + most.len()..];
                }
                Some(_) => out.push('{'),
                None => out.push_str("\\{"),
            },
            c => out.push(c),
        }
    }
}

/// What stands behind a backslash. Returns the rest.
fn escaped<'a>(text: &'a str, out: &mut String) -> &'a str {
    out.push('\\');
    let Some(c) = text.chars().next() else { return text };
    out.push(c);
    let rest = &text[c.len_utf8()..];
    // These take braces of their own: a class, a character, a boundary.
    match rest.find('}') {
        Some(end) if matches!(c, 'p' | 'P' | 'x' | 'u' | 'U' | 'b') && rest.starts_with('{') => {
            out.push_str(&rest[..=end]);
            &rest[end + 1..]
        }
        _ => rest,
    }
}

/// What stands behind an opening bracket. Returns the rest.
fn brackets<'a>(text: &'a str, out: &mut String) -> &'a str {
    out.push('[');
    let mut rest = text;
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    // The first one closes nothing.
    if let Some(after) = rest.strip_prefix(']') {
        out.push_str("\\]");
        rest = after;
    }
    while let Some(c) = rest.chars().next() {
        if let Some((class, after)) = class(rest) {
            out.push_str(class);
            rest = after;
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => rest = escaped(rest, out),
            ']' => {
                out.push(']');
                break;
            }
            '[' => out.push_str("\\["),
            // Doubled, they would mean something.
            '&' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    rest
}

/// A class of POSIX at the beginning, in the syntax of the engine, and the rest.
fn class(text: &str) -> Option<(&'static str, &str)> {
    let (name, rest) = text.strip_prefix("[:")?.split_once(":]")?;
    let class = match name {
        "alpha" => r"\p{Alphabetic}",
        "alnum" => r"\p{Alphabetic}\p{Nd}",
        "upper" => r"\p{Uppercase}",
        "lower" => r"\p{Lowercase}",
        "digit" => "0-9",
        "xdigit" => "0-9A-Fa-f",
        "space" => r"\s",
        "blank" => r"\p{Zs}\t",
        "cntrl" => r"\p{Cc}",
        "punct" => r"\p{P}\p{S}",
        "graph" => r"[^\s\p{C}]",
        "print" => r"\P{C}",
        _ => return None,
    };
    Some((class, rest))
}

/// `N}`, `N,}`, `N,M}` or `,M}` at the beginning: the two numbers, as they are written.
fn repetition(text: &str) -> Option<(&str, &str)> {
    let inside = &text[..text.find('}')?];
    let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |number: &str| number.bytes().all(|byte| byte.is_ascii_digit());
    (digits(least) && digits(most) && !(least.is_empty() && most.is_empty())).then_some((least, most))
}

#[cfg(test)]
mod tests {
    use grep_matcher::Matcher as _;

    use super::super::pattern::Query;

    fn matches(pattern: &str, line: &str) -> bool {
        let query = Query { text: pattern.as_bytes().into(), ..Query::default() };
        let compiled = query.compile().unwrap_or_else(|error| panic!("{pattern}: {error}"));
        compiled.lines.is_match(line.as_bytes()).expect("no error")
    }

    #[test]
    fn braces_are_as_in_grep() {
        assert!(matches("main() {", "int main {") && matches("a{,2}b", "aab") && matches("^a{2}$", "aa"));
        assert!(matches("^a{2,}$", "aaa") && !matches("^a{1,2}$", "aaa") && matches("x{y}", "x{y}"));
        assert!(matches(r"^\p{Greek}+$", "αβ") && matches(r"\x{41}", "A") && matches(r"\bfoo\b", "a foo b"));
        assert!(matches("{", "{") && matches(r"\{", "{") && matches("[{]", "{") && matches("{}", "{}"));
    }

    #[test]
    fn brackets_are_as_in_grep() {
        for (pattern, line, found) in [
            ("^[[]$", "[", true),
            ("^[]a]+$", "]a", true),
            ("^[^]a]$", "]", false),
            ("^[a[b]$", "[", true),
            ("^[a&&b]$", "&", true),
            ("^[[:alpha:][:digit:]_-]+$", "aÖ9_-", true),
            ("^[[:alpha:]]+$", "a9", false),
            ("[^[:print:]]", "Grüße", false),
            ("[^[:print:]]", "a\tb", true),
            ("^[[:punct:]]+$", "!?+", true),
            ("^[[:graph:]]$", " ", false),
            ("^[^[:graph:]]$", " ", true),
            (r"^[\w.]+$", "a.b", true),
            (r"^[\]x]+$", "]x", true),
            ("[a]{2}", "aa", true),
            ("[{]x", "{x", true),
        ] {
            assert_eq!(matches(pattern, line), found, "{pattern} {line:?}");
        }
    }
}
