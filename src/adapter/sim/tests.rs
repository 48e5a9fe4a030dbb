//! The simulated market is believable, repeats itself, keeps its pace and stops for good.

use super::instruments::Kind;
use super::market::{SimMarket, TICK_SIZE};
use super::{Config, INSTRUMENTS, SimSwitch, batch, run};
use crate::model::{Micros, Mode, ScopeId};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::sync::mpsc;

const OPENING: Micros = Micros(1_763_696_700_000_000);

#[test]
fn a_seed_gives_the_same_ticks_and_another_seed_others() {
    let ticks = |seed| {
        let mut market = SimMarket::new(seed, OPENING);
        (0..500).map(|i| market.tick(Micros(OPENING.0 + i))).collect::<Vec<_>>()
    };
    assert_eq!(ticks(1), ticks(1));
    assert_ne!(ticks(1), ticks(2));
}

#[test]
fn the_market_is_believable() {
    let mut market = SimMarket::new(7, OPENING);
    let mut volumes: HashMap<&str, u64> = HashMap::new();
    let mut prices: HashMap<&str, HashSet<i64>> = HashMap::new();
    for i in 0..100_000u64 {
        let t = market.tick(Micros(OPENING.0 + i * 5_000));
        let (name, close) = (t.listed.symbol, t.listed.close);
        assert!(t.low <= t.ltp && t.ltp <= t.high && t.low <= t.open && t.open <= t.high, "{t:?}");
        assert!((t.ltp - close).abs() <= close / 10 + TICK_SIZE && t.ltp % TICK_SIZE == 0, "{t:?}");
        let before = volumes.insert(name, t.volume).unwrap_or(0);
        assert!(t.volume >= before, "volume never falls: {t:?}");
        prices.entry(name).or_default().insert(t.ltp);
        if t.listed.kind == Kind::Index {
            assert_eq!((t.mode, t.volume, t.oi), (Mode::Quote, 0, None));
            continue;
        }
        assert_eq!(t.mode, Mode::Depth);
        assert_eq!(t.oi.is_some(), t.listed.kind == Kind::Option);
        assert!(t.low <= t.average && t.average <= t.high, "{t:?}");
        assert!(t.bids[0].price < t.asks[0].price && (t.bids[0].price == t.ltp || t.asks[0].price == t.ltp), "{t:?}");
        assert!(t.bids.is_sorted_by(|a, b| a.price > b.price) && t.asks.is_sorted_by(|a, b| a.price < b.price));
        assert!(t.bids.iter().chain(&t.asks).all(|l| l.quantity > 0 && l.orders > 0));
    }
    assert!(prices.values().all(|seen| seen.len() > 10), "everything moves");
}

#[test]
fn names_are_distinct_and_acceptable() {
    let names: HashSet<_> = INSTRUMENTS.iter().map(|l| (l.venue, l.symbol)).collect();
    assert_eq!(names.len(), INSTRUMENTS.len());
    assert_eq!(INSTRUMENTS.iter().filter(|l| l.kind == Kind::Share).count(), 50);
    let mut all = INSTRUMENTS.iter().map(|l| crate::model::InstrumentRef { venue: l.venue, symbol: l.symbol });
    assert!(all.all(|i| i.is_acceptable()));
}

#[test]
fn a_batch_is_what_a_publisher_sends() {
    let mut market = SimMarket::new(1, OPENING);
    let message = batch(&mut market, INSTRUMENTS.len(), OPENING);
    assert_eq!((&message.topic[..], message.t_recv, message.scope), (&b"BATCH"[..], OPENING, ScopeId::SHARED));
    let items: Vec<(String, serde_json::Value)> = rmp_serde::from_slice(&message.body).expect("MessagePack");
    assert_eq!(items.len(), INSTRUMENTS.len());
    for ((topic, data), listed) in items.iter().zip(INSTRUMENTS) {
        let mode = if listed.kind == Kind::Index { "QUOTE" } else { "DEPTH" };
        assert_eq!(*topic, format!("{}_{}_{mode}", listed.venue, listed.symbol));
        assert_eq!(data["broker"], "sim");
        assert_eq!(data["timestamp"], OPENING.millis());
        let ltp = data["ltp"].as_f64().expect("rupees");
        assert!((ltp * 100.0 - listed.close as f64).abs() < listed.close as f64 / 50.0, "{topic} {ltp}");
        assert_eq!(data.get("oi").is_some(), listed.kind == Kind::Option);
        let levels = data["depth"]["buy"].as_array().map(Vec::len);
        assert_eq!(levels, (listed.kind != Kind::Index).then_some(5));
    }
}

#[tokio::test(start_paused = true)]
async fn it_keeps_its_pace_and_stops_for_good() {
    let switch = SimSwitch::default();
    let (sent, mut received) = mpsc::channel(10_000);
    let config = Config { ticks_per_second: 333, seed: 1 };
    let sink = move |m: crate::model::SourceMessage| sent.try_send(m).is_ok();
    let source = tokio::spawn(run(config, switch.clone(), sink));
    tokio::time::sleep(Duration::from_millis(10_001)).await;
    let mut ticks = 0;
    while let Ok(message) = received.try_recv() {
        let items: Vec<(String, serde_json::Value)> = rmp_serde::from_slice(&message.body).expect("MessagePack");
        ticks += items.len();
    }
    assert!((3325..=3335).contains(&ticks), "{ticks}");
    assert!(switch.stop() && !switch.stop(), "the first stop is told apart");
    assert!(switch.is_stopped());
    source.await.expect("ends");
    assert!(received.recv().await.is_none(), "nothing comes after the switch");
    run(config, switch, |_| panic!("it never starts again")).await;
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_has_closed_ends_it() {
    run(Config::default(), SimSwitch::default(), |_| false).await;
}
