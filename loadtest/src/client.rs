//! One JSON client: connects, subscribes, and notes the age of every tick.
//!
//! In: the bytes of the server. Out: counts and ages. It does as little as it can, so that many fit one thread: it never parses
//! JSON, it looks for two fields. Server frames are not masked; pings are answered.

use crate::{Failure, publish};
use hdrhistogram::Histogram;
use memchr::memmem;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Everything up to the acknowledgement may take this long.
const SETUP: Duration = Duration::from_secs(30);

/// What one client has received.
#[derive(Default)]
pub(crate) struct Seen {
    /// Ticks, probes not counted.
    pub(crate) ticks: u64,
    pub(crate) probed: bool,
    /// Last price of each symbol of the universe.
    pub(crate) last: Vec<u64>,
    /// Why it ended, if it did.
    pub(crate) ended: Option<String>,
}

pub(crate) struct Client {
    tcp: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects, authenticates with the demo key and subscribes to `symbols` (LTP). `small` keeps its receive buffer small.
    pub(crate) async fn connect(ws: &str, symbols: &[u32], small: bool) -> Result<Self, Failure> {
        tokio::time::timeout(SETUP, Self::set_up(ws, symbols, small)).await.map_err(|_| "no acknowledgement in 30 s")?
    }

    async fn set_up(ws: &str, symbols: &[u32], small: bool) -> Result<Self, Failure> {
        let socket = TcpSocket::new_v4()?;
        if small {
            socket.set_recv_buffer_size(16 << 10)?;
        }
        let mut tcp = socket.connect(ws.parse()?).await?;
        tcp.set_nodelay(true)?;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {ws}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        tcp.write_all(request.as_bytes()).await?;
        let mut client = Client { tcp, buffer: Vec::new() };
        let head = loop {
            client.fill().await?;
            if let Some(end) = memmem::find(&client.buffer, b"\r\n\r\n") {
                break client.buffer.drain(..end + 4).collect::<Vec<u8>>();
            }
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            return Err(format!("no upgrade: {}", String::from_utf8_lossy(&head)).into());
        }
        client.request(r#"{"action":"authenticate","api_key":"demo-key"}"#, b"\"auth\"").await?;
        let list: Vec<String> =
            symbols.iter().map(|n| format!(r#"{{"symbol":"{}","exchange":"NSE"}}"#, publish::symbol(*n))).collect();
        let subscribe = format!(r#"{{"action":"subscribe","symbols":[{}],"mode":1}}"#, list.join(","));
        client.request(&subscribe, b"\"subscribe\"").await?;
        Ok(client)
    }

    /// Sends a command and waits for its answer, which must be a success.
    async fn request(&mut self, text: &str, answer: &[u8]) -> Result<(), Failure> {
        self.send(0x81, text.as_bytes()).await?;
        loop {
            while let Some((first, from, to)) = next_frame(&self.buffer, 0) {
                let body = &self.buffer[from..to];
                let (done, failed) = (memmem::find(body, answer).is_some(), memmem::find(body, b"\"error\"").is_some());
                if first != 0x81 || failed {
                    return Err(format!("the server answered {}", String::from_utf8_lossy(body)).into());
                }
                self.buffer.drain(..to);
                if done {
                    return Ok(());
                }
            }
            self.fill().await?;
        }
    }

    async fn send(&mut self, first: u8, payload: &[u8]) -> Result<(), Failure> {
        let mut out = vec![first];
        match payload.len() {
            n @ ..=125 => out.push(0x80 | n as u8),
            n @ ..=65_535 => {
                out.push(0x80 | 126);
                out.extend((n as u16).to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend((n as u64).to_be_bytes());
            }
        }
        // A mask of zeros is a mask.
        out.extend([0; 4]);
        out.extend(payload);
        Ok(self.tcp.write_all(&out).await?)
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        self.buffer.reserve(64 << 10);
        match self.tcp.read_buf(&mut self.buffer).await? {
            0 => Err("the server hung up".into()),
            _ => Ok(()),
        }
    }

    /// Receives until aborted or cut off. A tick's age is taken when the read that brought it has returned.
    pub(crate) async fn receive(mut self, epoch: Instant, seen: Rc<RefCell<Seen>>, ages: Rc<RefCell<Histogram<u64>>>) {
        loop {
            if let Err(failure) = self.fill().await {
                seen.borrow_mut().ended = Some(failure.to_string());
                return;
            }
            let now = epoch.elapsed().as_nanos() as u64;
            let mut done = 0;
            let mut pongs = Vec::new();
            while let Some((first, from, to)) = next_frame(&self.buffer, done) {
                done = to;
                let body = &self.buffer[from..to];
                match first {
                    0x81 => note(body, now, &mut seen.borrow_mut(), &mut ages.borrow_mut()),
                    0x89 => pongs.push(body.to_vec()),
                    0x88 => seen.borrow_mut().ended = Some("the server closed the connection".into()),
                    _ => {}
                }
            }
            self.buffer.drain(..done);
            for pong in pongs {
                if let Err(failure) = self.send(0x8a, &pong).await {
                    seen.borrow_mut().ended = Some(failure.to_string());
                }
            }
        }
    }
}

/// First byte and payload span of the frame that begins at `at`, once it is there whole.
fn next_frame(buffer: &[u8], at: usize) -> Option<(u8, usize, usize)> {
    let (from, len) = match &buffer[at..] {
        [_, len @ ..=125, ..] => (at + 2, usize::from(*len)),
        [_, 126, a, b, ..] => (at + 4, usize::from(u16::from_be_bytes([*a, *b]))),
        [_, 127, rest @ ..] => (at + 10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
        _ => return None,
    };
    (buffer.len() >= from + len).then(|| (buffer[at], from, from + len))
}

/// Notes one tick.
fn note(body: &[u8], now: u64, seen: &mut Seen, ages: &mut Histogram<u64>) {
    let (Some(symbol), Some(price)) = (number(body, b"\"symbol\":", b"\"L"), number(body, b"\"ltp\":", b"")) else {
        return;
    };
    if price == 0 {
        seen.probed = true;
        return;
    }
    seen.ticks += 1;
    if let Some(last) = seen.last.get_mut(symbol as usize) {
        *last = price;
    }
    // Above the histogram's range is its last bucket; the maximum says so.
    ages.saturating_record(now.saturating_sub(price));
}

/// The digits after `name`, blanks and `prefix`.
fn number(body: &[u8], name: &[u8], prefix: &[u8]) -> Option<u64> {
    let rest = &body[memmem::find(body, name)? + name.len()..];
    let rest = rest.trim_ascii_start().strip_prefix(prefix)?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_counted_with_its_age_and_a_probe_only_noted() {
        let mut ages = Histogram::new(3).expect("three digits");
        let mut seen = Seen { last: vec![0; 8], ..Seen::default() };
        note(br#"{"type":"market_data","symbol":"L00007","data":{"ltp":0}}"#, 100, &mut seen, &mut ages);
        assert_eq!((seen.probed, seen.ticks), (true, 0));
        note(br#"{"type": "market_data", "symbol": "L00007", "data": {"ltp": 40.0}}"#, 100, &mut seen, &mut ages);
        note(br#"{"type":"pong"}"#, 100, &mut seen, &mut ages);
        assert_eq!((seen.ticks, seen.last[7], ages.max()), (1, 40, 60));
    }

    #[test]
    fn frames_of_all_three_lengths_are_found_once_they_are_whole() {
        for len in [0, 125, 126, 65_535, 65_536] {
            let mut frame = vec![0x81];
            match len {
                ..=125 => frame.push(len as u8),
                126..=65_535 => frame.extend([&[126][..], &(len as u16).to_be_bytes()].concat()),
                _ => frame.extend([&[127][..], &(len as u64).to_be_bytes()].concat()),
            }
            let head = frame.len();
            frame.resize(head + len, b'x');
            assert_eq!(next_frame(&frame, 0), Some((0x81, head, head + len)));
            assert_eq!(next_frame(&frame[..head + len - 1], 0), None);
        }
    }
}
