//! The admin server: `/metrics`, `/healthz`, `/readyz`, whatever routes the app adds, and the console at `/`. GET only.
//!
//! In: listeners, an [`AdminState`] of closures that return snapshots. Out: short answers. `run` is for a
//! current_thread runtime of its own: rendering metrics takes up to tens of ms and happens right here, where it delays
//! other scrapes only. It also drains the histograms every 5 s; without that they grow for ever.
//! Promises: only Host values that are this server's own addresses, `localhost` or named in the settings are answered
//! (421 otherwise, so that a page in a browser cannot reach us by a name of its own); no CORS headers; one request a
//! connection, at most `CONNECTIONS_MAX` of them, each at most `EXCHANGE` long. Tests: `admin/tests.rs`.

use super::console::Console;
use super::host::{is_host, is_own_host};
use super::sys;
use crate::model::{Heartbeats, limited};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};

/// Connections to one admin listener at once, counted; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 64;
/// From accept to the last byte of the answer.
const EXCHANGE: Duration = Duration::from_secs(10);
/// Period at which the recorder drains its histograms. Until then it keeps 24 bytes of each sample, and a thousand clients that
/// subscribe at once make tens of thousands.
const UPKEEP: Duration = Duration::from_millis(250);
/// A loop that has not gone round for this long is stuck.
const STUCK: Duration = Duration::from_secs(5);
/// After an error of accept(2) we wait this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(75);
/// A request head, bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Listen backlog; scrapers and people are few.
const BACKLOG: i32 = 128;
/// Of every answer that does not say otherwise: never stored, read as what it is, shown and read by our own page only.
const HEADERS: [(HeaderName, &str); 5] = [
    (CACHE_CONTROL, "no-store"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Everything the admin server shows. Its closures are called on the admin thread and may take milliseconds; what takes longer is an
/// [`Answer::Later`].
pub struct AdminState {
    /// Is kept up.
    pub exporter: PrometheusHandle,
    /// Renders `/metrics`.
    pub metrics: Box<dyn Fn() -> String + Send>,
    /// What `/healthz` looks at.
    pub heartbeats: Arc<Heartbeats>,
    /// What `/readyz` says, read anew for every request.
    pub readiness: Box<dyn Fn() -> Readiness + Send>,
    /// Further routes. Those that the scrape listener must not serve belong here, so all of them.
    pub routes: Vec<Route>,
    /// The page at `/`.
    pub console: Console,
    /// Host names beyond our own addresses and `localhost` (`[admin] hosts`), with or without a port.
    pub hosts: Vec<String>,
}

/// One route beyond the built-in ones.
pub struct Route {
    /// Exact path, such as `/sessions`.
    pub path: &'static str,
    /// One line for the list that an unknown path is answered with.
    pub about: &'static str,
    /// What it says. It must hold no secret.
    pub answer: Answer,
}

/// How a [`Route`] answers, given the query (without `?`, empty when absent).
pub enum Answer {
    /// At once.
    Now(Box<dyn Fn(&str) -> Reply>),
    /// Others are asked first; other requests go on meanwhile.
    Later(Box<dyn Fn(&str) -> Coming>),
}

/// An answer under way.
type Coming = Pin<Box<dyn Future<Output = Reply>>>;

impl Answer {
    /// An answer at once.
    pub fn now(answer: impl Fn(&str) -> Reply + 'static) -> Self {
        Answer::Now(Box::new(answer))
    }

    /// An answer that takes a while.
    pub fn later<F: Future<Output = Reply> + 'static>(answer: impl Fn(&str) -> F + 'static) -> Self {
        Answer::Later(Box::new(move |query| Box::pin(answer(query))))
    }
}

/// An answer of a [`Route`].
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// JSON text with status 200.
    pub fn json(body: impl Into<Bytes>) -> Self {
        Reply { status: StatusCode::OK, content_type: "application/json", body: body.into() }
    }

    /// Plain text.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Reply { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

impl From<Reply> for Response<Full<Bytes>> {
    fn from(reply: Reply) -> Self {
        let mut response = Response::new(Full::new(reply.body));
        *response.status_mut() = reply.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
        response
    }
}

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Ports are bound, workers are not all running.
    Starting,
    /// Accepting clients.
    Ready,
    /// Shedding work; see [`Readiness::accepting`].
    Degraded,
    /// Stopping; no new clients.
    Draining,
}

/// What `/readyz` says. It never depends on a broker.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Where the server is in its life.
    pub state: State,
    /// Whether new clients are let in; the worst overload lets none in for a while.
    pub accepting: bool,
    /// WebSocket addresses.
    pub listen: Vec<String>,
    /// Admin address.
    pub admin: String,
    /// Bus endpoints.
    pub bus: Vec<String>,
    /// Control channel endpoint.
    pub control: String,
    /// This process's epoch: instrument ids and `seq` compare only within one.
    pub epoch: u64,
}

impl Readiness {
    fn reply(&self) -> Reply {
        #[derive(Serialize)]
        struct Body<'a> {
            ready: bool,
            state: State,
            listen: &'a [String],
            admin: &'a str,
            bus: &'a [String],
            control: &'a str,
            version: &'static str,
            epoch: u64,
        }
        let ready = self.accepting && matches!(self.state, State::Ready | State::Degraded);
        let body = Body {
            ready,
            state: self.state,
            listen: &self.listen,
            admin: &self.admin,
            bus: &self.bus,
            control: &self.control,
            version: env!("CARGO_PKG_VERSION"),
            epoch: self.epoch,
        };
        let mut reply = Reply::json(serde_json::to_vec(&body).expect("strings, numbers and booleans only"));
        if !ready {
            reply.status = StatusCode::SERVICE_UNAVAILABLE;
        }
        reply
    }
}

/// A non-blocking listener for [`run`].
///
/// # Errors
/// What the kernel answered; `AddrInUse` and `PermissionDenied` are the usual ones.
pub fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    sys::listen(addr, BACKLOG, 0)
}

/// Serves `admin` (everything) and `scrape` (metrics and health only) until `stop` holds true or its sender is gone.
///
/// # Errors
/// Only when a listener cannot be registered with the runtime.
pub async fn run(
    admin: std::net::TcpListener,
    scrape: Option<std::net::TcpListener>,
    state: AdminState,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let admin = TcpListener::from_std(admin)?;
    let scrape = scrape.map(TcpListener::from_std).transpose()?;
    let office = Rc::new(state);
    let upkeep = upkeep(|| office.exporter.run_upkeep());
    let scraping = async {
        match scrape {
            Some(scrape) => listen(scrape, Rc::clone(&office), Reach::ScrapeOnly).await,
            None => std::future::pending().await,
        }
    };
    let admin = listen(admin, Rc::clone(&office), Reach::Everything);
    LocalSet::new()
        .run_until(async {
            tokio::select! {
                _ = stop.wait_for(|&stop| stop) => {}
                () = upkeep => {}
                () = admin => {}
                () = scraping => {}
            }
        })
        .await;
    Ok(())
}

async fn upkeep(mut drain: impl FnMut()) {
    let mut period = tokio::time::interval(UPKEEP);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        drain();
    }
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Everything,
    ScrapeOnly,
}

async fn listen(listener: TcpListener, state: Rc<AdminState>, reach: Reach) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((tcp, _)) => {
                let state = Rc::clone(&state);
                connections.spawn_local(async move {
                    let _ended = tokio::time::timeout(EXCHANGE, exchange(tcp, &state, reach)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                limited!(warn, 1, %error, "cannot accept admin connections, trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn exchange(tcp: TcpStream, state: &AdminState, reach: Reach) {
    let Ok(local) = tcp.local_addr() else { return };
    let service = service_fn(|request| async move {
        Ok::<_, Infallible>(state.answer(&request, local.ip(), reach, Instant::now()).await)
    });
    let served = http1::Builder::new()
        // One request per connection: with `EXCHANGE` around it nobody can hold a slot for long.
        .keep_alive(false)
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(tcp), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin request failed");
    }
}

impl AdminState {
    async fn answer<B>(
        &self,
        request: &Request<B>,
        local: IpAddr,
        reach: Reach,
        now: Instant,
    ) -> Response<Full<Bytes>> {
        let host = self.served_host(request.uri(), request.headers(), local);
        let page = host.filter(|_| reach == Reach::Everything && request.method() == Method::GET);
        let page = page.and_then(|host| self.console.answer(request.uri().path(), request.headers(), host));
        let mut response = match page {
            Some(page) => page,
            None if host.is_none() => Reply::text(
                StatusCode::MISDIRECTED_REQUEST,
                "this admin server answers to its own addresses and to localhost only. Add the name you used to \
                 [admin] hosts if it is yours.\n",
            )
            .into(),
            None if request.method() != Method::GET => {
                Reply::text(StatusCode::METHOD_NOT_ALLOWED, "the admin server only answers GET.\n").into()
            }
            None => self.route(request.uri(), reach, now).await.into(),
        };
        let headers = response.headers_mut();
        for (name, value) in HEADERS {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }

    async fn route(&self, uri: &Uri, reach: Reach, now: Instant) -> Reply {
        match uri.path() {
            "/metrics" => Reply {
                status: StatusCode::OK,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: (self.metrics)().into(),
            },
            "/healthz" => self.health(now),
            "/readyz" => (self.readiness)().reply(),
            path if reach == Reach::Everything => match self.routes.iter().find(|r| r.path == path) {
                Some(Route { answer: Answer::Now(answer), .. }) => answer(uri.query().unwrap_or_default()),
                Some(Route { answer: Answer::Later(answer), .. }) => answer(uri.query().unwrap_or_default()).await,
                None => self.not_found(reach),
            },
            _ => self.not_found(reach),
        }
    }

    fn health(&self, now: Instant) -> Reply {
        let stuck = self.heartbeats.stuck(now, STUCK);
        if stuck.is_empty() {
            return Reply::text(StatusCode::OK, "ok\n");
        }
        let text = format!("stuck for more than {} s: {}\n", STUCK.as_secs(), stuck.join(", "));
        Reply::text(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    fn endpoints(&self, reach: Reach) -> impl Iterator<Item = (&'static str, &'static str)> {
        let fixed = [
            ("/metrics", "Prometheus metrics"),
            ("/healthz", "200 while no loop is stuck"),
            ("/readyz", "200 while clients are accepted"),
        ];
        let more = self.routes.iter().filter(move |_| reach == Reach::Everything).map(|r| (r.path, r.about));
        fixed.into_iter().chain(more)
    }

    fn not_found(&self, reach: Reach) -> Reply {
        let mut text = String::from("there is nothing here. Served are:\n");
        for (path, about) in self.endpoints(reach) {
            let _ = writeln!(text, "  {path:<16} {about}");
        }
        Reply::text(StatusCode::NOT_FOUND, text)
    }

    /// By what name the request calls us, if every name it uses is one of ours. A request that calls us by none is
    /// refused, as is one that names two hosts.
    fn served_host<'a>(&self, uri: &Uri, headers: &'a HeaderMap, local: IpAddr) -> Option<&'a str> {
        let mut named = headers.get_all(HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else { return None };
        let ours = |host: &str| is_own_host(host, local) || self.hosts.iter().any(|h| is_host(h, host));
        let host = host.to_str().ok().filter(|host| ours(host))?;
        uri.authority().is_none_or(|a| ours(a.as_str())).then_some(host)
    }
}

#[cfg(test)]
mod tests;
