//! Angel's server of order updates: one header is the login, a greeting comes first, `ping` is answered with `pong`, and whoever is
//! connected is told of every order of the account.

use super::{House, Out, StandIn, Upgrade};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// See the module.
#[derive(Default)]
pub struct AngelOrders {
    /// The token that is right now.
    pub jwt: String,
    /// Connections that may be open.
    pub connected: BTreeSet<u64>,
    pub accepted: u32,
    pub refused: u32,
    pub pings: u32,
}

impl AngelOrders {
    pub fn new(jwt: &str) -> Self {
        AngelOrders { jwt: jwt.to_owned(), ..AngelOrders::default() }
    }
}

impl House for AngelOrders {
    fn upgrade(&mut self, client: u64, upgrade: &Upgrade) -> Result<(), String> {
        let given = upgrade.headers.get("authorization").map_or("", String::as_str);
        if given.strip_prefix("Bearer ") != Some(&self.jwt) {
            self.refused += 1;
            return Err("401 Unauthorized".to_owned());
        }
        if self.connected.len() >= 3 {
            return Err("429 Too Many Requests".to_owned());
        }
        self.accepted += 1;
        self.connected.insert(client);
        Ok(())
    }

    fn opened(&mut self, _client: u64) -> Vec<Out> {
        vec![Out::Text(update("AB00", &json!({"orderid": "", "quantity": "0", "price": 0.0})))]
    }

    fn text(&mut self, _client: u64, text: &str) -> Vec<Out> {
        self.pings += u32::from(text == "ping");
        if text == "ping" { vec![Out::Text("pong".to_owned())] } else { Vec::new() }
    }

    fn gone(&mut self, client: u64) {
        self.connected.remove(&client);
    }
}

/// A message of the server.
pub fn update(code: &str, data: &Value) -> String {
    json!({"user-id": "A1", "status-code": "200", "order-status": code, "error-message": "", "orderData": data})
        .to_string()
}

impl StandIn<AngelOrders> {
    pub fn url(&self) -> String {
        format!("ws://{}/smart-order-update", self.at)
    }

    /// Waits until a connection stands that was not there before the `n`th.
    pub fn await_accepted(&self, n: u32) {
        self.await_house("a connection", |house| house.accepted >= n && !house.connected.is_empty());
    }

    /// An order has changed; how many were told.
    pub fn order(&self, code: &str, data: &Value) -> usize {
        let to: Vec<u64> = self.with(|house| house.connected.iter().copied().collect());
        self.send(to.iter().copied(), &Out::Text(update(code, data)));
        to.len()
    }
}
