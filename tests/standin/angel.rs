//! Angel's SmartStream server: four headers are the login, (instrument, mode) pairs are the quota, `ping` is answered with `pong`, and
//! ticks go only to whom they are subscribed.

use super::{House, Out, StandIn, Upgrade};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// (mode, exchange type, token).
pub type Unit = (u8, u8, String);

/// See the module.
pub struct Angel {
    /// Header name in lower case -> value that is right now.
    pub right: BTreeMap<&'static str, String>,
    /// Units that one connection may hold.
    pub quota: usize,
    /// Connections that one account may have.
    pub connections_max: usize,
    /// What each connection holds.
    pub held: HashMap<u64, BTreeSet<Unit>>,
    pub refused: u32,
    pub pings: u32,
    /// The most units that one connection ever held.
    pub most: usize,
}

impl Angel {
    pub fn new(jwt: &str, feed_token: &str) -> Self {
        let right =
            [("authorization", jwt), ("x-api-key", "key"), ("x-client-code", "A1"), ("x-feed-token", feed_token)];
        Angel {
            right: right.map(|(name, value)| (name, value.to_owned())).into(),
            quota: 1000,
            connections_max: 3,
            held: HashMap::new(),
            refused: 0,
            pings: 0,
            most: 0,
        }
    }

    /// All units of all connections.
    pub fn units(&self) -> BTreeSet<Unit> {
        self.held.values().flatten().cloned().collect()
    }

    /// What the newest connection holds.
    pub fn newest(&self) -> Option<&BTreeSet<Unit>> {
        self.held.keys().max().map(|newest| &self.held[newest])
    }

    fn request(&mut self, client: u64, request: &Value) -> Option<Out> {
        let id = &request["correlationID"];
        let error = |code: &str, message: &str| {
            Some(Out::Text(json!({"correlationID": id, "errorCode": code, "errorMessage": message}).to_string()))
        };
        let invalid = || error("E1001", "Invalid Request Payload.");
        let (Some(action @ 0..=1), Some(mode @ 1..=4)) =
            (request["action"].as_u64(), request["params"]["mode"].as_u64())
        else {
            return invalid();
        };
        let Some(lists) = request["params"]["tokenList"].as_array() else { return invalid() };
        let mut units = Vec::new();
        for list in lists {
            let (Some(exchange), Some(tokens)) = (list["exchangeType"].as_u64(), list["tokens"].as_array()) else {
                return invalid();
            };
            for token in tokens {
                // Numbers instead of texts are refused, as every other odd payload.
                let Some(token) = token.as_str() else { return invalid() };
                units.push((mode as u8, exchange as u8, token.to_owned()));
            }
        }
        let held = self.held.entry(client).or_default();
        if action == 0 {
            held.retain(|held| !units.contains(held));
            return None;
        }
        let more = units.iter().filter(|unit| !held.contains(*unit)).count();
        if held.len() + more > self.quota {
            return error("E1002", "Invalid Request. Subscription Limit Exceeded");
        }
        held.extend(units);
        self.most = self.most.max(held.len());
        None
    }
}

impl House for Angel {
    fn upgrade(&mut self, client: u64, upgrade: &Upgrade) -> Result<(), String> {
        let names = [
            ("authorization", "Auth token"),
            ("x-client-code", "Client Code"),
            ("x-api-key", "API Key"),
            ("x-feed-token", "Feed Token"),
        ];
        let given = |header: &str| upgrade.headers.get(header).map(|value| value.trim_start_matches("Bearer "));
        if let Some((_, name)) =
            names.iter().find(|(header, _)| given(header) != self.right.get(header).map(String::as_str))
        {
            self.refused += 1;
            return Err(format!("401 Unauthorized\r\nx-error-message: Invalid {name}"));
        }
        if self.held.len() >= self.connections_max {
            return Err("429 Too Many Requests\r\nx-error-message: Connection limit exceeded".to_owned());
        }
        self.held.insert(client, BTreeSet::new());
        Ok(())
    }

    fn text(&mut self, client: u64, text: &str) -> Vec<Out> {
        if text == "ping" {
            self.pings += 1;
            return vec![Out::Text("pong".to_owned())];
        }
        match serde_json::from_str::<Value>(text) {
            Ok(request) => self.request(client, &request).into_iter().collect(),
            Err(_) => self.request(client, &Value::Null).into_iter().collect(),
        }
    }

    fn gone(&mut self, client: u64) {
        self.held.remove(&client);
    }
}

/// A quote packet with this last price, in paise, and zeros.
pub fn quote(exchange: u8, token: &str, paise: i64) -> Vec<u8> {
    let mut packet = vec![0; 123];
    packet[..2].copy_from_slice(&[2, exchange]);
    packet[2..2 + token.len()].copy_from_slice(token.as_bytes());
    packet[43..51].copy_from_slice(&paise.to_le_bytes());
    packet
}

impl StandIn<Angel> {
    pub fn url(&self) -> String {
        format!("ws://{}/smart-stream", self.at)
    }

    /// Waits until exactly `units` are held.
    pub fn await_units(&self, units: &[(u8, u8, &str)]) {
        let want: BTreeSet<Unit> =
            units.iter().map(|&(mode, exchange, token)| (mode, exchange, token.to_owned())).collect();
        self.await_house(&format!("the set {want:?}"), |angel| angel.units() == want);
    }

    /// Sends a packet to those who hold what it is of; how many there were.
    pub fn tick(&self, packet: &[u8]) -> usize {
        let token = packet[2..27].split(|&c| c == 0).next().expect("a first part");
        let unit = (packet[0], packet[1], String::from_utf8(token.to_vec()).expect("text"));
        let to: Vec<u64> =
            self.with(|angel| angel.held.iter().filter(|(_, held)| held.contains(&unit)).map(|(&to, _)| to).collect());
        self.send(to.iter().copied(), &Out::Binary(packet.to_vec()));
        to.len()
    }
}
