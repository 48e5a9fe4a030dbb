//! Tokens of OpenAlgo's database: read at each login, renewed without a client, and shown to nobody.

use super::{Folder, INFY, KEY, TOKEN, World, ltp};
use crate::standin::kite::Kite;
use crate::support::Server;
use crate::support::world::Keys;
use serde_json::json;
use tickcast::config::settings::{AdapterKind, Broker, CredentialsFrom, Secret};

/// `FERNET_SALT`, and what OpenAlgo stores with it of `KEY:TOKEN` and of `KEY:of-the-next-day`; how they were made is said in
/// `src/auth/fernet.rs`.
const SALT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const TODAY: &str = "gAAAAABpVbkAAAECAwQFBgcICQoLDA0OD8imXqBgW24_-NvHfdhk_eE2WADNL0aWyQF-c0Ce3OI9FtisKLHYyCyJJ27hi09rpzI28RbC88Qeh7gsAeNEFsc=";
const TOMORROW: &str = "gAAAAABpVbkAAAECAwQFBgcICQoLDA0OD4GpFgHf5o7qpIMNb9mXi88tEtv1JO1Vjp7plSlnWXTzkBxM2azbBw2ZjVpwWFoVZhb1TZN63ZVIp7PLwy76nR8=";

/// Asha, whose token is in OpenAlgo's database.
fn of_openalgo(name: &str, encrypted: &str) -> (World, Keys) {
    let (folder, kite, keys) = (Folder::new(name), Kite::start(KEY, TOKEN), Keys::new(&[("asha", "zerodha")]));
    keys.store_token("asha", encrypted);
    let broker = Broker {
        kind: AdapterKind::Native(0),
        users: vec!["asha".into()],
        credentials: Some(CredentialsFrom::OpenAlgo),
        symbols: vec![folder.symbols(&[(INFY, "INFY".to_owned())])],
        url: Some(kite.url.clone()),
        ..Default::default()
    };
    let server = Server::start(|settings| {
        keys.set(settings);
        settings.auth.fernet_salt = Some(Secret(SALT.into()));
        settings.brokers.insert("zerodha".into(), broker);
    });
    (World { kite, server, folder }, keys)
}

#[test]
fn the_token_in_openalgos_database_is_read_at_each_login_and_its_rollover_needs_no_client() {
    let (world, keys) = of_openalgo("openalgo", TODAY);
    let mut client = world.server.client_of("asha");
    client.subscribe(&["INFY"], 2);
    world.await_held(&[(INFY, "quote")]);
    // Three o'clock in the morning: the broker ends the session, and yesterday's token with it.
    world.kite.accept("of-the-next-day");
    world.kite.cut();
    world.kite.await_seen(|seen| seen.refused == 1);
    world.server.await_metric("tickcast_adapters", &["\"reauthenticating\""], 1.0);
    let (_, feeds) = world.server.admin_get("/feeds");
    keys.store_token("asha", TOMORROW);
    world.await_held(&[(INFY, "quote")]);
    world.kite.price(INFY, 500);
    assert_eq!(ltp(&client.tick()), 5.0);
    let seen = world.kite.seen();
    assert_eq!(seen.tokens, [TOKEN, TOKEN, "of-the-next-day"], "the refused one is not sent again");
    // OpenAlgo says on the bus that a login is new: nobody waits for a refusal.
    keys.store_token("asha", TODAY);
    world.kite.accept(TOKEN);
    let payload = json!({"action": "invalidate", "user_id": "asha", "cache_type": "ALL"});
    world.server.publisher().json("CACHE_INVALIDATE_ALL_asha", &payload);
    world.kite.await_seen(|seen| seen.tokens.len() == 4);
    world.await_held(&[(INFY, "quote")]);
    world.kite.price(INFY, 600);
    assert_eq!(ltp(&client.tick()), 6.0);
    assert_eq!(world.kite.seen().refused, 1);
    let shown = feeds + &world.server.admin_get("/feeds").1 + &world.server.admin_get("/metrics").1;
    for secret in [KEY, TOKEN, "of-the-next-day", TODAY, SALT] {
        assert!(!shown.contains(secret), "{secret}");
    }
}

#[test]
fn a_token_that_cannot_be_decrypted_is_no_token_and_only_the_log_says_why() {
    let (world, _keys) = of_openalgo("undecryptable", "not-a-token");
    let mut client = world.server.connect();
    let reply = client.login("asha");
    assert_eq!(reply["code"], "BROKER_INIT_ERROR", "{reply}");
    let text = reply.to_string();
    assert!(
        text.contains("the server's log says why") && !text.contains("not-a-token") && !text.contains("openalgo.db"),
        "{text}"
    );
    assert!(world.kite.seen().tokens.is_empty(), "nothing was sent");
}
