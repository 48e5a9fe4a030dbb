//! Files and services that the server leans on: key store, registries, credentials, instrument files, disks.

use super::super::facts::{Account, Disk, Keys, Reach, Registry, SecretFile, SymbolFile};
use crate::adapter::discovery::Place;
use crate::adapter::kinds::KINDS;
use crate::config::settings::{AdapterKind, KeyStoreSetting};
use crate::config::{Loaded, Origin, Settings};
use crate::net::sys;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn store_file(settings: &Settings) -> Option<&Path> {
    match &settings.auth.store {
        KeyStoreSetting::Demo => None,
        KeyStoreSetting::Sqlite(file) | KeyStoreSetting::OpenAlgo(file) => Some(file),
    }
}

fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|meta| meta.permissions().mode() & 0o777)
}

/// Opens the store as the server does, and counts.
pub(super) fn keys(settings: &Settings) -> Keys {
    let opened = crate::auth::open(&settings.auth_config()).map_err(|error| error.to_string());
    let opened = opened.and_then(|mut store| store.count().map_err(|error| error.to_string()));
    Keys { opened, mode: store_file(settings).and_then(mode) }
}

/// Folders in which somebody writes.
pub(super) fn disks(settings: &Settings) -> Vec<Disk> {
    let store = store_file(settings).map(|file| ("the key store", file));
    let registry = settings.discovery.file.as_deref().map(|file| ("discovery.file", file));
    let stats = settings.admin.stats_file.as_deref().map(|file| ("admin.stats_file", file));
    let disk = |(what, file): (&'static str, &Path)| {
        let folder = match file.parent() {
            Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
            Some(folder) => folder.to_owned(),
            None => PathBuf::from("/"),
        };
        let free = sys::free_bytes(&folder).map_err(|error| error.to_string());
        Disk { what, folder, free }
    };
    store.into_iter().chain(registry).chain(stats).map(disk).collect()
}

/// Asks each registry, without registering anything.
pub(super) fn registries(settings: &Settings) -> Vec<Registry> {
    let file = settings.discovery.file.clone().map(|path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let state = match (path.exists(), folder.is_dir()) {
            (false, true) => Ok(Reach::NotMadeYet),
            (false, false) => Err(format!("there is no folder {}", folder.display())),
            (true, _) => reach(&Place::File(path.clone())),
        };
        Registry { setting: "discovery.file", place: path.display().to_string(), state }
    });
    let redis = settings.discovery.redis.clone().map(|url| {
        let place = url.to_string();
        Registry { setting: "discovery.redis", place, state: reach(&Place::Redis(url)) }
    });
    file.into_iter().chain(redis).collect()
}

fn reach(place: &Place) -> Result<Reach, String> {
    place.reach().map(|()| Reach::Answers).map_err(|error| error.to_string())
}

/// Whether each native account has what its broker asks for; the values are dropped here.
pub(super) fn accounts(settings: &Settings) -> Vec<Account> {
    let native = settings.brokers.iter().filter_map(|(name, broker)| match broker.kind {
        AdapterKind::Native(index) => Some((name, broker, &KINDS[usize::from(index)])),
        AdapterKind::Sim | AdapterKind::Bus | AdapterKind::External => None,
    });
    let (sources, mut accounts) = (settings.credential_sources(), Vec::new());
    for (name, broker, kind) in native {
        for user in &broker.users {
            let Some(from) = &broker.credentials else { continue };
            let missing = sources
                .of(name, broker, user)
                .read()
                .map_err(|error| error.to_string())
                .map(|held| kind.credentials.iter().copied().filter(|name| held.get(name).is_err()).collect());
            let from = from.to_string().replace("{user}", user);
            accounts.push(Account { broker: name.clone(), user: user.clone(), from, missing });
        }
    }
    accounts
}

/// Whether each instrument file can be read.
pub(super) fn symbols(settings: &Settings) -> Vec<SymbolFile> {
    let files = settings.brokers.iter().flat_map(|(name, broker)| broker.symbols.iter().map(move |path| (name, path)));
    let file = |(broker, path): (&String, &PathBuf)| SymbolFile {
        broker: broker.clone(),
        path: path.clone(),
        fault: fs::File::open(path).err().map(|error| error.to_string()),
    };
    files.map(file).collect()
}

/// The files in which secrets of the settings stand.
pub(super) fn secrets(loaded: &Loaded) -> Vec<SecretFile> {
    let set =
        ["auth.pepper", "auth.fernet_salt", "auth.broker_api_key", "adapters.secret", "discovery.redis"].into_iter();
    let file = |setting: &str| match loaded.origin(setting) {
        Origin::File { file, .. } | Origin::EnvFile { file, .. } => {
            Some(SecretFile { setting: setting.to_owned(), path: file.clone(), mode: mode(file)? })
        }
        _ => None,
    };
    set.filter_map(file).collect()
}
