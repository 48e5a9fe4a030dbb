//! What each stage of the tick path costs in instructions, and what metrics add to it: `cargo bench --bench instructions`.
//!
//! Instructions are counted by valgrind's callgrind (Debian: `apt-get install valgrind`): the same to a percent on any machine under any
//! load, but blind to the kernel, to caches and to waiting. This program starts itself under valgrind once a stage; only what runs
//! inside [`measured`] counts. `-- paired` measures the cost of metrics in time instead, in interleaved pairs without valgrind.

mod rig;

use metrics::NoopRecorder;
use metrics_exporter_prometheus::PrometheusHandle;
use rig::{Clients, Feed, SYMBOLS, TICKS, batch, bus_batch, encoded, key, payloads};
use std::hint::black_box;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};
use tickcast::app::{App, Hooks};
use tickcast::bus::frames::{self, BATCH};
use tickcast::bus::ingest::IngestMetrics;
use tickcast::bus::topic;
use tickcast::config::Settings;
use tickcast::engine::metrics::EngineMetrics;
use tickcast::model::{Brokers, Format};
use tickcast::policy::conflation::Terms;

/// Rounds before counting begins: tables grow, sockets and branches settle.
const WARM_UP: u64 = 3;
/// Interleaved pairs of `paired`, and rounds of each half.
const PAIRS: usize = 15;
const PAIR_ROUNDS: u64 = 60;

/// What callgrind counts: it is told to by this name.
#[inline(never)]
fn measured<T>(run: impl FnOnce() -> T) -> T {
    black_box(run())
}

/// How much is run.
#[derive(Clone, Copy)]
struct Size {
    rounds: u64,
    sessions: usize,
}

const COUNTED: Size = Size { rounds: 20, sessions: 100 };
const SMOKE: Size = Size { rounds: 1, sessions: 2 };

/// One stage: its name, what one unit is, and how to run it. Returns the units counted.
struct Stage(&'static str, &'static str, fn(Size) -> u64);

const STAGES: &[Stage] = &[
    Stage("scan and read topics of a BATCH of 100", "tick", scan),
    Stage("ingest pass, nobody wants it", "tick", |size| ingest(size, None)),
    Stage("ingest pass, wanted in JSON", "tick", |size| ingest(size, Some(Format::Json))),
    Stage("ingest pass, wanted in MessagePack", "tick", |size| ingest(size, Some(Format::MsgPack))),
    Stage("decode and encode alone, JSON to JSON", "tick", |size| encode(size, Format::Json)),
    Stage("decode and encode alone, JSON to MessagePack", "tick", |size| encode(size, Format::MsgPack)),
    Stage("deliver to 100 sessions' outboxes", "tick and session", |size| deliver(size, Terms::default())),
    Stage("deliver, `max_rate` merges all", "tick and session", |size| {
        deliver(size, Terms { interval: Some(Duration::from_secs(1)), ..Terms::default() })
    }),
    Stage("deliver, session behind merges all", "tick and session", conflate),
    Stage("flush 100 ticks, JSON", "session", |size| flush(size, Format::Json)),
    Stage("flush 100 ticks, MessagePack", "session", |size| flush(size, Format::MsgPack)),
    Stage("the page of a scrape, on a thread of its own", "scrape", scrape),
];

/// What Prometheus asks of a server with a demo key and one adapter, every few seconds.
fn scrape(size: Size) -> u64 {
    let mut settings = Settings::default();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    (settings.server.listen, settings.admin.listen) = (loopback, loopback);
    settings.bus.bind = vec!["tcp://127.0.0.1:0".into()];
    settings.adapters.control_bind = "tcp://127.0.0.1:0".into();
    let server = App::build(settings, Hooks::default()).and_then(App::spawn).expect("the server starts");
    for _ in 0..size.rounds {
        measured(|| server.metrics());
    }
    assert!(server.drain(), "a thread did not end in time");
    size.rounds
}

fn keys(format: Format) -> Vec<tickcast::engine::FrameKey> {
    (0..SYMBOLS).map(|n| key(n, format)).collect()
}

fn scan(size: Size) -> u64 {
    let (body, brokers, mut items) = (bus_batch(), Brokers::new(), Vec::new());
    for _ in 0..size.rounds {
        measured(|| {
            items.clear();
            frames::scan(BATCH, &body, &mut items, &mut |_| {}).expect("a good batch");
            assert!(items.iter().all(|item| topic::parse(item.topic, &brokers).is_ok()), "good topics");
        });
    }
    size.rounds * u64::from(TICKS)
}

fn ingest(size: Size, wanted: Option<Format>) -> u64 {
    let mut feed = Feed::new(metrics::with_local_recorder(&rig::recorder(), IngestMetrics::register));
    if let Some(format) = wanted {
        feed.want_all(format);
    }
    let round = |feed: &mut Feed| match wanted {
        Some(_) => assert_eq!(feed.take().frames.len(), TICKS as usize),
        None => feed.settle(),
    };
    for _ in 0..WARM_UP {
        feed.push();
        round(&mut feed);
    }
    for _ in 0..size.rounds {
        feed.push();
        measured(|| round(&mut feed));
    }
    size.rounds * u64::from(TICKS)
}

fn encode(size: Size, format: Format) -> u64 {
    let payloads = payloads();
    for n in 0..size.rounds {
        measured(|| encoded(&payloads, n, format));
    }
    size.rounds * u64::from(TICKS)
}

fn deliver(size: Size, terms: Terms) -> u64 {
    let mut clients = Clients::new(size.sessions, &keys(Format::Json), 1, terms, rig::recorded());
    for n in 1..=WARM_UP + size.rounds {
        let batch = batch(n, Format::Json);
        match n > WARM_UP {
            true => measured(|| clients.deliver(batch)),
            false => clients.deliver(batch),
        }
        clients.flush();
        clients.read();
    }
    size.rounds * size.sessions as u64 * u64::from(TICKS)
}

/// Nobody reads: once the kernel has taken all it takes, every tick replaces a mark's.
fn conflate(size: Size) -> u64 {
    let mut clients = Clients::new(size.sessions, &keys(Format::Json), 1, Terms::default(), rig::recorded());
    let mut n = 0;
    while !clients.are_behind() {
        n += 1;
        clients.deliver(batch(n, Format::Json));
        clients.flush();
    }
    // The first batch marks, the others merge.
    clients.deliver(batch(n + 1, Format::Json));
    for round in 0..size.rounds {
        let batch = batch(n + 2 + round, Format::Json);
        measured(|| clients.deliver(batch));
        clients.flush();
    }
    size.rounds * size.sessions as u64 * u64::from(TICKS)
}

fn flush(size: Size, format: Format) -> u64 {
    let mut clients = Clients::new(size.sessions, &keys(format), 1, Terms::default(), rig::recorded());
    for n in 1..=WARM_UP + size.rounds {
        clients.deliver(batch(n, format));
        match n > WARM_UP {
            true => measured(|| clients.flush()),
            false => clients.flush(),
        }
        clients.read();
    }
    size.rounds * size.sessions as u64
}

/// The whole path, from the bus queue to the kernel, with metrics or without.
struct Path {
    feed: Feed,
    clients: Clients,
    page: Option<PrometheusHandle>,
}

impl Path {
    fn new(sessions: usize, stride: usize, with_metrics: bool) -> Self {
        let register = || (IngestMetrics::register(), EngineMetrics::register());
        let recorder = rig::recorder();
        let (ingest, engine) = match with_metrics {
            true => metrics::with_local_recorder(&recorder, register),
            false => metrics::with_local_recorder(&NoopRecorder, register),
        };
        let feed = Feed::new(ingest);
        let keys = feed.want_all(Format::Json);
        let clients = Clients::new(sessions, &keys, stride, Terms::default(), engine);
        let mut path = Path { feed, clients, page: with_metrics.then(|| recorder.handle()) };
        for _ in 0..WARM_UP {
            path.feed.push();
            path.round();
            path.clients.read();
        }
        path
    }

    fn round(&mut self) {
        let batch = self.feed.take();
        self.clients.deliver(batch);
        self.clients.flush();
    }

    /// Sorts the samples of all rounds since the last time into their buckets; a server does it four times a second.
    fn drain(&self) {
        self.page.iter().for_each(PrometheusHandle::run_upkeep);
    }
}

/// Counts rounds of the whole path; returns how many.
fn path(sessions: usize, stride: usize, with_metrics: bool, rounds: u64) -> u64 {
    let mut path = Path::new(sessions, stride, with_metrics);
    for _ in 0..rounds {
        path.feed.push();
        measured(|| path.round());
        path.clients.read();
    }
    measured(|| path.drain());
    rounds
}

/// Medians of interleaved pairs; which half goes first alternates.
fn paired() {
    println!(
        "| sessions | each takes | without metrics, µs a batch | with, µs | difference, median of {PAIRS} pairs | quartiles |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for (sessions, stride) in GRID {
        let mut halves = [false, true].map(|with_metrics| Path::new(sessions, stride, with_metrics));
        let rounds = (PAIR_ROUNDS * 100 / sessions as u64).clamp(20, 2000);
        let mut time = |with: usize| {
            let timed = |run: &mut dyn FnMut()| {
                let started = Instant::now();
                run();
                started.elapsed()
            };
            let half = &mut halves[with];
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                half.feed.push();
                took += timed(&mut || half.round());
                half.clients.read();
            }
            took += timed(&mut || half.drain());
            took.as_secs_f64() * 1e6 / rounds as f64
        };
        let pairs: Vec<[f64; 2]> = (0..PAIRS)
            .map(|n| {
                let mut pair = [0.0; 2];
                for with in [n % 2, 1 - n % 2] {
                    pair[with] = time(with);
                }
                pair
            })
            .collect();
        let quartile = |of: &dyn Fn(&[f64; 2]) -> f64, at: usize| {
            let mut all: Vec<f64> = pairs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[(all.len() - 1) * at / 4]
        };
        let change = |pair: &[f64; 2]| (pair[1] / pair[0] - 1.0) * 100.0;
        println!(
            "| {sessions} | {} | {:.1} | {:.1} | {:+.2} % | {:+.2} to {:+.2} % |",
            if stride == 1 { "all 50" } else { "every tenth" },
            quartile(&|pair| pair[0], 2),
            quartile(&|pair| pair[1], 2),
            quartile(&change, 2),
            quartile(&change, 1),
            quartile(&change, 3),
        );
    }
}

/// Sessions and stride of the fan-out bench.
const GRID: [(usize, usize); 6] = [(1, 1), (100, 1), (1000, 1), (1, 10), (100, 10), (1000, 10)];

/// Runs this program under callgrind with `args`; instructions a unit.
fn counted(args: &[String]) -> f64 {
    let own = std::env::current_exe().expect("our own path");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*measured*"])
        .arg(own)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("valgrind ({error}): apt-get install valgrind"));
    let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?} failed:\n{log}");
    let after = |text: &str, word: &str| {
        let line = text.lines().find_map(|line| line.split_once(word)).map(|(_, rest)| rest.trim().to_owned());
        line.and_then(|number| number.parse::<f64>().ok()).unwrap_or_else(|| panic!("no {word} in {text}"))
    };
    after(&log, "Collected :") / after(&out, "units ")
}

fn report() {
    println!("| stage | a | instructions |\n| --- | --- | --- |");
    for (at, Stage(name, unit, _)) in STAGES.iter().enumerate() {
        println!("| {name} | {unit} | {:.0} |", counted(&["stage".into(), at.to_string()]));
    }
    println!(
        "\n| sessions | each takes | without metrics, instructions a batch | with | difference |\n| --- | --- | --- | --- | --- |"
    );
    for (sessions, stride) in GRID {
        let run = |with: bool| {
            counted(&["path", &sessions.to_string(), &stride.to_string(), &with.to_string()].map(String::from))
        };
        // Tables hash with another seed in each process.
        let median = |with: bool| {
            let mut runs = [(); 3].map(|()| run(with));
            runs.sort_by(f64::total_cmp);
            runs[1]
        };
        let (without, with) = (median(false), median(true));
        let takes = if stride == 1 { "all 50" } else { "every tenth" };
        let change = (with / without - 1.0) * 100.0;
        println!("| {sessions} | {takes} | {without:.0} | {with:.0} | {change:+.2} % |");
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |at: usize| args[at].parse::<usize>().expect("a number");
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    match args.first().map(String::as_str) {
        Some("stage") => println!("units {}", STAGES[number(1)].2(COUNTED)),
        Some("path") => {
            let rounds = if number(1) > 100 { 10 } else { 40 };
            println!("units {}", path(number(1), number(2), args[3] == "true", rounds));
        }
        Some("paired") => paired(),
        _ if is_bench => report(),
        // `cargo test`: every stage once.
        _ => {
            for Stage(name, _, run) in STAGES {
                assert!(run(SMOKE) > 0, "{name}");
            }
            for with_metrics in [false, true] {
                assert_eq!(path(2, 1, with_metrics, 1), 1);
            }
        }
    }
}
