//! The `.env` of an OpenAlgo installation, as python-dotenv reads it.
//!
//! In: the file's text. Out: (name, value, line) in order; a later assignment wins, as there. Quotes (single: only
//! `\'` and `\\` are escapes; double: also `\n`, `\t`), `export`, comments, values over several lines.
//! `${NAME}` is not expanded: no variable we read needs it. Lines that are no assignment are skipped, as there.

/// One assignment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) name: String,
    pub(super) value: String,
    /// 1-based.
    pub(super) line: usize,
}

/// Every assignment in `text`; `Err` carries the line of a quote that is never closed.
pub(super) fn parse(text: &str) -> Result<Vec<Assignment>, usize> {
    let text = text.trim_start_matches('\u{feff}');
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
        let (here, this_line) = (&text[at..end], line);
        (at, line) = ((end + 1).min(text.len()), line + 1);
        let Some((name, rest)) = here.split_once('=') else { continue };
        let name = name.trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        if name.is_empty() || name.starts_with('#') || name.contains(char::is_whitespace) {
            continue;
        }
        let rest = rest.trim_start();
        let value = match rest.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                let start = end - rest.len() + 1;
                let (value, used) = quoted(&text[start..], quote).ok_or(this_line)?;
                // The value may have run over several lines; go on after the line it ends on.
                let stop = start + used;
                let next = text[stop..].find('\n').map_or(text.len(), |n| stop + n + 1);
                if next > at {
                    line += text[at..next].matches('\n').count();
                    at = next;
                }
                value
            }
            _ => unquoted(rest).to_string(),
        };
        out.push(Assignment { name: name.to_string(), value, line: this_line });
    }
    Ok(out)
}

/// The value up to the closing `quote`, and how many bytes it took with it.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((out, at + 1));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        match (chars.next()?.1, quote) {
            ('n', '"') => out.push('\n'),
            ('t', '"') => out.push('\t'),
            (c @ ('\\' | '"'), '"') | (c @ ('\\' | '\''), '\'') => out.push(c),
            (c, _) => out.extend(['\\', c]),
        }
    }
    None
}

/// The value up to a comment, which needs a blank before its `#`.
fn unquoted(rest: &str) -> &str {
    let comment = rest.char_indices().find(|&(at, c)| c == '#' && (at == 0 || rest[..at].ends_with([' ', '\t'])));
    rest[..comment.map_or(rest.len(), |(at, _)| at)].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_comments_exports_and_blanks_are_read_as_python_dotenv_does() {
        for (text, want) in [
            ("A=1", Some(("A", "1"))),
            ("A = '1'  # why", Some(("A", "1"))),
            ("export A=\"x y\"", Some(("A", "x y"))),
            ("A=x # why", Some(("A", "x"))),
            ("A=x#y", Some(("A", "x#y"))),
            ("A='a#b'", Some(("A", "a#b"))),
            ("A=", Some(("A", ""))),
            ("A=''", Some(("A", ""))),
            (r#"A="a\nb\"c""#, Some(("A", "a\nb\"c"))),
            (r"A='a\nb\'c'", Some(("A", "a\\nb'c"))),
            ("A=sqlite:///db/x.db?a=b\r", Some(("A", "sqlite:///db/x.db?a=b"))),
            ("\u{feff}A=1", Some(("A", "1"))),
            ("# A=1", None),
            ("nonsense", None),
            ("", None),
        ] {
            let got = parse(text).unwrap();
            assert_eq!(got.first().map(|a| (a.name.as_str(), a.value.as_str())), want, "{text:?}");
        }
    }

    #[test]
    fn values_may_span_lines_and_lines_stay_counted() {
        let got = parse("A='1\n2'\n\nB=3").unwrap();
        assert_eq!(got[0], Assignment { name: "A".into(), value: "1\n2".into(), line: 1 });
        assert_eq!(got[1], Assignment { name: "B".into(), value: "3".into(), line: 4 });
    }

    #[test]
    fn a_quote_that_is_never_closed_names_its_line() {
        assert_eq!(parse("A=1\nB='2\nC=3"), Err(2));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[A-C='\"\\\\#\\n\r é]{0,40}") {
            let lines = text.matches('\n').count() + 1;
            for assignment in parse(&text).unwrap_or_default() {
                proptest::prop_assert!((1..=lines).contains(&assignment.line));
            }
        }
    }
}
