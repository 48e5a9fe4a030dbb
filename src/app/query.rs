//! Parameters of the admin routes' queries: each at most once, with a value from a short list or range; anything else is told with what is
//! allowed.
//!
//! Pure. In: the query. Out: values, or the text of a 400. Tests: below.

use std::ops::RangeInclusive;

/// The parameters of one query.
pub(super) struct Params<'a> {
    given: Vec<(&'a str, &'a str)>,
    usage: &'static str,
}

impl<'a> Params<'a> {
    /// Splits `query`. `usage` is what a mistake is answered with, and names the parameters that are allowed, each as `name=`.
    pub(super) fn parse(query: &'a str, usage: &'static str) -> Result<Self, String> {
        let mut params = Params { given: Vec::new(), usage };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !allowed(usage).any(|known| known == name) {
                return Err(params.complaint(&format!("there is no parameter {name:?}")));
            }
            if params.value(name).is_some() {
                return Err(params.complaint(&format!("{name} is given twice")));
            }
            params.given.push((name, value));
        }
        Ok(params)
    }

    /// The one of `choices` that the parameter names; without it, the first.
    pub(super) fn one_of<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, String> {
        let wanted = self.value(name).unwrap_or(choices[0].0);
        let found = choices.iter().find(|(label, _)| *label == wanted).map(|(_, choice)| *choice);
        found.ok_or_else(|| {
            let labels: Vec<&str> = choices.iter().map(|(label, _)| *label).collect();
            self.complaint(&format!("{name} is one of {}, not {wanted:?}", labels.join(", ")))
        })
    }

    /// A whole number within `range`.
    pub(super) fn number(&self, name: &str, range: RangeInclusive<usize>, default: usize) -> Result<usize, String> {
        let Some(text) = self.value(name) else { return Ok(default) };
        text.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| {
            self.complaint(&format!("{name} is a whole number from {} to {}, not {text:?}", range.start(), range.end()))
        })
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| *value)
    }

    fn complaint(&self, what: &str) -> String {
        format!("{what}. Allowed: {}\n", self.usage)
    }
}

fn allowed(usage: &str) -> impl Iterator<Item = &str> {
    usage.split(['?', '&', ' ', '[', ']']).filter_map(|part| part.split_once('=')).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str = "/sessions?top=1..1000&by=lag|bytes";
    const BY: [(&str, u8); 2] = [("lag", 0), ("bytes", 1)];

    fn read(query: &str) -> Result<(usize, u8), String> {
        let params = Params::parse(query, USAGE)?;
        Ok((params.number("top", 1..=1000, 20)?, params.one_of("by", &BY)?))
    }

    #[test]
    fn what_is_left_out_has_its_default_and_order_does_not_matter() {
        for (query, want) in [
            ("", (20, 0)),
            ("top=7", (7, 0)),
            ("by=bytes&top=1000", (1000, 1)),
            ("&top=1&", (1, 0)),
            ("by=lag", (20, 0)),
        ] {
            assert_eq!(read(query), Ok(want), "{query}");
        }
    }

    #[test]
    fn every_mistake_says_what_is_allowed() {
        for (query, part) in [
            ("top=0", "from 1 to 1000, not \"0\""),
            ("top=1001", "not \"1001\""),
            ("top=-1", "not \"-1\""),
            ("top=", "not \"\""),
            ("top", "not \"\""),
            ("top=1&top=2", "top is given twice"),
            ("by=size", "by is one of lag, bytes, not \"size\""),
            ("by=LAG", "not \"LAG\""),
            ("limit=3", "no parameter \"limit\""),
            ("/sessions=3", "no parameter"),
        ] {
            let told = read(query).expect_err(query);
            assert!(told.contains(part) && told.contains(USAGE), "{query}: {told}");
        }
    }
}
