//! The stream table's laws one by one, and its limits under invented names.

use super::tests::{BROKERS, interest, nse, reads, table, take, tick};
use super::*;
use crate::shards::shard::Config;
use crate::shards::{Shards, shard};

/// Which modes a tick was handed out in.
fn modes_of(out: &[TickOut]) -> Vec<(Mode, u64)> {
    out.iter().flat_map(|t| t.wants.iter().map(|w| (w.mode, w.seq))).collect()
}

#[test]
fn covered_copies_stop_with_an_own_tick_and_resume_after_sixteen_higher_ticks_without_one() {
    let mut streams = table(10, 1 << 20);
    let id = streams.pin(ScopeId::SHARED, nse("SBIN")).unwrap().stream;
    streams.activate(id, interest(0, Mode::Ltp)).unwrap();
    let quote = || tick("SBIN", Mode::Quote, b"q");
    assert_eq!(modes_of(&take(&mut streams, quote()).0), [(Mode::Ltp, 1)], "covered while there are no own ticks");
    assert_eq!(modes_of(&take(&mut streams, tick("SBIN", Mode::Ltp, b"l")).0), [(Mode::Ltp, 2)]);
    for n in 1..=15 {
        assert_eq!(modes_of(&take(&mut streams, quote()).0), [], "higher tick {n}");
    }
    assert_eq!(modes_of(&take(&mut streams, tick("SBIN", Mode::Ltp, b"l")).0), [(Mode::Ltp, 3)], "counts anew");
    for n in 1..=16 {
        assert_eq!(modes_of(&take(&mut streams, quote()).0), [], "higher tick {n}");
    }
    assert_eq!(modes_of(&take(&mut streams, quote()).0), [(Mode::Ltp, 4)], "the seventeenth is sent again");
}

#[test]
fn a_source_that_sends_each_tick_once_serves_lower_modes_from_the_first_higher_tick_on() {
    let mut streams = table(10, 1 << 20);
    let id = streams.pin(ScopeId::SHARED, nse("SBIN")).unwrap().stream;
    streams.activate(id, interest(0, Mode::Ltp)).unwrap();
    let mut seq = 0;
    for mode in [Mode::Ltp, Mode::Depth, Mode::Quote, Mode::Ltp, Mode::Depth] {
        let tick = TickIn { highest_only: true, ..tick("SBIN", mode, b"x") };
        seq += 1;
        assert_eq!(modes_of(&take(&mut streams, tick).0), [(Mode::Ltp, seq)], "{mode:?}");
    }
}

#[test]
fn a_tick_that_only_repeats_its_last_price_serves_quotes_and_leaves_the_last_price_as_it_is() {
    let mut streams = table(10, 1 << 20);
    let id = streams.pin(ScopeId::SHARED, nse("SBIN")).unwrap().stream;
    for mode in [Mode::Ltp, Mode::Quote] {
        streams.activate(id, interest(0, mode)).unwrap();
    }
    let depth = |repeats_ltp| TickIn { highest_only: true, repeats_ltp, ..tick("SBIN", Mode::Depth, b"x") };
    assert_eq!(modes_of(&take(&mut streams, depth(false)).0), [(Mode::Ltp, 1), (Mode::Quote, 1)]);
    for seq in 2..40 {
        assert_eq!(modes_of(&take(&mut streams, depth(true)).0), [(Mode::Quote, seq)]);
    }
    assert_eq!(modes_of(&take(&mut streams, depth(false)).0), [(Mode::Ltp, 2), (Mode::Quote, 40)]);
}

#[test]
fn a_snapshot_of_a_lower_mode_survives_a_higher_tick_that_cannot_serve_it() {
    let mut streams = table(10, 1 << 20);
    let id = streams.pin(ScopeId::SHARED, nse("SBIN")).unwrap().stream;
    take(&mut streams, tick("SBIN", Mode::Depth, b"with ltp"));
    take(&mut streams, TickIn { serves: reads(Mode::Depth, false), ..tick("SBIN", Mode::Depth, b"ladder only") });
    for mode in [Mode::Ltp, Mode::Quote] {
        let got = streams.activate(id, interest(0, mode)).unwrap();
        assert_eq!((got.floor, got.last.unwrap().payload), (1, b"with ltp".to_vec()));
    }
    let got = streams.activate(id, interest(0, Mode::Depth)).unwrap();
    assert_eq!((got.floor, got.last.unwrap().payload), (2, b"ladder only".to_vec()));
}

#[test]
fn a_tick_never_serves_a_higher_mode_nor_another_brokers_label_nor_another_scope() {
    let mut streams = table(10, 1 << 20);
    let id = streams.pin(ScopeId::SHARED, nse("SBIN")).unwrap().stream;
    let own = streams.pin(ScopeId(7), nse("SBIN")).unwrap().stream;
    assert_ne!(id, own);
    streams.activate(id, interest(0, Mode::Quote)).unwrap();
    streams.activate(own, interest(1, Mode::Quote)).unwrap();
    assert!(take(&mut streams, tick("SBIN", Mode::Ltp, b"l")).0.is_empty());
    let other = TickIn { broker: Some(BROKERS[1]), ..tick("SBIN", Mode::Quote, b"q") };
    assert!(take(&mut streams, other).0.is_empty());
    assert_eq!(streams.activate(id, interest(2, Mode::Quote)).unwrap().last, None);
    let (out, _) = take(&mut streams, tick("SBIN", Mode::Quote, b"q"));
    assert_eq!((out[0].stream, out[0].wants[0].workers), (id, 0b101));
}

#[test]
fn seq_counts_only_what_a_user_could_see_and_goes_on_where_it_was() {
    let mut streams = table(10, 1 << 20);
    let id = streams.pin(ScopeId::SHARED, nse("SBIN")).unwrap().stream;
    let ltp = || tick("SBIN", Mode::Ltp, b"l");
    let seqs =
        |streams: &mut Streams, tick| modes_of(&take(streams, tick).0).into_iter().map(|w| w.1).collect::<Vec<_>>();
    assert_eq!(streams.activate(id, interest(0, Mode::Ltp)).unwrap().floor, 0);
    assert_eq!(seqs(&mut streams, ltp()), [1]);
    for nothing_to_see in [
        TickIn { broker: Some(BROKERS[1]), ..ltp() },
        TickIn { serves: Serves::Known([false; 3]), ..ltp() },
        TickIn { serves: reads(Mode::Depth, false), ..tick("SBIN", Mode::Depth, b"d") },
    ] {
        assert!(seqs(&mut streams, nothing_to_see).is_empty());
    }
    assert_eq!(seqs(&mut streams, ltp()), [2], "no gap");
    assert_eq!(seqs(&mut streams, TickIn { merged: 3, ..ltp() }), [6], "a gap of what was merged before");
    // The row goes and comes: what was seen is never counted again.
    streams.deactivate(id, interest(0, Mode::Ltp));
    let again = streams.activate(id, interest(0, Mode::Ltp)).unwrap();
    assert!(again.floor >= 6 && again.last.unwrap().seq == again.floor);
    assert_eq!(seqs(&mut streams, ltp()), [again.floor + 1]);
}

#[test]
fn an_unread_tick_of_a_wanted_stream_waits_and_of_any_other_is_kept() {
    let mut streams = table(10, 1 << 20);
    let id = streams.pin(ScopeId::SHARED, nse("SBIN")).unwrap().stream;
    let unread = TickIn { position: 7, serves: Serves::Unread { lower: true }, ..tick("SBIN", Mode::Ltp, b"l") };
    let (mut out, mut later, mut counts) = (Vec::new(), Vec::new(), Ingested::default());
    streams.tick(&unread, &mut out, &mut later, &mut counts);
    assert_eq!((later.len(), counts.unwanted), (0, 1));
    assert_eq!(streams.activate(id, interest(0, Mode::Quote)).unwrap().floor, 0);
    streams.tick(&unread, &mut out, &mut later, &mut counts);
    assert_eq!((later, out.len(), counts.unwanted), (vec![7], 0, 1));
    assert_eq!(streams.activate(id, interest(0, Mode::Ltp)).unwrap().floor, 1, "it has left no trace");
}

#[test]
fn the_scale_follows_the_venue_the_settings_and_a_raise_before_the_first_pin_only() {
    let config = Config { scale: vec![("NSE".into(), 3)], ..Config::default() };
    let mut streams = Streams::new(Arc::new(Common::new(&config)));
    let scale = |streams: &mut Streams, venue| {
        streams.pin(ScopeId::SHARED, InstrumentRef { venue, symbol: "X" }).unwrap().scale
    };
    assert_eq!(["NSE", "BSE", "CDS", "CRYPTO", "GLOBAL_INDEX"].map(|v| scale(&mut streams, v)), [3, 2, 4, 8, 4]);
    assert_eq!(streams.raise_scale(ScopeId::SHARED, nse("X"), 5), Ok(3), "somebody has been told 3");
    assert_eq!(streams.raise_scale(ScopeId::SHARED, nse("Y"), 5), Ok(5));
    assert_eq!(streams.raise_scale(ScopeId::SHARED, nse("Y"), 4), Ok(5), "never lowered");
    assert_eq!(streams.pin(ScopeId::SHARED, nse("Y")).unwrap().scale, 5);
}

#[test]
fn a_pin_beyond_the_limit_is_refused_when_nothing_can_make_room() {
    let mut streams = table(2, 1 << 20);
    let a = streams.pin(ScopeId::SHARED, nse("A")).unwrap().stream;
    streams.pin(ScopeId::SHARED, nse("B")).unwrap();
    assert_eq!(streams.pin(ScopeId::SHARED, nse("C")), Err(Full));
    assert_eq!(take(&mut streams, tick("C", Mode::Ltp, b"x")).1.refused, 1);
    assert!(streams.unpin(a));
    let c = streams.pin(ScopeId::SHARED, nse("C")).unwrap().stream;
    assert!(c > a && streams.stream(a).is_none() && !streams.unpin(a));
    assert_eq!(streams.pin(ScopeId::SHARED, nse("bad\nname")), Err(Full));
}

#[test]
fn half_a_million_invented_topics_leave_counts_bytes_and_wanted_streams_where_they_were() {
    let config = shard::Config {
        shards: 8,
        instruments_max: 2_000,
        last_value_bytes_max: 512 << 10,
        seed: Some(3),
        ..Config::default()
    };
    let shards = Shards::new(&config);
    let kept = nse("KEPT");
    let home = shards.shard_of(kept);
    let id = shards.with(home, |s| s.streams.pin(ScopeId::SHARED, kept)).unwrap().stream;
    let payload = vec![b'x'; 4000];
    let mut out = Vec::new();
    shards.ingest(home, &[tick("KEPT", Mode::Ltp, b"kept")], &mut out, &mut Vec::new());
    let mut slots = 0;
    for n in 0..500_000 {
        let symbol = format!("FAKE{n}");
        let t = tick(&symbol, Mode::ALL[n % 3], &payload[..200 + n % 3800]);
        shards.ingest(shards.shard_of(t.instrument), &[t], &mut out, &mut Vec::new());
        let (records, bytes) = shards.budget();
        assert!(records <= 2_000 && bytes <= 512 << 10, "{records} records, {bytes} bytes at {n}");
        if n == 100_000 {
            slots = shards.indexes().map(|i| shards.with(i, |s| s.streams.slots.len())).sum();
        }
    }
    assert!(out.is_empty());
    let slots_now: usize = shards.indexes().map(|i| shards.with(i, |s| s.streams.slots.len())).sum();
    assert!(slots_now <= slots + slots / 4, "the slot tables have stopped growing: {slots} then, {slots_now} now");
    assert_eq!(shards.usage().ticks, 500_001);
    let last = shards.activate(home, id, interest(0, Mode::Ltp)).unwrap().last.unwrap();
    assert_eq!(last.payload, b"kept");
    shards.with(home, |s| s.streams.pin(ScopeId::SHARED, nse("KEPT2"))).unwrap();
}
