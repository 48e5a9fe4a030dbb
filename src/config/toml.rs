//! The TOML file, with the line of every mistake.

use super::brokers::{self, set_broker};
use super::endpoint;
use super::keys;
use super::load::{Draft, Origin};
use super::settings::BusSource;
use super::sources::{broker_name, set_scale};
use super::value::{Raw, quote};
use crate::auth::sqlite::USER_BYTES_MAX;
use std::ops::Range;
use std::path::Path;
use toml_edit::{Document, Item, TableLike, Value};

/// Reads `text`, the content of `file`, into the draft.
pub(super) fn read(file: &Path, text: &str, draft: &mut Draft) {
    let reader = Reader { file, text };
    match Document::parse(text) {
        Ok(document) => reader.root(document.as_table(), draft),
        Err(error) => {
            draft.problem(&reader.at(error.span()), format!("not TOML: {}", error.message().replace('\n', ", ")))
        }
    }
}

/// A TOML value without its decoration.
pub(super) fn raw(item: &Item) -> Raw {
    item.as_value().map_or(Raw::Other("a table"), raw_value)
}

fn raw_value(value: &Value) -> Raw {
    match value {
        Value::String(s) => Raw::Str(s.value().clone()),
        Value::Integer(n) => Raw::Int(*n.value()),
        Value::Boolean(b) => Raw::Bool(*b.value()),
        Value::Array(items) => Raw::List(items.iter().map(raw_value).collect()),
        Value::Float(_) => Raw::Other("a number with a fraction"),
        Value::Datetime(_) => Raw::Other("a date"),
        Value::InlineTable(_) => Raw::Other("a table"),
    }
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn at(&self, span: Option<Range<usize>>) -> Origin {
        let start = span.map_or(0, |span| span.start).min(self.text.len());
        let line = self.text.as_bytes()[..start].iter().filter(|&&b| b == b'\n').count() + 1;
        Origin::File { file: self.file.to_path_buf(), line }
    }

    /// The line of `name` in `table`.
    fn at_key(&self, table: &dyn TableLike, name: &str) -> Origin {
        let found = table.get_key_value(name);
        self.at(found.and_then(|(key, item)| key.span().or_else(|| item.span())))
    }

    fn root(&self, root: &toml_edit::Table, draft: &mut Draft) {
        for (section, item) in root.iter() {
            let place = self.at_key(root, section);
            if !keys::SECTIONS.iter().any(|(name, _)| *name == section) {
                let what = if item.is_table_like() { "section" } else { "key outside a section:" };
                let near = keys::nearest_section(section);
                draft.problem(&place, format!("unknown {what} {}; the nearest section is [{near}]", quote(section)));
                continue;
            }
            let Some(table) = item.as_table_like() else {
                draft.problem(&place, format!("{section} is a section: write [{section}] and its keys below"));
                continue;
            };
            draft.bus_section |= section == "bus";
            match section {
                "brokers" => self.brokers(table, draft),
                "scale" => {
                    for (venue, item) in table.iter() {
                        set_scale(draft, venue, &raw(item), self.at_key(table, venue));
                    }
                }
                _ => self.section(section, table, draft),
            }
        }
    }

    fn section(&self, section: &str, table: &dyn TableLike, draft: &mut Draft) {
        for (name, item) in table.iter() {
            let place = self.at_key(table, name);
            if (section, name) == ("bus", "source") {
                self.sources(item, place, draft);
                continue;
            }
            match keys::find(section, name) {
                Some(key) => draft.set(key, &raw(item), place),
                None => {
                    let path = format!("{section}.{name}");
                    draft.problem(&place, format!("unknown key {path}; the nearest is {}", keys::nearest(&path)));
                }
            }
        }
    }

    fn brokers(&self, brokers: &dyn TableLike, draft: &mut Draft) {
        for (broker, item) in brokers.iter() {
            let Some(table) = item.as_table_like() else {
                let place = self.at_key(brokers, broker);
                draft.problem(&place, format!("write [brokers.{broker}] and its keys below"));
                continue;
            };
            if table.is_empty() {
                let place = self.at_key(brokers, broker);
                draft.problem(&place, format!("[brokers.{broker}] needs kind = {}", brokers::kinds()));
            }
            for (name, item) in table.iter() {
                set_broker(draft, broker, name, &raw(item), self.at_key(table, name));
            }
        }
    }

    fn sources(&self, item: &Item, place: Origin, draft: &mut Draft) {
        let tables: Vec<&dyn TableLike> = match item {
            Item::ArrayOfTables(tables) => tables.iter().map(|table| table as &dyn TableLike).collect(),
            Item::Value(Value::Array(array)) if array.iter().all(Value::is_inline_table) => {
                array.iter().filter_map(Value::as_inline_table).map(|table| table as &dyn TableLike).collect()
            }
            _ => return draft.problem(&place, "write [[bus.source]] with endpoint, broker and user below"),
        };
        for table in tables {
            let before = draft.problems.len();
            for (name, _) in table.iter().filter(|(name, _)| !["endpoint", "broker", "user"].contains(name)) {
                let place = self.at_key(table, name);
                draft
                    .problem(&place, format!("unknown key {name} in [[bus.source]]; it has endpoint, broker and user"));
            }
            let mut take = |name: &str| match table.get(name).map(raw) {
                Some(Raw::Str(text)) if !text.trim().is_empty() => text.trim().to_string(),
                Some(other) => {
                    let place = self.at_key(table, name);
                    draft.problem(&place, format!("{name} = {}: write a non-empty string", other.shown()));
                    String::new()
                }
                None => {
                    let line = table.iter().next().map_or(place.clone(), |(first, _)| self.at_key(table, first));
                    draft.problem(&line, format!("this [[bus.source]] has no {name}"));
                    String::new()
                }
            };
            let (endpoint, broker, user) = (take("endpoint"), take("broker"), take("user"));
            if draft.problems.len() == before {
                let user_fits =
                    user.len() <= USER_BYTES_MAX && !user.chars().any(|c| c.is_control() || c.is_whitespace());
                let right = || format!("{} is no user: write 1 to {USER_BYTES_MAX} bytes without blanks", quote(&user));
                for (name, verdict) in [
                    ("endpoint", endpoint::check_connect(&endpoint)),
                    ("broker", broker_name(&broker).map(drop)),
                    ("user", if user_fits { Ok(()) } else { Err(right()) }),
                ] {
                    if let Err(right) = verdict {
                        draft.problem(&self.at_key(table, name), right);
                    }
                }
            }
            let source = BusSource { endpoint, broker: broker.to_ascii_lowercase(), user };
            if draft.problems.len() == before {
                let path = format!("bus.source[{}]", draft.settings.bus.sources.len());
                draft.origins.insert(path, self.at_key(table, "endpoint"));
                draft.settings.bus.sources.push(source);
            }
        }
    }
}
