//! The socket of order updates, at brokers where that is not one of those for ticks: a task beside its feed.
//!
//! In: the account, the feed's receiver of [`Heard`]. Out: order updates as they come. It has a [`Link`] of its own, so it connects,
//! is found silent, waits and reads credentials as connections for ticks do, but neither its trouble nor its refusal touches
//! them. Ends, with a goodbye, when the receiver is dropped. Tests: `tests/angel_orders.rs`.

use super::broker::{Broker, Event, Message};
use super::credentials::Credentials;
use super::feed::Account;
use super::link::{Action, Input, Link};
use super::socket::{self, Outgoing, Said, Tls, Voice, What};
use crate::model::Micros;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Messages on their way from the socket, counted.
const SAID_MAX: usize = 64;
/// Messages on their way to it: heartbeats and pings.
const OUT_MAX: usize = 4;

/// One event, and when its message was read.
pub(super) type Heard<T> = (Event<T>, Micros);

/// Runs until `heard` is closed.
pub(super) async fn run<B: Broker>(
    broker: Arc<B>,
    account: Arc<Account>,
    url: String,
    tls: Tls,
    heard: mpsc::Sender<Heard<B::Token>>,
) {
    let (said, mut words) = mpsc::channel(SAID_MAX);
    let link = Link::new(broker.limits(), None);
    let mut stream = Stream {
        broker,
        account,
        url,
        tls,
        link,
        credentials: Credentials::default(),
        life: 0,
        out: None,
        socket: JoinSet::new(),
        said,
    };
    stream.tell(Input::Start).await;
    loop {
        let wake = stream.link.wake_at().map(Instant::from_std);
        let timer = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = heard.closed() => break,
            Some(said) = words.recv() => if said.life == stream.life && !stream.hear(said.what, &heard).await {
                break;
            },
            () = timer => stream.tell(Input::Timer).await,
        }
    }
    if stream.link.is_up() {
        // Its queue closes, which is how a socket is told; nobody hears what it still says.
        drop((stream.out.take(), words));
        stream.socket.join_next().await;
    }
}

struct Stream<B> {
    broker: Arc<B>,
    account: Arc<Account>,
    url: String,
    tls: Tls,
    link: Link,
    /// What it was opened with, or will be.
    credentials: Credentials,
    /// Counts its sockets; what an older one says is ignored.
    life: u64,
    out: Option<mpsc::Sender<Outgoing>>,
    /// One at most; aborted when it is dropped.
    socket: JoinSet<()>,
    said: mpsc::Sender<Said>,
}

impl<B: Broker> Stream<B> {
    /// Takes one word of the socket; whether the feed still listens.
    async fn hear(&mut self, what: What, heard: &mpsc::Sender<Heard<B::Token>>) -> bool {
        let input = match what {
            What::Opened => Input::Opened,
            What::Heard | What::Binary(..) => Input::Heard,
            What::Pong => Input::Pong,
            What::Lost(reason) => Input::Lost(self.credentials.scrub(reason)),
            What::Refused { status, text } => {
                let reason = format!("the broker answered {status} {}", self.credentials.scrub(text));
                let refused = self.broker.refuses_credentials(status, &reason);
                if refused { Input::Refused(reason) } else { Input::Lost(reason) }
            }
            What::Text(t_recv, text) => {
                if let Some(event) = self.broker.decode_order(Message::Text(&text))
                    && heard.send((event, t_recv)).await.is_err()
                {
                    return false;
                }
                Input::Heard
            }
        };
        self.tell(input).await;
        true
    }

    /// Tells the link what happened and does what it wants.
    async fn tell(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let was_up = self.link.is_up();
            for action in self.link.on(input, Instant::now().into_std(), rand::random()) {
                match action {
                    Action::Read => inputs.push_back(self.read().await),
                    Action::Connect => inputs.extend(self.connect().err().map(Input::Lost)),
                    Action::Beat => self.send(self.broker.heartbeat().map(|beat| Outgoing::Text(beat.to_owned()))),
                    Action::Probe => self.send(Some(Outgoing::Ping)),
                    Action::Close => self.close(),
                    Action::Up => tracing::info!(
                        broker = self.account.broker,
                        user = self.account.user,
                        "broker connection for order updates is up"
                    ),
                    Action::Down(reason) | Action::Barred(reason) => {
                        let Account { broker, user, .. } = &*self.account;
                        tracing::warn!(broker, user, reason, "broker connection for order updates is down");
                    }
                }
            }
            let gained = f64::from(i8::from(self.link.is_up()) - i8::from(was_up));
            self.account.metrics.order_streams.increment(gained);
        }
    }

    async fn read(&mut self) -> Input {
        let account = Arc::clone(&self.account);
        match tokio::task::spawn_blocking(move || account.credentials.read()).await {
            Ok(Ok(credentials)) => {
                self.credentials = credentials;
                Input::Credentials(self.credentials.fingerprint())
            }
            Ok(Err(error)) => Input::NoCredentials(error.to_string()),
            Err(_) => Input::NoCredentials("the credentials could not be read".to_owned()),
        }
    }

    fn connect(&mut self) -> Result<(), String> {
        let request = self.broker.order_request(&self.url, &self.credentials)?;
        self.life += 1;
        let (out, queue) = mpsc::channel(OUT_MAX);
        let voice = Voice { row: 0, life: self.life, said: self.said.clone() };
        self.socket.spawn(socket::run(request, self.tls.clone(), queue, voice));
        self.out = Some(out);
        Ok(())
    }

    /// A socket that takes nothing will be found silent.
    fn send(&self, what: Option<Outgoing>) {
        if let (Some(out), Some(what)) = (&self.out, what) {
            let _ = out.try_send(what);
        }
    }

    fn close(&mut self) {
        self.life += 1;
        self.out = None;
        self.socket = JoinSet::new();
    }
}

impl<B> Drop for Stream<B> {
    fn drop(&mut self) {
        self.account.metrics.order_streams.decrement(f64::from(u8::from(self.link.is_up())));
    }
}
