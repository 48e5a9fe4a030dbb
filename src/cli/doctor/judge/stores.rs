//! What the server leans on: keys, registries, brokers' credentials, disks.

use super::super::Finding;
use super::super::facts::{Account, Facts, Keys, Reach, Registry, SecretFile};
use crate::config::Settings;
use crate::config::settings::KeyStoreSetting;

/// Below it something soon cannot be written.
const ROOM_MIN: u64 = 64 << 20;
/// Below it somebody should look.
const ROOM_LOW: u64 = 1 << 30;

pub(super) fn judge(settings: &Settings, facts: &Facts) -> Vec<Finding> {
    let mut findings = keys(settings, &facts.keys);
    findings.extend(facts.secrets.iter().filter_map(secret_file));
    findings.extend(facts.registries.iter().map(registry));
    findings.extend(facts.accounts.iter().map(account));
    findings.extend(symbols(facts));
    findings.extend(disks(facts));
    findings
}

fn keys(settings: &Settings, keys: &Keys) -> Vec<Finding> {
    const CHECK: &str = "keys";
    let store = &settings.auth.store;
    let count = match &keys.opened {
        Ok(count) => *count,
        Err(cause) => {
            let fix = match store {
                KeyStoreSetting::OpenAlgo(file) => {
                    format!("run tickcast as the user that owns {} and the folder around it", file.display())
                }
                KeyStoreSetting::Sqlite(file) => format!(
                    "tickcast keys add --store {0} --user USER --broker BROKER makes one; else let the server's user read {0}",
                    file.display()
                ),
                KeyStoreSetting::Demo => "--set auth.store=sqlite:keys.db".to_owned(),
            };
            return vec![Finding::problem(CHECK, cause.clone(), "serve ends with exit code 4", fix)];
        }
    };
    let mut findings = vec![match store {
        KeyStoreSetting::Demo => Finding::warning(
            CHECK,
            "auth.store is \"demo\": one key that everybody knows, on loopback only",
            "every program on this machine can read all ticks as user demo",
            "for more than a trial: tickcast keys add --store keys.db --user USER --broker BROKER, then --set auth.store=sqlite:keys.db",
        ),
        KeyStoreSetting::Sqlite(file) | KeyStoreSetting::OpenAlgo(file) if count == 0 => Finding::warning(
            CHECK,
            format!("{} holds no key", file.display()),
            "nobody can log in",
            match store {
                KeyStoreSetting::OpenAlgo(_) => "make an API key in OpenAlgo".to_owned(),
                _ => format!("tickcast keys add --store {} --user USER --broker BROKER", file.display()),
            },
        ),
        KeyStoreSetting::Sqlite(file) => Finding::ok(CHECK, format!("{} holds {count} live keys", file.display())),
        KeyStoreSetting::OpenAlgo(file) => Finding::ok(
            CHECK,
            format!("OpenAlgo's {} can be read and holds {count} keys; the pepper is set", file.display()),
        ),
    }];
    if let (KeyStoreSetting::Sqlite(file) | KeyStoreSetting::OpenAlgo(file), Some(mode)) = (store, keys.mode) {
        let shown = file.display();
        let fix = format!("chmod go-rwx {shown}");
        if mode & 0o022 != 0 {
            let what = format!("{shown} can be written by others (mode {mode:03o})");
            findings.push(Finding::problem(CHECK, what, "whoever writes it can make keys", fix));
        } else if mode & 0o004 != 0 {
            let what = format!("{shown} can be read by everybody (mode {mode:03o})");
            findings.push(Finding::warning(CHECK, what, "keys are hashed in it, users and brokers are not", fix));
        }
    }
    findings
}

fn secret_file(file: &SecretFile) -> Option<Finding> {
    (file.mode & 0o077 != 0).then(|| {
        Finding::warning(
            "secrets",
            format!(
                "{} holds {} and can be read by others (mode {:03o})",
                file.path.display(),
                file.setting,
                file.mode
            ),
            "a secret that others can read is none",
            format!("chmod 600 {}", file.path.display()),
        )
    })
}

fn registry(registry: &Registry) -> Finding {
    const CHECK: &str = "discovery";
    let at = format!("{} {}", registry.setting, registry.place);
    match &registry.state {
        Ok(Reach::Answers) => Finding::ok(CHECK, format!("{at} answers")),
        Ok(Reach::NotMadeYet) => Finding::ok(CHECK, format!("{at} is not there yet; the server makes it")),
        Err(cause) => Finding::problem(
            CHECK,
            format!("{at} cannot be used: {cause}"),
            "publishers that only register there are not found; those known are kept until it is back",
            match registry.setting {
                "discovery.redis" => {
                    "redis-cli -u URL ping says the same from a shell: start it, or correct URL and password"
                }
                _ => {
                    "let the server's user write the file and its folder, or name another with --set discovery.file=FILE"
                }
            },
        ),
    }
}

fn account(account: &Account) -> Finding {
    const CHECK: &str = "credentials";
    const WHY: &str = "the broker is not logged in to, and this user gets no ticks";
    let Account { broker, user, from, missing } = account;
    let whose = format!("{broker}, user {user}");
    match missing {
        Ok(missing) if missing.is_empty() => {
            Finding::ok(CHECK, format!("{whose}: all that the broker asks for is in {from}"))
        }
        Ok(missing) => {
            // Variables that are missing are a mistake in the settings: no server starts with them.
            let fix = "add a line name=value for each to it; it is read again before each login (docs/ADAPTERS.md)";
            let lines = missing.join(", ");
            Finding::problem(CHECK, format!("{whose}: {from} lacks {lines}"), WHY, fix)
        }
        Err(cause) => {
            let fix = format!("a file of name=value lines that only the server's user can read (chmod 600), at {from}");
            Finding::problem(CHECK, format!("{whose}: {cause}"), WHY, fix)
        }
    }
}

fn symbols(facts: &Facts) -> Vec<Finding> {
    let faults = facts.symbols.iter().filter_map(|file| {
        let fault = file.fault.as_ref()?;
        Some(Finding::problem(
            "symbols",
            format!("{}: {} cannot be read: {fault}", file.broker, file.path.display()),
            "without it the feed knows no instrument of that file",
            format!("fetch it (docs/ADAPTERS.md), or correct brokers.{}.symbols", file.broker),
        ))
    });
    faults.collect()
}

fn disks(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "disk";
    if facts.disks.is_empty() {
        return vec![Finding::ok(CHECK, "these settings write nothing to a disk")];
    }
    let disk = |disk: &super::super::facts::Disk| {
        let at = format!("{} ({})", disk.folder.display(), disk.what);
        let why = "a full disk stops key changes, registrations and OpenAlgo's health page; running clients go on";
        match &disk.free {
            Ok(free) if *free < ROOM_MIN => Finding::problem(
                CHECK,
                format!("{at}: {} MiB free", free >> 20),
                why,
                "make room there, or move the file",
            ),
            Ok(free) if *free < ROOM_LOW => Finding::warning(
                CHECK,
                format!("{at}: {} MiB free", free >> 20),
                why,
                "make room there, or move the file",
            ),
            Ok(free) => Finding::ok(CHECK, format!("{at}: {} GiB free", free >> 30)),
            Err(cause) => Finding::problem(
                CHECK,
                format!("{at}: {cause}"),
                why,
                "make the folder, or correct the path in the settings",
            ),
        }
    };
    facts.disks.iter().map(disk).collect()
}
