//! A revoked key ends its sessions; the others go on.

mod support;

use serde_json::json;
use std::time::Duration;
use support::{Got, Server};
use tickcast::app::Hooks;
use tickcast::auth::sqlite::{KeyFile, Which};
use tickcast::config::settings::KeyStoreSetting;
use tickcast::model::Class;

#[test]
fn a_revoked_key_ends_its_sessions_and_no_others() {
    let folder = std::env::temp_dir().join(format!("tickcast-revocation-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("keys.db");
    let mut keys = KeyFile::open(&file, true).expect("a new store");
    let [ann, bob] = ["ann", "bob"].map(|user| keys.add(user, "angel", Class::Normal).expect("added"));
    let store = KeyStoreSetting::Sqlite(file);
    let hooks = Hooks { audit_every: Some(Duration::from_millis(20)), ..Default::default() };
    let server = Server::with_hooks(|settings| settings.auth.store = store, hooks);
    let mut clients = [ann, bob].map(|key| {
        let mut client = server.connect();
        assert_eq!(client.request(json!({"action": "authenticate", "api_key": key}))["type"], "auth");
        client.subscribe(&["INFY"], 1);
        client
    });
    assert_eq!(keys.revoke(&Which::User("ann".into())).expect("revoked"), 1);
    assert_eq!(clients[0].until_close(), Got::Close(Some((4403, "key revoked".into()))));
    let mut publisher = server.publisher();
    publisher.ltp("INFY", 2.0);
    assert_eq!(clients[1].tick()["data"]["ltp"], 2.0);
    drop(server);
    std::fs::remove_dir_all(&folder).expect("removed");
}
