//! A publisher that registers: binds, on the next free port if its own is taken, and publishes a price that counts up.
//!
//! `cargo run --example register_publisher -- tcp://127.0.0.1:5601 SYMBOL [file=publishers.db | redis=redis://…] [broker=… user=…]`.
//! Without a registry it binds that endpoint or says why it cannot. Runs until it is killed or its stdin ends. The same in
//! Python: `examples/register_publisher.py`. `tests/discovery.rs` runs both this file and that one.

use std::error::Error;
use std::io::Read;
use std::time::Duration;
use tickcast::adapter::discovery::{Place, Whose, publish};
use tickcast::adapter::publisher::{BatchLimits, BatchPublisher, Config};
use tickcast::zmtp::Direction;

fn main() {
    told(run(std::env::args().skip(1).collect()));
}

/// Ends the process with what went wrong, if anything did.
pub fn told(result: Result<(), Box<dyn Error>>) {
    if let Err(error) = result {
        eprintln!("{error}; with file=… or redis=… a publisher registers, and takes the next free port");
        std::process::exit(3);
    }
}

/// Everything, from the words of the command line.
pub fn run(words: Vec<String>) -> Result<(), Box<dyn Error>> {
    let value =
        |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    let [endpoint, symbol, ..] = &words[..] else { return Err("which endpoint and which symbol?".into()) };
    let config = Config {
        endpoint: endpoint.parse()?,
        direction: Direction::Bind,
        limits: BatchLimits::default(),
        queue_bytes_max: 1 << 20,
    };
    let place = match (value("file"), value("redis")) {
        (Some(file), _) => Some(Place::File(file.into())),
        (None, Some(url)) => Some(Place::Redis(url.parse()?)),
        (None, None) => None,
    };
    let whose = Whose { broker: value("broker"), user: value("user") };
    let ended = on_end_of_stdin();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        match place {
            Some(place) => {
                let registered = publish::start(config, &place, whose).await?;
                println!("ready {}", registered.endpoint);
                count(&registered.publisher, symbol, ended).await;
                registered.shutdown().await;
            }
            None => {
                let (publisher, task, real) = BatchPublisher::start(config).await?;
                println!("ready {real}");
                count(&publisher, symbol, ended).await;
                task.shutdown().await;
            }
        }
        Ok(())
    })
}

async fn count(publisher: &BatchPublisher, symbol: &str, mut ended: tokio::sync::oneshot::Receiver<()>) {
    let topic = format!("NSE_{symbol}_LTP");
    let mut every = tokio::time::interval(Duration::from_millis(20));
    for price in 1_u64.. {
        let payload = rmp_serde::to_vec_named(&serde_json::json!({ "ltp": price })).expect("a map encodes");
        let _ = publisher.publish(&topic, &payload);
        tokio::select! {
            _ = every.tick() => {}
            _ = &mut ended => return,
        }
    }
}

fn on_end_of_stdin() -> tokio::sync::oneshot::Receiver<()> {
    let (end, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = end.send(());
    });
    ended
}
