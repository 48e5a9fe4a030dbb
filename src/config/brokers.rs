//! `[brokers.NAME]`: the adapter of one broker's users, and for native kinds where the accounts are.
//!
//! A table of keys like that of `keys`, but for sections with names of the operator's own. Credentials are never in the settings
//! themselves: they name a file or variables, whose values no message and no output shows.

use super::load::{Draft, Origin};
use super::settings::{AdapterKind, Auth, Broker, CredentialsFrom, KeyStoreSetting};
use super::sources::{Variables, broker_name};
use super::value::{Codec, Count, Names, OneOf, Raw, quote};
use crate::adapter::kinds::{KINDS, NativeKind};
use crate::adapter::native::credentials::Credentials;
use crate::adapter::native::socket::address;
use crate::auth::sqlite::USER_BYTES_MAX;
use crate::limits::BROKERS_MAX;

/// One key of such a section.
pub(super) struct BrokerKey {
    pub(super) name: &'static str,
    pub(super) shape: &'static str,
    pub(super) doc: &'static str,
    set: fn(&mut Broker, &Raw) -> Result<(), String>,
    /// The value as TOML, if it was set.
    pub(super) print: fn(&Broker) -> Option<String>,
}

/// Where a path stands for each user.
pub(super) const USER_MARK: &str = "{user}";

/// Every key of `[brokers.NAME]`; all but the first are for native kinds.
pub(super) const BROKER_KEYS: [BrokerKey; 8] = [
    BrokerKey {
        name: "kind",
        shape: "a kind",
        doc: "Adapter kind of this broker: `sim`, `bus`, `external`, or a native feed. With `external` the other keys are what `tickcast adapter` reads.",
        set: |broker, raw| kind(raw).map(|kind| broker.kind = kind),
        print: |broker| Some(quote(broker.kind.label())),
    },
    BrokerKey {
        name: "users",
        shape: "list of strings",
        doc: "Native: the users (of the key store) who have an account. Each gets a feed of their own.",
        set: |broker, raw| Names::parse(raw).and_then(users).map(|users| broker.users = users),
        print: |broker| (!broker.users.is_empty()).then(|| Names::print(&broker.users)),
    },
    BrokerKey {
        name: "credentials",
        shape: "`file:PATH`, `env:PREFIX` or `openalgo`",
        doc: "Native: a file of `name=value` lines that only its owner can read, read again before every connect; `{user}` in the path \
              stands for the user. Or variables `PREFIX_NAME`, read once. Or the user's login in OpenAlgo's database, if that is `auth.store`, \
              read again before every connect.",
        set: |broker, raw| credentials(raw).map(|from| broker.credentials = Some(from)),
        print: |broker| broker.credentials.as_ref().map(|from| quote(&from.to_string())),
    },
    BrokerKey {
        name: "symbols",
        shape: "list of files",
        doc: "Native: the broker's instrument files, or OpenAlgo's database; read again when they have changed.",
        set: |broker, raw| Names::parse(raw).map(|files| broker.symbols = files.into_iter().map(Into::into).collect()),
        print: |broker| {
            let files: Vec<String> = broker.symbols.iter().map(|file| file.display().to_string()).collect();
            (!files.is_empty()).then(|| Names::print(&files))
        },
    },
    BrokerKey {
        name: "url",
        shape: "`ws://…` or `wss://…`",
        doc: "Native: where the broker is, if not at its own address.",
        set: |broker, raw| url(raw).map(|url| broker.url = Some(url)),
        print: |broker| broker.url.as_deref().map(quote),
    },
    BrokerKey {
        name: "order_url",
        shape: "`ws://…` or `wss://…`",
        doc: "Native, `angel`: where order updates come from, if not at its own address. With `url` but without this there are none.",
        set: |broker, raw| url(raw).map(|url| broker.order_url = Some(url)),
        print: |broker| broker.order_url.as_deref().map(quote),
    },
    BrokerKey {
        name: "symbols_per_connection",
        shape: "integer",
        doc: "Native: instruments of one connection, at most the broker's own limit, which is the default.",
        set: |broker, raw| positive(raw).map(|n| broker.symbols_per_connection = Some(n)),
        print: |broker| broker.symbols_per_connection.map(|n| n.to_string()),
    },
    BrokerKey {
        name: "connections",
        shape: "integer",
        doc: "Native: connections of one account, at most the broker's own limit, which is the default.",
        set: |broker, raw| positive(raw).map(|n| broker.connections = Some(n)),
        print: |broker| broker.connections.map(|n| n.to_string()),
    },
];

/// Kinds as messages list them.
pub(super) fn kinds() -> String {
    let native = KINDS.iter().map(|kind| quote(kind.name));
    std::iter::once(OneOf::<AdapterKind>::shape()).chain(native).collect::<Vec<_>>().join(" or ")
}

fn kind(raw: &Raw) -> Result<AdapterKind, String> {
    let text = raw.text().map(str::to_ascii_lowercase);
    let native = KINDS.iter().position(|kind| Some(kind.name) == text.as_deref());
    match native {
        Some(index) => Ok(AdapterKind::Native(index as u8)),
        None => OneOf::<AdapterKind>::parse(raw).map_err(|_| format!("write {}", kinds())),
    }
}

fn users(users: Vec<String>) -> Result<Vec<String>, String> {
    let fits =
        |user: &&String| user.len() > USER_BYTES_MAX || user.chars().any(|c| c.is_control() || c.is_whitespace());
    match users.iter().find(fits) {
        Some(user) => Err(format!("{} is no user: write 1 to {USER_BYTES_MAX} bytes without blanks", quote(user))),
        None => Ok(users),
    }
}

fn credentials(raw: &Raw) -> Result<CredentialsFrom, String> {
    let right =
        || "write \"file:/path/to/file\", \"env:PREFIX\" or \"openalgo\"; never the credentials themselves".to_owned();
    if raw.text() == Some("openalgo") {
        return Ok(CredentialsFrom::OpenAlgo);
    }
    let (how, rest) = raw.text().and_then(|text| text.split_once(':')).ok_or_else(right)?;
    match how {
        "file" if !rest.is_empty() => Ok(CredentialsFrom::File(rest.to_owned())),
        "env" if !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
            Ok(CredentialsFrom::Env { prefix: rest.to_owned(), given: Credentials::default() })
        }
        _ => Err(right()),
    }
}

fn url(raw: &Raw) -> Result<String, String> {
    let text = raw.text().filter(|text| address(text).is_some());
    text.map(str::to_owned)
        .ok_or_else(|| "write a URL such as \"wss://host/path\" or \"ws://127.0.0.1:9000\"".to_owned())
}

fn positive(raw: &Raw) -> Result<usize, String> {
    Count::<usize>::parse(raw).ok().filter(|n| *n > 0).ok_or_else(|| "write a whole number of at least 1".to_owned())
}

/// `BROKER_KEY` of a variable's name, taken apart: a broker's name may hold underscores, and so may a key.
pub(super) fn split_variable(rest: &str) -> Option<(&str, String)> {
    let known = BROKER_KEYS.iter().filter_map(|key| {
        let broker = rest.strip_suffix(&key.name.to_ascii_uppercase())?.strip_suffix('_')?;
        Some((broker, key.name.to_owned()))
    });
    // The longest key: the shortest name of a broker.
    let known = known.min_by_key(|(broker, _)| broker.len());
    known.or_else(|| rest.rsplit_once('_').map(|(broker, key)| (broker, key.to_ascii_lowercase())))
}

/// One key of one section.
pub(super) fn set_broker(draft: &mut Draft, broker: &str, name: &str, raw: &Raw, origin: Origin) {
    let broker = match broker_name(broker) {
        Ok(broker) => broker,
        Err(right) => return draft.problem(&origin, right),
    };
    let Some(key) = BROKER_KEYS.iter().find(|key| key.name == name) else {
        let distance = |key: &&BrokerKey| strsim::damerau_levenshtein(key.name, name);
        let near = BROKER_KEYS.iter().min_by_key(distance).expect("the table is not empty").name;
        let message = format!("unknown key brokers.{broker}.{name}; the nearest is brokers.{broker}.{near}");
        return draft.problem(&origin, message);
    };
    let path = format!("brokers.{broker}.{name}");
    if draft.settings.brokers.len() >= BROKERS_MAX && !draft.settings.brokers.contains_key(&broker) {
        return draft.problem(&origin, format!("{path}: there can be at most {BROKERS_MAX} brokers"));
    }
    let set = (key.set)(draft.settings.brokers.entry(broker).or_default(), raw);
    match set {
        Ok(()) => drop(draft.origins.insert(path, origin)),
        Err(right) => {
            // What stands where a path should may be a secret.
            let shown = if name == "credentials" { "(not shown)".to_owned() } else { raw.shown() };
            draft.problem(&origin, format!("{path} = {shown}: {right}"));
            draft.bad.insert(path);
        }
    }
}

/// Takes the credentials that are in variables.
pub(super) fn take_variables(draft: &mut Draft, variables: &Variables) {
    for broker in draft.settings.brokers.values_mut() {
        if let Some(CredentialsFrom::Env { prefix, given }) = &mut broker.credentials {
            let prefix = format!("{prefix}_");
            let named = variables.iter().filter_map(|(name, (value, _))| Some((name.strip_prefix(&prefix)?, value)));
            *given = Credentials::new(named.map(|(name, value)| (name.to_owned(), value.clone())));
        }
    }
}

/// What the keys of a section must be to each other.
pub(super) fn check(draft: &mut Draft) {
    let mut mistakes = Vec::new();
    for (name, broker) in &draft.settings.brokers {
        let mut note = |key: &str, message: String| mistakes.push((name.clone(), key.to_owned(), message));
        if !draft.is_set(&format!("brokers.{name}.kind")) {
            note("", format!("[brokers.{name}] needs kind = {}", kinds()));
            continue;
        }
        match broker.kind {
            AdapterKind::Native(index) => {
                native(name, broker, &KINDS[usize::from(index)], &draft.settings.auth, &mut note)
            }
            // The rest is for `tickcast adapter`, which may read the same file.
            AdapterKind::External => {}
            AdapterKind::Sim | AdapterKind::Bus => {
                for key in BROKER_KEYS.iter().skip(1).filter(|key| (key.print)(broker).is_some()) {
                    let kind = broker.kind.label();
                    note(key.name, format!("brokers.{name}.{} is for native kinds; this one is \"{kind}\"", key.name));
                }
            }
        }
        let scoped = |user: &&String| draft.settings.bus.sources.iter().any(|s| s.broker == *name && s.user == **user);
        if let Some(user) = broker.users.iter().find(scoped) {
            let message =
                format!("{user} has a [[bus.source]] of {name} too; one of them must go, or their ticks would mix");
            note("users", message);
        }
    }
    for (name, key, message) in mistakes {
        let path = format!("brokers.{name}.{key}");
        let known_bad = draft.bad.iter().any(|bad| bad.starts_with(&format!("brokers.{name}.")));
        if !known_bad {
            let any = || draft.origins.iter().find(|(path, _)| path.starts_with(&format!("brokers.{name}.")));
            let place = draft.origins.get(&path).or_else(|| any().map(|(_, origin)| origin));
            let place = place.cloned().unwrap_or(Origin::BuiltIn);
            draft.problem(&place, message);
        }
    }
}

fn native(name: &str, broker: &Broker, kind: &NativeKind, auth: &Auth, note: &mut impl FnMut(&str, String)) {
    if broker.users.is_empty() {
        note("users", format!("brokers.{name}.users is missing: name the users of the key store who have an account"));
    }
    if broker.symbols.is_empty() {
        note("symbols", format!("brokers.{name}.symbols is missing: name the instrument file of {}", kind.name));
    }
    match &broker.credentials {
        None => {
            let wanted = kind.credentials.join(", ");
            note(
                "credentials",
                format!(
                    "brokers.{name}.credentials is missing: write \"file:PATH\" or \"env:PREFIX\" ({wanted}), or \"openalgo\""
                ),
            );
        }
        Some(CredentialsFrom::Env { .. }) if broker.users.len() > 1 => {
            note(
                "credentials",
                format!(
                    "brokers.{name} has several users, whose credentials cannot be the same: use file: with {USER_MARK}"
                ),
            );
        }
        Some(CredentialsFrom::Env { prefix, given }) => {
            for wanted in kind.credentials.iter().filter(|wanted| given.get(wanted).is_err()) {
                let variable = format!("{prefix}_{}", wanted.to_ascii_uppercase());
                note("credentials", format!("brokers.{name}.credentials: the variable {variable} is not set"));
            }
        }
        Some(CredentialsFrom::File(path)) if broker.users.len() > 1 && !path.contains(USER_MARK) => {
            note(
                "credentials",
                format!("brokers.{name} has several users: write {USER_MARK} where the user stands in the path"),
            );
        }
        Some(CredentialsFrom::File(_)) => {}
        Some(CredentialsFrom::OpenAlgo) if !matches!(auth.store, KeyStoreSetting::OpenAlgo(_)) => {
            let message = format!(
                "brokers.{name}.credentials = \"openalgo\" needs OpenAlgo's database as the key store (auth.store)"
            );
            note("credentials", message);
        }
        Some(CredentialsFrom::OpenAlgo) if auth.broker_api_key.is_none() && !kind.key_in_token => {
            let message = format!(
                "brokers.{name}.credentials = \"openalgo\" needs OpenAlgo's BROKER_API_KEY: give --env-file /path/to/openalgo/.env"
            );
            note("credentials", message);
        }
        Some(CredentialsFrom::OpenAlgo) => {}
    }
    if broker.order_url.is_some() && kind.order_url.is_none() {
        let message = format!("brokers.{name}.order_url: {} sends order updates with its ticks", kind.name);
        note("order_url", message);
    }
    let limits = (kind.limits)();
    for (key, set, limit) in [
        ("symbols_per_connection", broker.symbols_per_connection, limits.per_connection),
        ("connections", broker.connections, limits.connections),
    ] {
        if let Some(n) = set.filter(|n| *n > limit) {
            note(key, format!("brokers.{name}.{key} = {n}: {} allows at most {limit}", kind.name));
        }
    }
}
