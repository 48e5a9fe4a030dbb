//! Just enough of PromQL to say what an expression asks for: metrics with their matchers, and the labels it groups or joins by.
//!
//! Prometheus itself is the judge of the syntax (`tests/e2e/dashboards.rs`); here a word that is no function, keyword or label is a
//! metric, so that nothing escapes by an unusual prefix.

/// What an expression asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Query {
    pub(crate) selectors: Vec<Selector>,
    /// Labels in `by`, `on` and their kind.
    pub(crate) labels: Vec<String>,
}

/// A metric with its matchers: label and value, whatever the operator.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    pub(crate) matchers: Vec<(String, String)>,
}

/// Words that are followed by a list of labels.
const LISTS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Other words that are no metrics.
const WORDS: &[&str] = &["and", "or", "unless", "offset", "bool", "inf", "nan"];

pub(crate) fn read(expression: &str) -> Query {
    let mut query = Query::default();
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        if c == '[' {
            rest = rest.split_once(']').expect("a closed range").1;
        } else if c.is_ascii_digit() {
            // With its unit, as behind `offset`.
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
        } else if is_word(c) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let word = &rest[..end];
            rest = rest[end..].trim_start();
            if LISTS.contains(&word) {
                let (list, behind) = parted(rest, '(', ')');
                query.labels.extend(list.split(',').map(|label| label.trim().to_owned()));
                rest = behind;
            } else if !WORDS.contains(&word) && !is_called(rest) {
                let matchers;
                (matchers, rest) = if rest.starts_with('{') { parted(rest, '{', '}') } else { ("", rest) };
                query.selectors.push(Selector { metric: word.to_owned(), matchers: pairs(matchers) });
            }
        } else {
            rest = &rest[c.len_utf8()..];
        }
    }
    query
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Whether the word before this text is a function; an aggregation may have its labels between its name and its argument.
fn is_called(rest: &str) -> bool {
    ["(", "by ", "by(", "without ", "without("].iter().any(|start| rest.starts_with(start))
}

/// What stands between the pair that `text` begins with, and what comes behind it.
fn parted(text: &str, open: char, close: char) -> (&str, &str) {
    let inner = text.strip_prefix(open).unwrap_or_else(|| panic!("no {open} at {text}"));
    inner.split_once(close).unwrap_or_else(|| panic!("no {close} in {text}"))
}

/// `label="value"`, with any operator; no value of ours holds a comma or a quote.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (label, value) = pair.split_once(['=', '!'])?;
        let value = value.trim_start_matches(['=', '~']).trim_matches('"');
        Some((label.trim().to_owned(), value.to_owned()))
    };
    text.split(',').filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_matchers_and_labels_are_found_and_functions_and_times_are_not() {
        let query = read(
            "histogram_quantile(0.99, sum by (le, lock) (rate(a_bucket{le!=\"+Inf\", state=~\"x|y\"}[5m]))) > on (job) b:c \
             offset 10m and topk(5, d) or vector(1e3) unless sum(e) by (f)",
        );
        let metrics: Vec<&str> = query.selectors.iter().map(|selector| selector.metric.as_str()).collect();
        assert_eq!(metrics, ["a_bucket", "b:c", "d", "e"]);
        let matchers = [("le".to_owned(), "+Inf".to_owned()), ("state".to_owned(), "x|y".to_owned())];
        assert_eq!(query.selectors[0].matchers, matchers);
        assert_eq!(query.labels, ["le", "lock", "job", "f"]);
    }
}
