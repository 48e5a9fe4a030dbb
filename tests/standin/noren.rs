//! A Noren server: the first message is the login, in both generations; a stream begins with its snapshot and goes on with changes;
//! order updates go to whoever asked for them; nothing is remembered beyond the connection.

use super::{House, Out, StandIn, Upgrade};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};

/// One connection.
#[derive(Default)]
pub struct Session {
    pub logged_in: bool,
    pub wants_orders: bool,
    /// Scrips of the touchline.
    pub touchline: BTreeSet<String>,
    /// Scrips of the depth stream.
    pub depth: BTreeSet<String>,
}

/// See the module.
pub struct Noren {
    pub user: String,
    /// The token that is right now.
    pub token: String,
    /// What is said of wrong logins besides.
    pub refused: u32,
    /// Right logins that are refused all the same, as after a close.
    pub cooldown: u32,
    pub logins: u32,
    pub heartbeats: u32,
    pub sessions: HashMap<u64, Session>,
    /// scrip -> all fields it has, without `t`; a stream of one that is not here begins when a test says so.
    pub market: HashMap<String, Map<String, Value>>,
}

impl Noren {
    pub fn new(user: &str, token: &str) -> Self {
        Noren {
            user: user.to_owned(),
            token: token.to_owned(),
            refused: 0,
            cooldown: 0,
            logins: 0,
            heartbeats: 0,
            sessions: HashMap::new(),
            market: HashMap::new(),
        }
    }

    /// Scrips of both streams, of all connections.
    pub fn held(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let all = |of: fn(&Session) -> &BTreeSet<String>| self.sessions.values().flat_map(of).cloned().collect();
        (all(|session| &session.touchline), all(|session| &session.depth))
    }

    fn login(&mut self, client: u64, message: &Value) -> Vec<Out> {
        let (answer, key) = if message["t"] == "c" { ("ck", "susertoken") } else { ("ak", "accesstoken") };
        let names = message["uid"] == self.user.as_str() && message["actid"] == self.user.as_str();
        let right = names && message[key] == self.token.as_str() && message["source"] == "API";
        self.logins += 1;
        if !right || self.cooldown > 0 {
            self.cooldown = self.cooldown.saturating_sub(u32::from(right));
            self.refused += 1;
            let text = "Session Expired :  Invalid Session Key";
            // The socket stays open: the client must close it.
            return vec![Out::Text(json!({"t": answer, "s": "NOT_OK", "emsg": text}).to_string())];
        }
        self.sessions.entry(client).or_default().logged_in = true;
        vec![Out::Text(json!({"t": answer, "s": "OK", "uid": self.user}).to_string())]
    }

    fn subscribe(&mut self, client: u64, scrips: &str, is_depth: bool) -> Vec<Out> {
        let session = self.sessions.entry(client).or_default();
        let mut answers = Vec::new();
        for scrip in scrips.split('#') {
            let held = if is_depth { &mut session.depth } else { &mut session.touchline };
            held.insert(scrip.to_owned());
            let Some(fields) = self.market.get(scrip) else { continue };
            let (exchange, token) = scrip.split_once('|').expect("EXCHANGE|TOKEN");
            let mut snapshot = json!({"t": if is_depth { "dk" } else { "tk" }, "e": exchange, "tk": token});
            for (name, value) in fields {
                if is_depth || in_touchline(name) {
                    snapshot[name] = value.clone();
                }
            }
            answers.push(Out::Text(snapshot.to_string()));
        }
        answers
    }
}

/// Whether the touchline has the field.
fn in_touchline(name: &str) -> bool {
    !matches!(name, "tbq" | "tsq" | "lc" | "uc" | "52h" | "52l")
        && !name.ends_with(['2', '3', '4', '5'])
        && !name.starts_with("bo")
        && !name.starts_with("so")
}

impl House for Noren {
    fn upgrade(&mut self, client: u64, _: &Upgrade) -> Result<(), String> {
        self.sessions.insert(client, Session::default());
        Ok(())
    }

    fn text(&mut self, client: u64, text: &str) -> Vec<Out> {
        let Ok(message) = serde_json::from_str::<Value>(text) else { return vec![Out::End] };
        let kind = message["t"].as_str().unwrap_or_default();
        if matches!(kind, "c" | "a") {
            return self.login(client, &message);
        }
        if !self.sessions.get(&client).is_some_and(|session| session.logged_in) {
            return vec![Out::End];
        }
        let scrips = message["k"].as_str().unwrap_or_default();
        let session = self.sessions.get_mut(&client).expect("it was there");
        match kind {
            "h" => {
                self.heartbeats += 1;
                vec![Out::Text(json!({"t": "hk"}).to_string())]
            }
            "t" | "d" => self.subscribe(client, scrips, kind == "d"),
            "u" | "ud" => {
                let held = if kind == "u" { &mut session.touchline } else { &mut session.depth };
                held.retain(|scrip| !scrips.split('#').any(|ended| ended == scrip));
                vec![Out::Text(json!({"t": if kind == "u" { "uk" } else { "udk" }, "k": scrips}).to_string())]
            }
            "o" => {
                session.wants_orders = message["actid"] == self.user.as_str();
                vec![Out::Text(json!({"t": "ok"}).to_string())]
            }
            _ => Vec::new(),
        }
    }

    fn gone(&mut self, client: u64) {
        self.sessions.remove(&client);
    }
}

impl StandIn<Noren> {
    pub fn url(&self, path: &str) -> String {
        format!("ws://{}/{path}", self.at)
    }

    /// Waits until exactly these scrips are held.
    pub fn await_scrips(&self, touchline: &[&str], depth: &[&str]) {
        let set = |scrips: &[&str]| scrips.iter().map(|scrip| (*scrip).to_owned()).collect::<BTreeSet<_>>();
        let want = (set(touchline), set(depth));
        self.await_house(&format!("the sets {want:?}"), |noren| noren.held() == want);
    }

    /// The market moves: `fields` of `scrip` change, and whoever holds one of its streams is told.
    pub fn change(&self, scrip: &str, fields: Value) {
        let Value::Object(fields) = fields else { panic!("an object") };
        let (exchange, token) = scrip.split_once('|').expect("EXCHANGE|TOKEN");
        let mut to = Vec::new();
        self.with(|noren| {
            noren.market.entry(scrip.to_owned()).or_default().extend(fields.clone());
            for (&client, session) in &noren.sessions {
                for (held, kind) in [(&session.touchline, "tf"), (&session.depth, "df")] {
                    if held.contains(scrip) {
                        let mut message = json!({"t": kind, "e": exchange, "tk": token});
                        for (name, value) in fields.iter().filter(|(name, _)| kind == "df" || in_touchline(name)) {
                            message[name] = value.clone();
                        }
                        to.push((client, message.to_string()));
                    }
                }
            }
        });
        for (client, text) in to {
            self.send([client], &Out::Text(text));
        }
    }

    /// Sends a message as it is to whoever holds its scrip in the stream it is of; how many there were.
    pub fn say(&self, text: &str) -> usize {
        let message: Value = serde_json::from_str(text).expect("JSON");
        let part = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        let scrip = format!("{}|{}", part("e"), part("tk"));
        let is_depth = part("t").starts_with('d');
        let to: Vec<u64> = self.with(|noren| {
            let holds = |session: &Session| {
                if is_depth { session.depth.contains(&scrip) } else { session.touchline.contains(&scrip) }
            };
            noren.sessions.iter().filter(|(_, session)| holds(session)).map(|(&to, _)| to).collect()
        });
        self.send(to.iter().copied(), &Out::Text(text.to_owned()));
        to.len()
    }

    /// An order of the user has changed; how many were told.
    pub fn order(&self, fields: Value) -> usize {
        let mut message = fields;
        message["t"] = "om".into();
        let to: Vec<u64> = self.with(|noren| {
            let wanting = noren.sessions.iter().filter(|(_, session)| session.wants_orders);
            wanting.map(|(&to, _)| to).collect()
        });
        self.send(to.iter().copied(), &Out::Text(message.to_string()));
        to.len()
    }
}
