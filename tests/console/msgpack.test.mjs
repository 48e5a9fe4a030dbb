// The page's MessagePack reader: every type the server sends, and bytes that nobody should send.

import assert from "node:assert/strict";
import { test } from "node:test";
import { decode } from "../../src/net/console/msgpack.mjs";

const bytes = (hex) => Uint8Array.from(Buffer.from(hex.replaceAll(" ", ""), "hex"));
const text = (value) => Buffer.from(value).toString("hex");

test("each type reads as the specification has it, at both ends of its width", () => {
  for (const [hex, want] of [
    ["00", 0], ["7f", 127], ["ff", -1], ["e0", -32],
    ["cc ff", 255], ["cd ffff", 65535], ["ce ffffffff", 4294967295], ["cf 001fffffffffffff", Number.MAX_SAFE_INTEGER],
    ["d0 80", -128], ["d1 8000", -32768], ["d2 80000000", -2147483648], ["d3 ffe0000000000001", Number.MIN_SAFE_INTEGER],
    ["c0", null], ["c2", false], ["c3", true],
    ["ca 3fc00000", 1.5], ["cb 400921fb54442d18", Math.PI],
    ["a0", ""], [`a3 ${text("NSE")}`, "NSE"], [`d9 05 ${text("SBIN€").slice(0, 10)}`.replace("d9 05", "d9 04").slice(0, 14), "SBIN"],
    [`da 0003 ${text("₹")}`, "₹"], [`db 00000001 ${text("x")}`, "x"],
    ["90", []], ["93 01 c0 92 02 03", [1, null, [2, 3]]], ["dc 0001 07", [7]], ["dd 00000002 01 02", [1, 2]],
    ["80", {}], [`82 a1 ${text("a")} 01 a1 ${text("b")} 90`, { a: 1, b: [] }], [`de 0001 a1 ${text("k")} c3`, { k: true }],
    [`df 00000001 01 02`, { 1: 2 }],
  ]) {
    assert.deepEqual(decode(bytes(hex)), want, hex);
  }
  assert.deepEqual(decode(bytes("c4 02 0102")), bytes("0102"));
});

test("an integer that no double holds keeps its last digit", () => {
  assert.equal(decode(bytes("cf 0020000000000001")), 9007199254740993n);
  assert.equal(decode(bytes("cf ffffffffffffffff")), 18446744073709551615n);
  assert.equal(decode(bytes("d3 8000000000000000")), -9223372036854775808n);
});

test("a frame of ticks as the protocol's document has it", () => {
  // [1, 1761367200125904, [[7, 1, 42, 0, 1761367200123456, 81230]]]
  const frame = "93 01 cf 000641f5ca7e8f50 91 96 07 01 2a 00 cf 000641f5ca7e85c0 ce 00013d4e";
  const [kind, , [tick]] = decode(bytes(frame));
  assert.deepEqual([kind, tick[0], tick[2], tick[5]], [1, 7, 42, 81230]);
});

test("a name that JavaScript knows is a name like any other", () => {
  const read = decode(bytes(`81 a9 ${text("__proto__")} 81 a1 ${text("x")} 01`));
  assert.deepEqual(Object.keys(read), ["__proto__"]);
  assert.equal(read.x, undefined);
});

test("what is cut off, too long, too deep, no UTF-8 or of another type is refused", () => {
  for (const hex of ["", "92 01", "cd ff", "a5 6162", "dd ffffffff", "db ffffffff 61", "81 a1 61", "01 02", "c1", "c7 00 01", "d4 01 00", "a1 ff", "91".repeat(40) + "01"]) {
    assert.throws(() => decode(bytes(hex)), (error) => error instanceof RangeError || error instanceof TypeError, hex);
  }
});

test("part of a larger buffer is read by its own bounds", () => {
  const whole = bytes("ffff 92 01 02 ffff");
  assert.deepEqual(decode(whole.subarray(2, 5)), [1, 2]);
});
