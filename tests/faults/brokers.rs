//! Between a broker and its native feed, and the server itself, with everything that feeds it.

use crate::process::account::{program_of, settings_of};
use crate::process::{Folder, Server, words};
use crate::publishers::{Publisher, somewhere, within};
use crate::standin::StandIn;
use crate::standin::angel::{Angel, quote};
use crate::standin::kite::Kite;
use crate::standin::noren::Noren;
use crate::support::Client;
use crate::support::dealer::AdapterProcess;
use crate::support::path::{Healed, Path};
use crate::{BACK, CUT, Child, address, client, nothing_is_left, rest, ticks_resume};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const KEY: &str = "kitekey-1234";
const TOKEN: &str = "token-of-the-day-5678";
const INFY: u32 = 408_065;
const SBIN: u32 = 779_521;
const KITE_SYMBOLS: &str = "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,\
     segment,exchange\n408065,1594,INFY,INFY,0,,0,0.05,1,EQ,NSE,NSE\n779521,3045,SBIN,SBIN,0,,0,0.05,1,EQ,NSE,NSE\n";
/// OpenAlgo's export, for the other brokers.
const SYMBOLS: &str = "symbol,exchange,brexchange,token\nINFY,NSE,NSE,408065\nSBIN,NSE,NSE,779521\n";

fn kite_credentials() -> String {
    format!("api_key={KEY}\naccess_token={TOKEN}\n")
}

/// A broker beyond a path, its feed, and how to look at both.
struct Feed<S> {
    broker: S,
    path: Path,
    server: Server,
    client: Client,
    _folder: Folder,
}

impl<S> Feed<S> {
    fn new(
        name: &str,
        kind: &str,
        broker: S,
        at: SocketAddr,
        (query, credentials): (&str, &str),
        symbols: &str,
    ) -> Self {
        let (folder, path) = (Folder::new(name), Path::to(at));
        let (server, key) = program_of(&folder, kind, &format!("ws://{}/{query}", path.at), credentials, symbols);
        let mut client = client(&server, &key);
        client.subscribe(&["INFY"], 3);
        client.subscribe(&["SBIN"], 2);
        Feed { broker, path, server, client, _folder: folder }
    }

    /// Cuts the path for so long. `held`: whether the broker's newest connection holds exactly what is wanted.
    fn survives(&mut self, time: Duration, how: Healed, held: impl Fn(&S) -> bool, say: impl Fn(&S, i32)) {
        self.server.await_that("everything is held", || held(&self.broker));
        ticks_resume(&mut self.client, Instant::now(), |price| say(&self.broker, price));
        let fds = self.server.process.fds();
        self.path.cut();
        rest(time);
        let since = Instant::now();
        self.path.heal(how);
        ticks_resume(&mut self.client, since, |price| say(&self.broker, price));
        self.server.await_that("exactly the same is held", || held(&self.broker));
        nothing_is_left(&self.server, fds);
    }

    fn connects(&self) -> f64 {
        self.server.metric("tickcast_native_connects_total", &["\"success\""])
    }
}

fn kite_feed(name: &str) -> Feed<Kite> {
    let kite = Kite::start(KEY, TOKEN);
    let at = kite.at();
    Feed::new(name, "zerodha", kite, at, ("", &kite_credentials()), KITE_SYMBOLS)
}

fn newest_is_right(kite: &Kite) -> bool {
    let wanted = BTreeMap::from([(INFY, "full".to_owned()), (SBIN, "quote".to_owned())]);
    kite.seen().held.last_key_value().is_some_and(|(_, held)| *held == wanted)
}

#[test]
fn a_network_cut_between_broker_and_feed_heals_by_itself_however_it_ends() {
    let of_zerodha = |name: &str, time, how| {
        let mut feed = kite_feed(name);
        feed.survives(time, how, newest_is_right, |kite, price| kite.price(SBIN, price));
        feed.connects()
    };
    let of_angel = || {
        let angel = StandIn::start(Angel::new("jwt", "feed"));
        let (at, credentials) = (angel.at, "access_token=jwt\napi_key=key\nclient_code=A1\nfeed_token=feed\n");
        let mut feed = Feed::new("cut-angel", "angel", angel, at, ("smart-stream", credentials), SYMBOLS);
        let wanted = [(2, 1, "779521".to_owned()), (3, 1, "408065".to_owned())].into();
        let held = |angel: &StandIn<Angel>| angel.with(|angel| angel.newest().is_some_and(|held| *held == wanted));
        feed.survives(CUT, Healed::Forgotten, held, |angel, price| {
            angel.tick(&quote(1, "779521", price.into()));
        });
        feed.connects()
    };
    let of_noren = || {
        let noren = StandIn::start(Noren::new("UID1", "TOKEN"));
        // Its streams begin with a snapshot.
        noren.change("NSE|779521", json!({"lp": "1.00"}));
        let at = noren.at;
        let login = "user_id=UID1\naccess_token=TOKEN\n";
        let mut feed = Feed::new("cut-noren", "shoonya", noren, at, ("NorenWSAPI/", login), SYMBOLS);
        let held = |noren: &StandIn<Noren>| {
            noren.with(|noren| {
                let newest = noren.sessions.keys().max().map(|newest| &noren.sessions[newest]);
                newest.is_some_and(|s| {
                    s.touchline.iter().eq(["NSE|779521"].iter()) && s.depth.iter().eq(["NSE|408065"].iter())
                })
            })
        };
        feed.survives(CUT, Healed::Forgotten, held, |noren, price| {
            noren.change("NSE|779521", json!({"lp": format!("{}.{:02}", price / 100, price % 100)}));
        });
        feed.connects()
    };
    std::thread::scope(|scope| {
        let short = scope.spawn(|| of_zerodha("cut-short", Duration::from_secs(2), Healed::GoesOn));
        let longs = [Healed::GoesOn, Healed::Ended, Healed::Forgotten]
            .map(|how| scope.spawn(move || of_zerodha(&format!("cut-{how:?}"), CUT, how)));
        let others = [scope.spawn(of_angel), scope.spawn(of_noren)];
        assert_eq!(short.join().expect("recovered"), 1.0, "a short one costs no connection");
        for (n, long) in longs.into_iter().chain(others).enumerate() {
            let connects = long.join().expect("recovered");
            // The first may outlive its cut.
            assert!(connects >= if n == 0 { 1.0 } else { 2.0 }, "{connects}");
        }
    });
}

#[test]
#[ignore = "a broker that another test starts, at a given address"]
fn broker_process() {
    let words = words();
    let kite = Kite::start_at(words[0].parse().expect("an address"), KEY, TOKEN);
    println!("ready {}", kite.at());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if line == "held" {
            println!("held {}", json!(kite.seen().all()));
        } else {
            kite.price(SBIN, line.parse().expect("a price"));
        }
    }
}

#[test]
fn a_killed_broker_is_subscribed_to_anew_when_another_process_takes_its_place() {
    let mut broker = Child::start("broker_process", &["127.0.0.1:0"]);
    let (folder, at) = (Folder::new("kill-broker"), broker.ready.clone());
    let (server, key) = program_of(&folder, "zerodha", &format!("ws://{at}"), &kite_credentials(), KITE_SYMBOLS);
    let mut client = client(&server, &key);
    client.subscribe(&["INFY"], 3);
    client.subscribe(&["SBIN"], 2);
    let wanted = json!({INFY.to_string(): "full", SBIN.to_string(): "quote"});
    server.await_that("everything is held", || broker.held() == wanted);
    ticks_resume(&mut client, Instant::now(), |price| broker.tell(&price.to_string()));
    let fds = server.process.fds();
    for round in 1..=3 {
        broker.process.kill();
        server.await_metric("tickcast_native_connections", &["zerodha"], 0.0);
        // Some attempts in vain, so that waits have grown.
        let lost = server.metric("tickcast_native_connects_total", &["\"lost\""]);
        server.await_that("it tries again", || {
            server.metric("tickcast_native_connects_total", &["\"lost\""]) >= lost + 2.0
        });
        broker = Child::start("broker_process", &[&at]);
        assert_eq!(broker.ready, at, "its port is free");
        ticks_resume(&mut client, Instant::now(), |price| broker.tell(&price.to_string()));
        server.await_that("exactly the same is held", || broker.held() == wanted);
        server.await_metric("tickcast_native_connects_total", &["\"success\""], f64::from(1 + round));
        nothing_is_left(&server, fds);
    }
}

#[test]
fn a_stopped_server_goes_on_where_it_was_and_takes_nobody_for_dead() {
    let mut feed = kite_feed("stop-server");
    let held = |feed: &Feed<Kite>| newest_is_right(&feed.broker) && feed.broker.seen().held.len() == 1;
    feed.server.await_that("everything is held", || held(&feed));
    ticks_resume(&mut feed.client, Instant::now(), |price| feed.broker.price(SBIN, price));
    let fds = feed.server.process.fds();
    feed.server.process.signal("STOP");
    rest(Duration::from_secs(7));
    let since = Instant::now();
    feed.server.process.signal("CONT");
    ticks_resume(&mut feed.client, since, |price| feed.broker.price(SBIN, price));
    assert!(held(&feed));
    assert_eq!(feed.connects(), 1.0);
    nothing_is_left(&feed.server, fds);
}

#[test]
fn a_killed_server_has_its_ports_and_all_who_feed_it_back_when_it_is_started_again() {
    let (folder, kite) = (Folder::new("kill-server"), Kite::start(KEY, TOKEN));
    let (config, key) = settings_of(&folder, "zerodha", &kite.url, &kite_credentials(), KITE_SYMBOLS);
    let [ws, admin, bus, control] = std::array::from_fn(|_| address(&somewhere()).to_string());
    let file = folder.path("publishers.db");
    let settings = [
        format!("bus.bind=tcp://{bus}"),
        format!("adapters.control_bind=tcp://{control}"),
        format!("discovery.file={file}"),
    ];
    let mut args = vec!["--config", &config, "--listen", &ws, "--admin", &admin, "--set", "adapters.default=bus"];
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let mut publisher = Publisher::start(&[&somewhere(), "SBIN", &format!("file={file}")]);
    publisher.endpoint();
    for _ in 0..3 {
        let mut server = Server::start(&args, &[]);
        let since = Instant::now();
        let adapter = AdapterProcess::start(&server.control, &json!({"broker": "angel"}));
        let mut client = client(&server, &key);
        client.subscribe(&["INFY"], 3);
        client.subscribe(&["SBIN"], 2);
        ticks_resume(&mut client, since, |price| kite.price(SBIN, price));
        server.await_that("exactly what is wanted is held", || newest_is_right(&kite) && kite.seen().held.len() == 1);
        within(BACK, since, "the publisher is heard", || server.metric("tickcast_bus_messages_total", &[]) > 0.0);
        server.await_metric("tickcast_control_sessions", &[], 1.0);
        server.process.kill();
        kite.await_seen(|seen| seen.held.is_empty());
        drop(adapter);
    }
}
