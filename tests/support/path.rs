//! A network path that can be cut: forwards TCP connections to one place. While it is cut no byte passes either way and nobody
//! gets through who comes, but nobody is told either: connections stay open, as behind a router that drops everything.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What becomes of the connections that stood during a cut. Who tried to get through during it gets through after it, as one
/// whose first packet is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Healed {
    /// They go on, late but whole.
    GoesOn,
    /// Both ends are told that they are over.
    Ended,
    /// They lead nowhere, and nobody is told: a router has forgotten them.
    Forgotten,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    ending: bool,
    links: Vec<Arc<Link>>,
}

/// One connection of each side.
struct Link {
    sides: [TcpStream; 2],
    forgotten: AtomicBool,
}

impl Link {
    fn end(&self) {
        for side in &self.sides {
            let _it_may_be_over = side.shutdown(Shutdown::Both);
        }
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of a cut; whether it ends for this link.
    fn passable(&self, link: Option<&Link>) -> bool {
        let mut state = self.state();
        let is_forgotten = || link.is_some_and(|link| link.forgotten.load(Ordering::SeqCst));
        while (state.is_cut || is_forgotten()) && !state.ending {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.ending
    }
}

/// See the module.
pub struct Path {
    /// Where it begins.
    pub at: SocketAddr,
    shared: Arc<Shared>,
    accept: Option<JoinHandle<()>>,
}

impl Path {
    /// A path to `target`.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let accept = std::thread::spawn(move || accept(&listener, target, &theirs));
        Path { at, shared, accept: Some(accept) }
    }

    /// From now on nothing passes.
    pub fn cut(&self) {
        self.shared.state().is_cut = true;
    }

    /// Bytes pass again.
    pub fn heal(&self, how: Healed) {
        let mut state = self.shared.state();
        for link in &state.links {
            match how {
                Healed::GoesOn => {}
                Healed::Ended => link.end(),
                Healed::Forgotten => link.forgotten.store(true, Ordering::SeqCst),
            }
        }
        state.is_cut = false;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.ending = true;
            state.links.iter().for_each(|link| link.end());
        }
        self.shared.changed.notify_all();
        // Wakes the thread that waits for the next connection.
        let _ = TcpStream::connect(self.at);
        if let Some(accept) = self.accept.take() {
            let _its_panic_was_reported = accept.join();
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    let mut serving = Vec::new();
    for stream in listener.incoming() {
        if shared.state().ending {
            break;
        }
        let Ok(near) = stream else { continue };
        let shared = Arc::clone(shared);
        serving.push(std::thread::spawn(move || {
            if shared.passable(None)
                && let Ok(far) = TcpStream::connect(target)
            {
                carry(near, far, &shared);
            }
        }));
    }
    for thread in serving {
        let _ = thread.join();
    }
}

/// Carries bytes until either side ends, and then the other.
fn carry(near: TcpStream, far: TcpStream, shared: &Arc<Shared>) {
    for side in [&near, &far] {
        let _ = side.set_nodelay(true);
    }
    let copies = [&near, &far].map(|side| side.try_clone().expect("a descriptor"));
    let link = Arc::new(Link { sides: [near, far], forgotten: AtomicBool::new(false) });
    shared.state().links.push(Arc::clone(&link));
    std::thread::scope(|scope| {
        let [near, far] = copies;
        let (from, to) = (near.try_clone().expect("a descriptor"), far.try_clone().expect("a descriptor"));
        scope.spawn(|| copy(from, to, &link, shared));
        copy(far, near, &link, shared);
    });
    shared.state().links.retain(|other| !Arc::ptr_eq(other, &link));
}

fn copy(mut from: TcpStream, mut to: TcpStream, link: &Link, shared: &Shared) {
    let mut chunk = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        if !shared.passable(Some(link)) || to.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    // An end, too, is told only to who can be reached.
    shared.passable(Some(link));
    link.end();
}
