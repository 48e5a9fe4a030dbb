//! Reads every source in its order: OpenAlgo's variables, the file, `TICKCAST_*`, flags.

use super::keys::{self, Key};
use super::load::{Draft, Origin, Sources};
use super::value::{Codec, Count, Raw, quote};
use super::{brokers, env_file, openalgo, toml};
use crate::limits::VENUE_BYTES_MAX;
use std::collections::BTreeMap;
use std::path::Path;

/// Variables by name, each with its value and place.
pub(super) type Variables = BTreeMap<String, (String, Origin)>;

const PREFIX: &str = "TICKCAST_";

/// A broker's name, bytes: it is a metric label and part of topics.
const BROKER_BYTES_MAX: usize = 32;

/// Reads all of `sources` into the draft.
pub(super) fn read_all(sources: &Sources, draft: &mut Draft) {
    let variables = variables(sources, draft);
    let home = sources.env_file.as_deref().and_then(Path::parent);
    openalgo::apply(&variables, home, draft);
    if let Some(file) = &sources.file
        && let Some(text) = read_file(file, "--config", draft)
    {
        toml::read(file, &text, draft);
    }
    for (name, (value, origin)) in variables.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        variable(name, &Raw::Text(value.clone()), origin, draft);
    }
    for (section, flag, value) in [("server", "--listen", &sources.listen), ("admin", "--admin", &sources.admin)] {
        if let Some(value) = value {
            draft.set_path(section, "listen", &Raw::Text(value.clone()), Origin::Flag(flag));
        }
    }
    for assignment in &sources.set {
        flag(assignment, draft);
    }
    brokers::take_variables(draft, &variables);
}

/// The environment over the `--env-file`.
fn variables(sources: &Sources, draft: &mut Draft) -> Variables {
    let mut all = Variables::new();
    if let Some(file) = &sources.env_file
        && let Some(text) = read_file(file, "--env-file", draft)
    {
        match env_file::parse(&text) {
            Ok(assignments) => all.extend(assignments.into_iter().map(|a| {
                let origin = Origin::EnvFile { name: a.name.clone(), file: file.clone(), line: a.line };
                (a.name, (a.value, origin))
            })),
            Err(line) => {
                let place = Origin::File { file: file.clone(), line };
                draft.problem(&place, "this quote is never closed");
            }
        }
    }
    let env = sources.env.iter();
    all.extend(env.map(|(name, value)| (name.clone(), (value.clone(), Origin::Variable(name.clone())))));
    all
}

fn read_file(file: &Path, flag: &'static str, draft: &mut Draft) -> Option<String> {
    std::fs::read_to_string(file)
        .map_err(|error| draft.problem(&Origin::Flag(flag), format!("cannot read {}: {error}", file.display())))
        .ok()
}

/// One `TICKCAST_*` variable.
fn variable(name: &str, raw: &Raw, origin: &Origin, draft: &mut Draft) {
    if let Some(key) = keys::KEYS.iter().find(|key| key.variable() == name) {
        return draft.set(key, raw, origin.clone());
    }
    let rest = &name[PREFIX.len()..];
    if let Some((broker, key)) = rest.strip_prefix("BROKERS_").and_then(brokers::split_variable) {
        return brokers::set_broker(draft, broker, &key, raw, origin.clone());
    }
    if let Some(venue) = rest.strip_prefix("SCALE_") {
        return set_scale(draft, venue, raw, origin.clone());
    }
    if rest == "BUS_SOURCE" {
        return draft.problem(origin, "[[bus.source]] can only be written in the --config file");
    }
    let variables = keys::KEYS.iter().map(Key::variable);
    let near = variables.min_by_key(|known| strsim::damerau_levenshtein(known, name)).expect("the table is not empty");
    draft.problem(origin, format!("unknown setting; the nearest is {near}"));
}

/// One `--set section.key=value`.
fn flag(assignment: &str, draft: &mut Draft) {
    let place = Origin::Flag("--set");
    let parts = assignment.split_once('=').map(|(path, value)| (path.trim(), Raw::Text(value.to_string())));
    let Some((path, raw)) = parts else {
        return draft.problem(&place, format!("{}: write --set section.key=value", quote(assignment)));
    };
    match path.split_once('.') {
        Some(("bus", "source")) => draft.problem(&place, "[[bus.source]] can only be written in the --config file"),
        Some(("scale", venue)) => set_scale(draft, venue, &raw, place),
        Some(("brokers", rest)) => match rest.rsplit_once('.') {
            Some((broker, name)) => brokers::set_broker(draft, broker, name, &raw, place),
            None => draft.problem(&place, format!("{path}: write --set brokers.NAME.kind=bus")),
        },
        split => match split.and_then(|(section, name)| keys::find(section, name)) {
            Some(key) => draft.set(key, &raw, place),
            None => draft.problem(&place, format!("unknown key {path}; the nearest is {}", keys::nearest(path))),
        },
    }
}

/// A broker's name in lower case, or what would be right.
pub(super) fn broker_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if text.is_empty() || text.len() > BROKER_BYTES_MAX || !text.chars().all(fits) {
        let right = format!("write 1 to {BROKER_BYTES_MAX} letters, digits, _ or -");
        return Err(format!("{} is no broker name: {right}", quote(text)));
    }
    Ok(text.to_ascii_lowercase())
}

/// `[scale]`, one exchange.
pub(super) fn set_scale(draft: &mut Draft, venue: &str, raw: &Raw, origin: Origin) {
    let path = format!("scale.{venue}");
    if venue.is_empty() || venue.len() > VENUE_BYTES_MAX || venue.chars().any(char::is_control) {
        return draft.problem(&origin, format!("{path}: an exchange has 1 to {VENUE_BYTES_MAX} bytes"));
    }
    match Count::<u8>::parse(raw) {
        // Beyond 12 digits a price of 9 million no longer fits the 64 bits it is sent in.
        Ok(digits) if digits <= 12 => {
            draft.settings.scale.insert(venue.to_string(), digits);
            draft.origins.insert(path, origin);
        }
        _ => {
            draft.problem(&origin, format!("{path} = {}: write a number of digits from 0 to 12", raw.shown()));
            draft.bad.insert(path);
        }
    }
}
