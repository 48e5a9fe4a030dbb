//! Text messages of every broker: notices, errors, logins, orders.
#![no_main]

use tickcast::adapter::angel::Angel;
use tickcast::adapter::native::broker::{Broker, Message};
use tickcast::adapter::noren::Flattrade;
use tickcast::adapter::zerodha::Zerodha;

fn read<B: Broker + Default>(text: &str) {
    let (broker, mut events) = (B::default(), Vec::new());
    broker.decode(&mut B::Session::default(), Message::Text(text), &mut events);
    events.extend(broker.decode_order(Message::Text(text)));
    // One message means a few things at most, whatever it holds.
    assert!(events.len() <= 2);
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        read::<Zerodha>(text);
        read::<Angel>(text);
        read::<Flattrade>(text);
    }
});
