//! A client of the admin port: one GET at a time, and what its metrics page says.
//!
//! In: an address as people type it. Out: whole pages, or what to do about it. Nothing waits longer than `ANSWER`. Tests: below and
//! `tests/top.rs`.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::net::TcpStream;

/// From connecting to the last byte.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest page that is read, bytes; metrics have some hundred kB.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Not an address we can ask.
    #[error("{url} is no admin address: {why}. Give http://HOST:PORT, as `admin=` in the server's first line has it")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No connection.
    #[error(
        "cannot reach the admin port at {address}: {source}. Is tickcast running? Its first line names the port: admin=HOST:PORT; pass it with --url"
    )]
    Connect {
        /// Host and port.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It takes connections and says nothing.
    #[error("{address} did not answer within {} s. Is that the admin port (not the one of the WebSocket clients)?", ANSWER.as_secs())]
    TimedOut {
        /// Host and port.
        address: String,
    },
    /// Not HTTP, or cut off.
    #[error("{address} does not speak HTTP as the admin port does: {cause}")]
    Http {
        /// Host and port.
        address: String,
        /// What went wrong.
        cause: String,
    },
    /// It said no.
    #[error("{address}{path} answered {status}: {text}")]
    Refused {
        /// Host and port.
        address: String,
        /// What was asked for.
        path: String,
        /// HTTP status.
        status: StatusCode,
        /// First line of the body.
        text: String,
    },
}

/// An admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    address: String,
}

impl Admin {
    /// Reads `http://host:port`; `host:port` alone means the same.
    ///
    /// # Errors
    /// [`AdminError::Url`].
    pub fn parse(url: &str) -> Result<Self, AdminError> {
        let bad = |why| AdminError::Url { url: url.to_owned(), why };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| bad("it is no URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(bad("the admin port speaks no TLS")),
            _ => return Err(bad("it must begin with http://")),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it names no host"))?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("it has a path"));
        }
        Ok(Admin { address: format!("{host}:{}", uri.port_u16().unwrap_or(80)) })
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Status and body of one page.
    ///
    /// # Errors
    /// There was no whole answer.
    pub async fn page(&self, path: &str) -> Result<(StatusCode, String), AdminError> {
        let asked = tokio::time::timeout(ANSWER, self.ask(path)).await;
        asked.unwrap_or_else(|_| Err(AdminError::TimedOut { address: self.address.clone() }))
    }

    /// The body of a page that must be there.
    ///
    /// # Errors
    /// There was no answer, or another one than 200.
    pub async fn get(&self, path: &str) -> Result<String, AdminError> {
        let (status, body) = self.page(path).await?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let text = body.lines().next().unwrap_or_default().to_owned();
        Err(AdminError::Refused { address: self.address.clone(), path: path.to_owned(), status, text })
    }

    async fn ask(&self, path: &str) -> Result<(StatusCode, String), AdminError> {
        let address = || self.address.clone();
        let tcp = TcpStream::connect(&self.address).await;
        let tcp = tcp.map_err(|source| AdminError::Connect { address: address(), source })?;
        let broken = |cause: String| AdminError::Http { address: address(), cause };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
            .await
            .map_err(|error| broken(error.to_string()))?;
        let request = Request::get(path).header(HOST, &self.address).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| broken(error.to_string()))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), PAGE_BYTES_MAX).collect().await;
            let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let mut exchange = pin!(exchange);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            // It ends when all has been read, or when it broke: the exchange then knows which.
            _ = connection => exchange.await,
        }
    }
}

/// The text of `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Metrics(pub String);

impl Metrics {
    /// Sum of all series of `name` whose line contains `part`; `None` when there is none.
    pub fn sum(&self, name: &str, part: &str) -> Option<f64> {
        let found = self.lines(name).filter(|line| line.contains(part)).filter_map(value);
        found.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Upper edges of a histogram with the samples up to each, over all its series, ascending.
    pub fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for line in self.lines(&format!("{name}_bucket")) {
            let edge = line.split_once("le=\"").and_then(|(_, rest)| rest.split_once('"')?.0.parse().ok());
            let (Some(edge), Some(count)) = (edge, value(line)) else { continue };
            match buckets.iter_mut().find(|(known, _)| *known == edge) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((edge, count)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }

    fn lines(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.lines().filter(move |line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
    }
}

fn value(line: &str) -> Option<f64> {
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_people_type_it() {
        for (url, address) in [
            ("http://127.0.0.1:9464", "127.0.0.1:9464"),
            ("127.0.0.1:9464", "127.0.0.1:9464"),
            ("http://localhost:9464/", "localhost:9464"),
            ("http://[::1]:9464", "[::1]:9464"),
        ] {
            assert_eq!(Admin::parse(url).expect(url).address(), address);
        }
        for (url, why) in [
            ("https://h:1", "no TLS"),
            ("ws://h:1", "must begin with http://"),
            ("http://h:1/metrics", "has a path"),
            ("http://h:1/?x=1", "has a path"),
            ("a b", "no URL"),
        ] {
            let error = Admin::parse(url).expect_err(url).to_string();
            assert!(error.contains(why) && error.contains("http://HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn sums_and_buckets_go_over_all_series_of_exactly_that_name() {
        let page = Metrics(
            "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2\"} 3.5\nab 100\nb 7\n\
             h_bucket{w=\"0\",le=\"0.1\"} 1\nh_bucket{w=\"0\",le=\"+Inf\"} 4\nh_bucket{w=\"1\",le=\"0.1\"} 2\nh_bucket{w=\"1\",le=\"+Inf\"} 2\n\
             h_sum 9\nh_count 6\n"
                .into(),
        );
        assert_eq!((page.sum("a", ""), page.sum("a", "x=\"2\""), page.sum("b", "")), (Some(5.5), Some(3.5), Some(7.0)));
        assert_eq!((page.sum("a", "x=\"3\""), page.sum("c", "")), (None, None));
        assert_eq!(page.buckets("h"), [(0.1, 3.0), (f64::INFINITY, 6.0)]);
        assert!(page.buckets("a").is_empty());
    }
}
