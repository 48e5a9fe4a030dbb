//! The demo user's account at a native broker: credentials and instruments in a folder that goes with the test, and a server.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use crate::support::Server;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tickcast::adapter::kinds::KINDS;
use tickcast::config::Settings;
use tickcast::config::settings::{AdapterKind, Broker, CredentialsFrom};

/// What one account has on disk; gone with it.
pub struct Account(PathBuf);

impl Account {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tickcast-account-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Account(path)
    }

    /// Puts credentials in, in place of those before.
    pub fn credentials(&self, pairs: &[(&str, &str)]) -> PathBuf {
        let path = self.0.join("credentials");
        let lines: String = pairs.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        std::fs::write(&path, lines).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
        path
    }

    /// OpenAlgo's export of its symbols: (symbol, exchange, the broker's exchange, token).
    fn symbols(&self, rows: &[(&str, &str, &str, &str)]) -> PathBuf {
        let row = |(symbol, exchange, theirs, token): &(&str, &str, &str, &str)| {
            format!("{symbol},{exchange},{theirs},{token},0.05\n")
        };
        let path = self.0.join("symbols.csv");
        let head = "symbol,exchange,brexchange,token,tick_size\n".to_owned();
        std::fs::write(&path, head + &rows.iter().map(row).collect::<String>()).expect("written");
        path
    }

    /// A server whose demo user, at a broker called `bus`, has an account of `kind` at `url`.
    pub fn server(
        &self,
        kind: &str,
        url: String,
        symbols: &[(&str, &str, &str, &str)],
        change: impl FnOnce(&mut Settings),
    ) -> Server {
        let index = KINDS.iter().position(|known| known.name == kind).expect("a native kind");
        let broker = Broker {
            kind: AdapterKind::Native(index as u8),
            users: vec!["demo".into()],
            credentials: Some(CredentialsFrom::File(self.0.join("credentials").display().to_string())),
            symbols: vec![self.symbols(symbols)],
            url: Some(url),
            ..Default::default()
        };
        Server::start(|settings| {
            settings.brokers.insert("bus".into(), broker);
            change(settings);
        })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
