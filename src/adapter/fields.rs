//! Fields of a payload as adapters inside this process write them: one MessagePack map, prices as floats in rupees, the
//! shortest text of which is the exact price. Used by the simulated market and the native feeds; their tests cover it.

use rmp::encode as mp;

/// Writing to a `Vec` does not fail.
pub(super) const NO_FAIL: &str = "a Vec takes every byte";

/// A name and its text.
pub(super) fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    mp::write_str(out, name).expect(NO_FAIL);
    mp::write_str(out, value).expect(NO_FAIL);
}

/// A name and its count or time.
pub(super) fn int(out: &mut Vec<u8>, name: &str, value: u64) {
    mp::write_str(out, name).expect(NO_FAIL);
    mp::write_uint(out, value).expect(NO_FAIL);
}

/// A name that is there only when it is true.
pub(super) fn flag(out: &mut Vec<u8>, name: &str) {
    mp::write_str(out, name).expect(NO_FAIL);
    mp::write_bool(out, true).expect(NO_FAIL);
}

/// A name and its price or ratio.
pub(super) fn float(out: &mut Vec<u8>, name: &str, value: f64) {
    mp::write_str(out, name).expect(NO_FAIL);
    mp::write_f64(out, value).expect(NO_FAIL);
}

/// `name` and, below it, the levels of one side, best first: price in rupees, quantity, orders.
pub(super) fn levels(out: &mut Vec<u8>, name: &str, levels: impl ExactSizeIterator<Item = (f64, u64, u64)>) {
    mp::write_str(out, name).expect(NO_FAIL);
    mp::write_array_len(out, levels.len() as u32).expect(NO_FAIL);
    for (price, quantity, orders) in levels {
        mp::write_map_len(out, 3).expect(NO_FAIL);
        float(out, "price", price);
        int(out, "quantity", quantity);
        int(out, "orders", orders);
    }
}
