//! The few words of Redis's protocol (RESP 2) that a registry needs: commands out, replies in, blocking, bounded.
//!
//! In: commands as words. Out: their replies, in order. Promise: memory by what was received, never by a declared length
//! alone; a reply nested deeper than an EXEC's, or malformed, ends the connection. Tests: at the end.

use std::io::{self, BufRead, BufReader, Read, Write};

/// The longest text kept, bytes; a longer one is skipped.
const TEXT_BYTES_MAX: usize = 4096;
/// The longest line, bytes: lengths, numbers, states and errors.
const LINE_BYTES_MAX: u64 = 4096;
/// Replies in one array, counted.
const ITEMS_MAX: i64 = 4096;

/// What Redis answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A state, or text that may be any bytes.
    Text(Vec<u8>),
    /// A number.
    Number(i64),
    /// Nothing there.
    Nil,
    /// Several.
    Many(Vec<Reply>),
    /// Text longer than [`TEXT_BYTES_MAX`].
    TooLong,
}

/// A connection; `S` is a socket, or bytes in tests.
pub(super) struct Resp<S> {
    stream: BufReader<S>,
}

impl<S: Read + Write> Resp<S> {
    pub(super) fn new(stream: S) -> Self {
        Resp { stream: BufReader::new(stream) }
    }

    /// Sends all commands at once and gives as many replies; the first refusal is the error.
    pub(super) fn ask(&mut self, commands: &[Vec<String>]) -> io::Result<Vec<Reply>> {
        let mut out = Vec::new();
        for command in commands {
            write!(out, "*{}\r\n", command.len())?;
            for word in command {
                write!(out, "${}\r\n{word}\r\n", word.len())?;
            }
        }
        self.stream.get_mut().write_all(&out)?;
        let replies: Vec<_> = commands.iter().map(|_| self.reply(0)).collect::<io::Result<_>>()?;
        replies.into_iter().collect::<Result<_, String>>().map_err(io::Error::other)
    }

    /// A reply, or what Redis said against it.
    fn reply(&mut self, depth: u8) -> io::Result<Result<Reply, String>> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(malformed)?;
        let number = || rest.parse::<i64>().map_err(|_| malformed());
        Ok(Ok(match kind {
            "+" => Reply::Text(rest.as_bytes().to_vec()),
            "-" => return Ok(Err(rest.to_owned())),
            ":" => Reply::Number(number()?),
            "$" => self.text(number()?)?,
            "*" => match number()? {
                -1 => Reply::Nil,
                items @ 0..=ITEMS_MAX if depth < 2 => {
                    let items: Vec<_> = (0..items).map(|_| self.reply(depth + 1)).collect::<io::Result<_>>()?;
                    match items.into_iter().collect() {
                        Ok(items) => Reply::Many(items),
                        Err(refused) => return Ok(Err(refused)),
                    }
                }
                _ => return Err(malformed()),
            },
            _ => return Err(malformed()),
        }))
    }

    fn text(&mut self, len: i64) -> io::Result<Reply> {
        let Ok(len) = u64::try_from(len) else { return if len == -1 { Ok(Reply::Nil) } else { Err(malformed()) } };
        let reply = if len <= TEXT_BYTES_MAX as u64 {
            let mut text = vec![0; len as usize];
            self.stream.read_exact(&mut text)?;
            Reply::Text(text)
        } else {
            let skipped = io::copy(&mut self.stream.by_ref().take(len), &mut io::sink())?;
            if skipped < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Reply::TooLong
        };
        let mut end = [0; 2];
        self.stream.read_exact(&mut end)?;
        if &end == b"\r\n" { Ok(reply) } else { Err(malformed()) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.strip_suffix(b"\r\n").ok_or_else(malformed)?;
        String::from_utf8(line.to_vec()).map_err(|_| malformed())
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what answers there does not speak Redis's protocol")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with these bytes, and keeps what it is told.
    struct Answers<'a>(&'a [u8], Vec<u8>);

    impl Read for Answers<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.0.read(out)
        }
    }

    impl Write for Answers<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ask(answers: &[u8], commands: usize) -> io::Result<Vec<Reply>> {
        Resp::new(Answers(answers, Vec::new())).ask(&vec![vec!["PING".to_owned()]; commands])
    }

    #[test]
    fn commands_and_replies_are_those_of_the_protocol() {
        let mut resp = Resp::new(Answers(b"+OK\r\n$3\r\na\r\n\r\n*2\r\n:-7\r\n$-1\r\n*-1\r\n", Vec::new()));
        let command = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let commands = [command(&["SET", "k", "ü"]), command(&["GET", "k"]), command(&["X"]), command(&["Y"])];
        let text = |t: &[u8]| Reply::Text(t.to_vec());
        let many = Reply::Many(vec![Reply::Number(-7), Reply::Nil]);
        assert_eq!(resp.ask(&commands).expect("replies"), [text(b"OK"), text(b"a\r\n"), many, Reply::Nil]);
        let sent = String::from_utf8(resp.stream.get_ref().1.clone()).expect("text");
        assert!(sent.starts_with("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nü\r\n*2\r\n"), "{sent:?}");
    }

    #[test]
    fn a_refusal_is_told_with_its_words_wherever_it_stands() {
        for answers in [&b"+OK\r\n-NOAUTH no\r\n"[..], b"+OK\r\n*1\r\n-NOAUTH no\r\n"] {
            assert_eq!(ask(answers, 2).expect_err("refused").to_string(), "NOAUTH no");
        }
    }

    #[test]
    fn what_is_too_long_is_skipped_and_what_is_no_reply_ends_the_connection() {
        let long = [b"$5000\r\n".as_slice(), &[b'x'; 5000], b"\r\n:1\r\n"].concat();
        assert_eq!(ask(&long, 2).expect("replies"), [Reply::TooLong, Reply::Number(1)]);
        for bad in [
            &b""[..],
            b"\r\n",
            b"+OK",
            b"$3\r\nabcde",
            b"$9\r\nabc",
            b"$-2\r\n",
            b":x\r\n",
            b"*9999999\r\n",
            b"?\r\n",
            b"*1\r\n*1\r\n*1\r\n:1\r\n",
            b"\xff\r\n",
            b"$999999999999\r\nabc",
            b"HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert!(ask(bad, 1).is_err(), "{bad:?}");
        }
        assert!(ask(&[b'+'; 10_000], 1).is_err(), "an endless line");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = ask(&bytes, 3);
        }
    }
}
