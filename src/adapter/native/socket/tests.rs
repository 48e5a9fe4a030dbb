//! The socket against peers by hand: TLS, messages in pieces, pings, refusals, goodbyes.

use super::super::upgrade::accept;
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The 101 that belongs to a request's head.
fn accepting(head: &str) -> String {
    let key = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().starts_with("sec-websocket-key:").then(|| line[18..].trim()));
    let proof = accept(key.expect("a key"));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {proof}\r\n\r\n"
    )
}

/// Reads the request's head from `io`.
async fn head(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.expect("a request"));
    }
    String::from_utf8(head).expect("text")
}

struct World {
    said: mpsc::Receiver<Said>,
    out: Option<mpsc::Sender<Outgoing>>,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    fn connect(url: String, tls: Tls) -> Self {
        let (said_tx, said) = mpsc::channel(16);
        let (out, queue) = mpsc::channel(4);
        let request = Request { url, headers: vec![("x-feed", "secret".into())], first: None, then: None };
        let task = tokio::spawn(run(request, tls, queue, Voice { row: 1, life: 7, said: said_tx }));
        World { said, out: Some(out), task }
    }

    async fn next(&mut self) -> What {
        let said = self.said.recv().await.expect("it says how it ended");
        assert_eq!((said.row, said.life), (1, 7));
        said.what
    }
}

/// A listener and its URL.
async fn listener(scheme: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("{scheme}://{}/feed?token=secret", listener.local_addr().expect("bound"));
    (listener, url)
}

#[tokio::test]
async fn tls_is_spoken_with_whom_the_roots_vouch_for_and_with_nobody_else() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, url) = listener("wss").await;
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("a client");
        let mut io = acceptor.accept(tcp).await.expect("it trusts us");
        let head = head(&mut io).await;
        io.write_all(accepting(&head).as_bytes()).await.expect("read");
        io.write_all(b"\x81\x02hi").await.expect("read");
        let (tcp, _) = listener.accept().await.expect("a second one");
        assert!(acceptor.accept(tcp).await.is_err(), "it does not");
        (head, io)
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let mut trusting = World::connect(url.clone(), Tls::with(roots));
    assert!(matches!(trusting.next().await, What::Opened));
    assert!(matches!(trusting.next().await, What::Text(_, text) if text == "hi"));
    let mut wary = World::connect(url, Tls::public());
    let What::Lost(reason) = wary.next().await else { panic!("it is not trusted") };
    assert!(reason.contains("no TLS with 127.0.0.1") && !reason.contains("secret"), "{reason}");
    let (head, _io) = server.await.expect("no panic");
    assert!(head.starts_with("GET /feed?token=secret HTTP/1.1\r\n") && head.contains("x-feed: secret\r\n"), "{head}");
}

#[tokio::test]
async fn a_message_in_pieces_is_one_message_and_pings_between_them_are_answered() {
    let (listener, url) = listener("ws").await;
    let server = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.expect("a client");
        let head = head(&mut io).await;
        io.write_all(accepting(&head).as_bytes()).await.expect("read");
        io.write_all(b"\x02\x02ab\x89\x01p\x00\x01c\x80\x01d").await.expect("read");
        let mut pong = [0; 7];
        io.read_exact(&mut pong).await.expect("an answer");
        assert_eq!((pong[0], pong[1], pong[6] ^ pong[2]), (0x8a, 0x81, b'p'), "masked, as a client's frames are");
        // Its ping, then its text, then the goodbye.
        let mut ping = [0; 6];
        io.read_exact(&mut ping).await.expect("a ping");
        assert_eq!((ping[0], ping[1]), (0x89, 0x80));
        io.write_all(b"\x8a\x00").await.expect("read");
        let mut frame = [0; 6 + 4];
        io.read_exact(&mut frame).await.expect("a message");
        assert_eq!((frame[0], frame[1]), (0x81, 0x84));
        let mut close = [0; 8];
        io.read_exact(&mut close).await.expect("a goodbye");
        assert_eq!((close[0], close[1]), (0x88, 0x82));
    });
    let mut world = World::connect(url, Tls::public());
    assert!(matches!(world.next().await, What::Opened));
    let mut heard = 0;
    loop {
        match world.next().await {
            What::Heard => heard += 1,
            What::Binary(_, bytes) => {
                assert_eq!(bytes, b"abcd");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(heard >= 2, "pieces are signs of life");
    world.out.as_ref().expect("open").send(Outgoing::Ping).await.expect("room");
    assert!(matches!(world.next().await, What::Pong));
    world.out.as_ref().expect("open").send(Outgoing::Text("ping".to_owned())).await.expect("room");
    world.out = None;
    server.await.expect("no panic");
    world.task.await.expect("it has ended");
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection_and_says_why() {
    let cases: [(&[u8], &str); 4] = [
        (b"\x80\x01d", "continued what it had not begun"),
        (b"\x01\x01a\x81\x01b", "broke a message off"),
        (b"\x88\x05\x03\xe8bye", "closed with 1000 bye"),
        (b"\x82\x7f\x00\x00\x00\x00\x10\x00\x00\x00", ""),
    ];
    for (bytes, why) in cases {
        let (listener, url) = listener("ws").await;
        let server = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.expect("a client");
            let head = head(&mut io).await;
            io.write_all(accepting(&head).as_bytes()).await.expect("read");
            io.write_all(bytes).await.expect("read");
            io
        });
        let mut world = World::connect(url, Tls::public());
        let reason = loop {
            if let What::Lost(reason) = world.next().await {
                break reason;
            }
        };
        assert!(reason.contains(why) && !reason.is_empty(), "{reason:?} is not {why:?}");
        drop(server.await.expect("no panic"));
    }
}

#[tokio::test]
async fn a_refused_upgrade_gives_its_status_and_its_words() {
    for (answer, words) in [
        (&b"HTTP/1.1 403 Forbidden\r\ncontent-length: 8\r\n\r\nno entry"[..], "no entry"),
        (b"HTTP/1.1 401 No\r\nx-error-message: Invalid Feed Token\r\ncontent-length: 0\r\n\r\n", "Invalid Feed Token"),
    ] {
        let (listener, url) = listener("ws").await;
        let server = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.expect("a client");
            head(&mut io).await;
            io.write_all(answer).await.expect("read");
            io
        });
        let mut world = World::connect(url, Tls::public());
        let What::Refused { status, text } = world.next().await else { panic!("refused") };
        assert_eq!((status / 100, text.as_str()), (4, words));
        drop(server.await.expect("no panic"));
    }
    let mut nobody = World::connect("ws://127.0.0.1:1".to_owned(), Tls::public());
    assert!(matches!(nobody.next().await, What::Lost(reason) if reason.starts_with("cannot connect to 127.0.0.1:1")));
    let mut nothing = World::connect("http://h".to_owned(), Tls::public());
    assert!(matches!(nothing.next().await, What::Lost(_)));
}
