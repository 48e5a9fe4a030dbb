//! The program with an account at a native broker, as an operator sets it up: key store, credentials, symbols, settings.

use super::{Folder, Server, run};
use std::os::unix::fs::PermissionsExt;

/// The program with asha's account at a native broker, and asha's key; texts are those of the files.
pub fn program_of(folder: &Folder, broker: &str, url: &str, credentials: &str, symbols: &str) -> (Server, String) {
    let (config, key) = settings_of(folder, broker, url, credentials, symbols);
    (Server::anywhere(&["--config", &config]), key)
}

/// The file of its settings, and asha's key.
pub fn settings_of(folder: &Folder, broker: &str, url: &str, credentials: &str, symbols: &str) -> (String, String) {
    let store = folder.path("keys.db");
    let (code, stdout, stderr) = run(&["keys", "add", "--store", &store, "--user", "asha", "--broker", broker], &[]);
    assert_eq!(code, 0, "{stderr}");
    let credentials = folder.file(&format!("{broker}-asha"), credentials);
    std::fs::set_permissions(&credentials, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let symbols = folder.file("instruments.csv", symbols);
    let config = format!(
        "[auth]\nstore = \"sqlite:{store}\"\n[brokers.{broker}]\nkind = \"{broker}\"\nusers = [\"asha\"]\nurl = \"{url}\"\n\
         credentials = \"file:{}\"\nsymbols = [\"{}\"]\n",
        folder.path(&format!("{broker}-{{user}}")),
        symbols.display(),
    );
    folder.file("tickcast.toml", &config);
    (folder.path("tickcast.toml"), stdout.lines().last().expect("a key").to_owned())
}
