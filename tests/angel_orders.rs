//! Order updates at Angel in the whole server: from a server of their own, whose trouble is none of the ticks'.

#[path = "standin/account.rs"]
mod account;
mod standin;
mod support;

use account::Account;
use serde_json::{Value, json};
use standin::StandIn;
use standin::angel::{Angel, quote};
use standin::angel_orders::AngelOrders;
use std::time::Duration;
use support::{Client, Server};

const JWT: &str = "jwt-of-today-1234";
const SYMBOLS: [(&str, &str, &str, &str); 1] = [("SBIN", "NSE", "NSE", "3045")];

struct World {
    ticks: StandIn<Angel>,
    orders: StandIn<AngelOrders>,
    server: Server,
    account: Account,
}

impl World {
    fn new(name: &str) -> Self {
        let (ticks, orders) = (StandIn::start(Angel::new(JWT, "feed")), StandIn::start(AngelOrders::new(JWT)));
        let account = Account::new(&format!("angel-orders-{name}"));
        let world_of = |settings: &mut tickcast::config::Settings| {
            let broker = settings.brokers.get_mut("bus").expect("the account's");
            broker.order_url = Some(orders.url());
            settings.adapters.linger = Duration::from_millis(100);
        };
        let server = account.server("angel", ticks.url(), &SYMBOLS, world_of);
        let world = World { ticks, orders, server, account };
        world.credentials(JWT);
        world
    }

    fn credentials(&self, jwt: &str) {
        let pairs = [("access_token", jwt), ("api_key", "key"), ("client_code", "A1"), ("feed_token", "feed")];
        self.account.credentials(&pairs);
    }

    /// A client that has asked for ticks and orders.
    fn client(&self) -> Client {
        let mut client = self.server.client();
        client.subscribe(&["SBIN"], 2);
        client.request(json!({"action": "subscribe_orders"}));
        client
    }
}

fn filled(id: &str) -> Value {
    json!({"variety": "NORMAL", "ordertype": "LIMIT", "producttype": "CARRYFORWARD", "price": 260.5, "triggerprice": 0.0,
        "quantity": "10", "tradingsymbol": "SBIN-EQ", "transactiontype": "SELL", "exchange": "NSE", "symboltoken": "3045",
        "averageprice": 260.45, "filledshares": "10", "unfilledshares": "0", "orderid": id, "text": "", "orderstatus": "complete"})
}

fn next_order(client: &mut Client) -> Value {
    client.json_where(|v| v["type"] == "order_update")
}

#[test]
fn an_order_update_reaches_the_user_in_openalgos_words_and_the_greeting_does_not() {
    let world = World::new("words");
    let mut client = world.client();
    world.orders.await_accepted(1);
    assert_eq!(world.orders.order("AB05", &filled("241226000761133")), 1);
    let want = json!({"type": "order_update", "user_id": "demo", "mode": "live", "broker": "bus",
        "orderid": "241226000761133", "symbol": "SBIN", "exchange": "NSE", "action": "SELL", "quantity": 10, "price": 260.5,
        "trigger_price": 0.0, "pricetype": "LIMIT", "product": "NRML", "order_status": "complete", "filled_quantity": 10,
        "pending_quantity": 0, "average_price": 260.45, "rejection_reason": ""});
    assert_eq!(next_order(&mut client), want);
    assert_eq!(client.settled(), [] as [Value; 0]);
    world.server.await_metric("tickcast_native_order_streams", &[], 1.0);
    assert_eq!(world.server.metric("tickcast_native_connections", &[]), 1.0, "it carries no ticks");
}

#[test]
fn after_cuts_and_silence_orders_come_again_with_the_token_of_now_and_ticks_never_stopped() {
    let world = World::new("cuts");
    let mut client = world.client();
    world.ticks.await_units(&[(2, 1, "3045")]);
    for round in 1..=2_u32 {
        world.orders.await_accepted(round);
        let jwt = format!("jwt-of-round-{round}");
        world.credentials(&jwt);
        world.orders.with(|house| house.jwt = jwt);
        world.orders.hang_up();
        world.orders.await_accepted(round + 1);
        world.orders.order("AB05", &filled(&round.to_string()));
        assert_eq!(next_order(&mut client)["orderid"], round.to_string());
    }
    assert_eq!(world.orders.with(|house| house.refused), 0, "never the token held before");
    world.orders.set_silent(true);
    world.orders.await_accepted(4);
    world.orders.set_silent(false);
    world.orders.order("AB05", &filled("after the silence"));
    assert_eq!(next_order(&mut client)["orderid"], "after the silence");
    world.ticks.tick(&quote(1, "3045", 81_230));
    assert_eq!(client.tick()["data"]["ltp"], 812.3);
    assert_eq!(world.ticks.opened(), 1);
}

#[test]
fn a_refused_order_socket_costs_no_tick_and_is_not_asked_again_with_the_same_token() {
    let world = World::new("refused");
    world.orders.with(|house| house.jwt = "another".to_owned());
    let mut client = world.client();
    world.ticks.await_units(&[(2, 1, "3045")]);
    world.orders.await_house("the refusal", |house| house.refused == 1);
    world.ticks.tick(&quote(1, "3045", 81_230));
    assert_eq!(client.tick()["data"]["ltp"], 812.3);
    // Another login of the same user needs no other order socket.
    let mut second = world.client();
    world.ticks.tick(&quote(1, "3045", 81_235));
    assert_eq!(second.json_where(|v| v["data"]["ltp"] == 812.35)["mode"], 2);
    assert_eq!(world.orders.with(|house| (house.refused, house.accepted)), (1, 0));
    assert_eq!(world.server.metric("tickcast_native_order_streams", &[]), 0.0);
}

#[test]
fn when_the_last_client_has_gone_the_order_socket_says_goodbye_too() {
    let world = World::new("linger");
    let client = world.client();
    world.orders.await_accepted(1);
    drop(client);
    world.orders.await_house("the end", |house| house.connected.is_empty());
    world.server.await_metric("tickcast_native_order_streams", &[], 0.0);
}
