//! The command line: scenarios, their options, and the small languages in them (durations, mode mixes, thresholds).
//!
//! In: argv. Out: validated structs; whatever cannot be meant is refused here with exit code 2.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tickcast::model::{Format, Mode};

#[derive(Parser)]
#[command(name = "loadtest", version, about, args_override_self = true)]
#[command(after_help = "Exit codes: 0 passed, 1 could not run, 2 usage, 3 a threshold was missed.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

#[derive(Subcommand)]
pub(crate) enum Scenario {
    /// Steady load: each client takes some symbols of a universe.
    Fanout {
        #[command(flatten)]
        common: Common,
    },
    /// The rate ramps until p99 passes a limit, goes past it, and comes back: prints the knee.
    Storm {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        storm: StormArgs,
    },
    /// Subscribes, unsubscribes, connects and disconnects while ticks flow, and times each.
    Churn {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        churn: ChurnArgs,
    },
    /// A share of the clients stops reading; the others' latency with and without that.
    Slow {
        #[command(flatten)]
        common: Common,
        /// Clients that stop reading, percent.
        #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=90))]
        stalled: u32,
    },
    /// A long steady load: memory and descriptors over time, and their drift per hour.
    Soak {
        #[command(flatten)]
        common: Common,
        /// Fails above this growth of the server's resident memory, MiB per hour.
        #[arg(long, value_name = "MIB")]
        max_drift: Option<f64>,
    },
}

#[derive(Args, Clone)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Clone)]
#[command(next_help_heading = "Server")]
pub(crate) struct Server {
    /// A running server, `ws://HOST:PORT`. Without it, one is started.
    #[arg(long, value_name = "URL", conflicts_with_all = ["spawn", "set"])]
    pub(crate) url: Option<String>,
    /// The tickcast to start on ports of its own, and to stop at the end.
    #[arg(long, value_name = "BINARY", num_args = 0..=1, default_missing_value = crate::target::BINARY)]
    pub(crate) spawn: Option<PathBuf>,
    /// A setting for the server that is started, `section.key=value`; repeatable.
    #[arg(long, value_name = "SETTING")]
    pub(crate) set: Vec<String>,
    /// API key of the clients.
    #[arg(long, default_value = "demo-key")]
    pub(crate) key: String,
    /// One API key a line, each of a user of its own; `churn` times their first authentication.
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// The server's bus, if it binds (default: tcp://127.0.0.1:5555, or that of the server that is started).
    #[arg(long, value_name = "ENDPOINT", conflicts_with = "bind")]
    pub(crate) connect: Option<String>,
    /// Where we bind, if the server connects to its publishers.
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) bind: Option<String>,
    /// Who publishes: `own` we, `external` somebody else.
    #[arg(long, value_enum, default_value_t = Feed::Own)]
    pub(crate) feed: Feed,
    /// Process of a server given by --url, for its CPU time and memory.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Admin address of a server given by --url, for its overload level.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Feed {
    Own,
    External,
}

#[derive(Args, Clone)]
#[command(next_help_heading = "Load")]
pub(crate) struct Load {
    /// Clients.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub(crate) clients: u32,
    /// Symbols that each client takes.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) symbols: u32,
    /// Symbols that are published.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) universe: u32,
    /// Which symbols a client takes: the first ones, random ones, or popular ones more often.
    #[arg(long, value_enum, default_value_t = Pick::Random)]
    pub(crate) pick: Pick,
    /// Exponent of the Zipf law: how much more often the first symbols are picked.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub(crate) zipf: f64,
    /// Real names instead of L00000, L00001, …: `NSE:INFY,NSE:SBIN,…`, or a file with one a line.
    #[arg(long, value_name = "LIST|FILE")]
    pub(crate) instruments: Option<String>,
    /// Seed of all that is picked at random.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Share of the clients in each mode, as `ltp=60,quote=30,depth=10`. Ticks are published in the highest one.
    #[arg(long, value_name = "MIX", default_value = "ltp=100")]
    pub(crate) modes: Mix,
    /// Ticks published a second, over all symbols.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    pub(crate) rate: u32,
    /// Ticks that are due at once; with `--bus batch` one message.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,
    /// How ticks stand on the bus.
    #[arg(long, value_enum, default_value_t = Bus::Batch)]
    pub(crate) bus: Bus,
    /// What the clients speak.
    #[arg(long, value_enum, default_value_t = ClientFormat::Json)]
    pub(crate) format: ClientFormat,
    /// How long is measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub(crate) seconds: u32,
    /// How long ticks flow before.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=600))]
    pub(crate) warmup: u32,
    /// Threads that read (default: half the cores, at least one).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) readers: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Pick {
    Same,
    Random,
    Zipf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Bus {
    /// [topic, JSON]
    Json,
    /// [topic, MessagePack]
    Msgpack,
    /// ["BATCH", MessagePack [[topic, data], …]]
    Batch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum ClientFormat {
    Json,
    Msgpack,
}

impl From<ClientFormat> for Format {
    fn from(format: ClientFormat) -> Self {
        match format {
            ClientFormat::Json => Format::Json,
            ClientFormat::Msgpack => Format::MsgPack,
        }
    }
}

#[derive(Args, Clone)]
#[command(next_help_heading = "Report")]
pub(crate) struct Output {
    /// Also writes the figures there, for programs.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Also writes one self-contained page with plots there.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Fails (exit code 3) when p99 is above this, as 50ms, 800us, 1s.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) max_p99: Option<Duration>,
    /// Fails (exit code 3) when a smaller part of the expected ticks was delivered.
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    pub(crate) min_delivered: Option<f64>,
    /// No progress on stderr.
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Clone)]
pub(crate) struct StormArgs {
    /// The knee is the highest rate whose p99 is at most this.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "50ms")]
    pub(crate) knee_p99: Duration,
    /// From step to step the rate grows by this.
    #[arg(long, default_value_t = 1.5)]
    pub(crate) factor: f64,
    /// Steps up at most.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) steps: u32,
    /// Fails (exit code 3) when the knee is below this many ticks a second.
    #[arg(long, value_name = "RATE")]
    pub(crate) min_knee: Option<u32>,
}

#[derive(Args, Clone)]
pub(crate) struct ChurnArgs {
    /// Connections that do nothing but subscribe, unsubscribe and come back.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) churners: u32,
    /// Pause of each between two commands, as 25ms; servers limit commands per second.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "25ms")]
    pub(crate) pause: Duration,
    /// Users that the started server gets, for first authentications (with --url: --keys).
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) users: u32,
}

/// Shares of the clients by mode.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix(pub(crate) Vec<(Mode, u32)>);

impl Mix {
    /// Client `n`'s mode: spread evenly, in the shares asked for.
    pub(crate) fn of(&self, n: u32) -> Mode {
        let total: u32 = self.0.iter().map(|(_, share)| share).sum();
        // A step without a common divisor with most totals spreads neighbours over the modes.
        let mut at = (u64::from(n) * 61 % u64::from(total)) as u32;
        for (mode, share) in &self.0 {
            if at < *share {
                return *mode;
            }
            at -= share;
        }
        self.highest()
    }

    /// What ticks are published in, since a tick serves its own and the lower modes.
    pub(crate) fn highest(&self) -> Mode {
        self.0.iter().map(|(mode, _)| *mode).max_by_key(|mode| mode.int()).unwrap_or(Mode::Ltp)
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Vec::new();
        for part in text.split(',') {
            let (name, share) = part.split_once('=').unwrap_or((part, "100"));
            let mode = match name.trim().to_ascii_lowercase().as_str() {
                "ltp" => Mode::Ltp,
                "quote" => Mode::Quote,
                "depth" => Mode::Depth,
                _ => {
                    return Err(format!("`{name}` is no mode: write ltp, quote or depth, as ltp=60,quote=30,depth=10"));
                }
            };
            match share.trim().parse() {
                Ok(share @ 1..=1_000_000) if mix.iter().all(|(m, _)| *m != mode) => mix.push((mode, share)),
                Ok(1..=1_000_000) => return Err(format!("{name} stands there twice")),
                _ => return Err(format!("`{share}` is no share: write a whole number from 1, as ltp=60")),
            }
        }
        Ok(Mix(mix))
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err("write a number and its unit: 800us, 50ms, 1s".into()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| format!("`{digits}` is no number"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|e| e.to_string())
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio @ 0.0..=1.0) => Ok(ratio),
        _ => Err("write a part from 0 to 1, as 0.999".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_gives_each_mode_its_share_of_the_clients() {
        let mix: Mix = "ltp=60,quote=30,depth=10".parse().expect("a mix");
        let count = |mode| (0..1000).filter(|n| mix.of(*n) == mode).count();
        assert_eq!((count(Mode::Ltp), count(Mode::Quote), count(Mode::Depth)), (600, 300, 100));
        assert_eq!(mix.highest(), Mode::Depth);
        assert!((0..10).any(|n| mix.of(n) != Mode::Ltp), "the first clients are mixed too");
        assert_eq!("quote".parse::<Mix>().expect("a mode").of(7), Mode::Quote);
    }

    #[test]
    fn mixes_times_and_ratios_that_mean_nothing_are_refused_with_what_to_write() {
        for (bad, hint) in [("tick=1", "ltp=60"), ("ltp=0", "from 1"), ("ltp=1,ltp=2", "twice"), ("ltp=x", "no share")]
        {
            let said = bad.parse::<Mix>().expect_err(bad);
            assert!(said.contains(hint), "{said}");
        }
        assert_eq!(time("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(time("800us"), Ok(Duration::from_micros(800)));
        for bad in ["50", "ms", "-1s", "5 min"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert!(ratio("0.999").is_ok() && ratio("99.9").is_err());
    }

    #[test]
    fn the_definition_is_sound_and_a_repeated_option_replaces_the_earlier_one() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let cli =
            Cli::try_parse_from(["loadtest", "fanout", "--clients", "5", "--spawn", "--clients", "7"]).expect("fine");
        let Scenario::Fanout { common } = cli.scenario else { panic!("not fanout") };
        assert_eq!(common.load.clients, 7);
        assert_eq!(common.server.spawn, Some(crate::target::BINARY.into()));
        assert!(Cli::try_parse_from(["loadtest", "fanout", "--url", "ws://h:1", "--spawn"]).is_err());
    }
}
