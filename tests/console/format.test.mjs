// Numbers as the page writes them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, change, count, price, rate, seconds, share, span, whole } from "../../src/net/console/format.mjs";

const says = (format, pairs) => {
  for (const [value, want] of pairs) assert.equal(format(value).replaceAll("\u00a0", " "), want, String(value));
};

test("rates, bytes, shares", () => {
  says(rate, [[0, "0"], [0.42, "0.4"], [9.96, "10"], [37.4, "37"], [1234, "1,234"], [9999, "9,999"], [9999.6, "10.0 k"], [56_700, "56.7 k"], [999_600, "1.00 M"], [8.9e6, "8.90 M"], [NaN, "–"]]);
  says(bytes, [[0, "0 B"], [512, "512 B"], [1536, "1.50 KiB"], [1024 * 1024, "1.00 MiB"], [-1, "-1 B"], [Infinity, "–"]]);
  says(share, [[0, "0 %"], [0.0004, "0.04 %"], [0.015, "1.5 %"], [0.5, "50 %"], [NaN, "–"]]);
});

test("times from nanoseconds to days", () => {
  says(seconds, [[0, "0 s"], [250e-9, "250 ns"], [3.1e-6, "3.10 µs"], [99.9e-6, "0.10 ms"], [0.00042, "0.42 ms"], [0.0213, "21.3 ms"], [1.234, "1.23 s"], [0.9996, "1.00 s"], [200, "3 min"], [NaN, "–"]]);
  says(span, [[3.2, "3 s"], [120, "2 min"], [12_000, "3 h 20 min"], [187_200, "2 d 4 h"], [-5, "0 s"]]);
});

test("an integer price has exactly its digits, also where doubles have not", () => {
  for (const [value, scale, want] of [
    [81230, 2, "812.30"], [7, 2, "0.07"], [-3763, 2, "−37.63"], [0, 2, "0.00"], [840725, 4, "84.0725"], [5, 0, "5"],
    [10_000_000, 2, "100,000.00"], [9223372036854775807n, 2, "92,233,720,368,547,758.07"], [-1n, 8, "−0.00000001"], [null, 2, "–"],
  ]) {
    assert.equal(price(value, scale), want);
  }
  assert.equal(whole(18446744073709551615n), "18,446,744,073,709,551,615");
  assert.equal(whole(undefined), "–");
  assert.deepEqual([count(1, "client"), count(0, "client"), count(1200, "client")], ["1 client", "0 clients", "1,200 clients"]);
});

test("a change has a sign, a share and a direction", () => {
  const gap = (value) => ({ ...value, percent: value.percent.replace("\u00a0", " ") });
  assert.deepEqual(gap(change(10150, 10000, 2)), { text: "+1.50", percent: "+1.50 %", direction: 1 });
  assert.deepEqual(gap(change(9900, 10000, 2)), { text: "−1.00", percent: "−1.00 %", direction: -1 });
  assert.deepEqual(gap(change(10000, 10000, 2)), { text: "0.00", percent: "0.00 %", direction: 0 });
  assert.deepEqual(gap(change(5, 0, 2)), { text: "+0.05", percent: "", direction: 1 });
  assert.deepEqual(gap(change(9007199254740993n, 9007199254740992, 0)), { text: "+1", percent: "+0.00 %", direction: 1 });
  assert.equal(change(null, 5, 2).text, "–");
});
