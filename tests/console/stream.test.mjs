// The page as a client: what it sends and when, what each end of a connection makes it do. The test plays server, clock and chance.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SUBPROTOCOL, Stream, fieldsOf } from "../../src/net/console/stream.mjs";

const SBIN = { exchange: "NSE", symbol: "SBIN", mode: 1 };
const INFY = { exchange: "NSE", symbol: "INFY", mode: 2 };

/** MessagePack of what these tests send: small and plain. */
function pack(value) {
  const wide = (n) => Buffer.concat([Buffer.from([0xd3]), (() => { const b = Buffer.alloc(8); b.writeBigInt64BE(BigInt(n)); return b; })()]);
  if (value === null) return Buffer.from([0xc0]);
  if (typeof value === "number") return wide(value);
  if (typeof value === "string") return Buffer.concat([Buffer.from([0xd9, Buffer.byteLength(value)]), Buffer.from(value)]);
  if (Array.isArray(value)) return Buffer.concat([Buffer.from([0xdc, 0, value.length]), ...value.map(pack)]);
  const entries = Object.entries(value);
  return Buffer.concat([Buffer.from([0xde, 0, entries.length]), ...entries.flat().map(pack)]);
}

class World {
  constructor() {
    this.sockets = [];
    this.timers = [];
    this.time = 0;
    this.told = [];
    const tell = (what) => (...args) => this.told.push([what, ...args]);
    const told = { state: tell("state"), tick: tell("tick"), refused: tell("refused"), feed: tell("feed") };
    this.stream = new Stream("ws://here:1", told, {
      open: (url, protocol) => {
        const socket = { url, protocol, sent: [], send: (text) => socket.sent.push(JSON.parse(text)), close: (code) => (socket.closedWith = code) };
        this.sockets.push(socket);
        return socket;
      },
      later: (act, delay) => this.timers.push({ act, delay }) - 1,
      cancel: (at) => delete this.timers[at],
      random: () => 0,
      now: () => this.time,
    });
  }

  get socket() {
    return this.sockets.at(-1);
  }

  get state() {
    return this.told.filter(([what]) => what === "state").at(-1).slice(1);
  }

  says(...frame) {
    const packed = pack(frame);
    this.socket.onmessage({ data: packed.buffer.slice(packed.byteOffset, packed.byteOffset + packed.length) });
  }

  live() {
    this.stream.start("a-key");
    this.opened();
  }

  opened() {
    this.socket.onopen({});
    this.says(0, { type: "auth", status: "success", user_id: "asha", broker: "angel", epoch: 1 });
  }

  acknowledge(at, entries) {
    const request = this.socket.sent[at];
    this.says(0, { type: "subscribe", status: "success", request_id: request.request_id, subscriptions: entries });
  }

  /** The delay of the one timer that waits, which then fires. */
  passes() {
    const at = this.timers.findLastIndex(Boolean);
    const { act, delay } = this.timers[at];
    delete this.timers[at];
    act();
    return delay;
  }

  breaks(code = 1006, reason = "") {
    this.socket.onclose({ code, reason });
  }
}

test("authenticates first, then subscribes all that is wanted, a request a mode", () => {
  const world = new World();
  assert.ok(world.stream.add(SBIN) && world.stream.add(INFY) && !world.stream.add(SBIN));
  world.stream.start("a-key");
  assert.deepEqual([world.socket.url, world.socket.protocol, world.socket.sent], ["ws://here:1", SUBPROTOCOL, []]);
  world.opened();
  const [auth, ltp, quote, ...more] = world.socket.sent;
  assert.deepEqual(auth, { action: "authenticate", api_key: "a-key" });
  assert.deepEqual([ltp.mode, ltp.symbols], [1, [{ exchange: "NSE", symbol: "SBIN" }]]);
  assert.deepEqual([quote.mode, quote.symbols, more.length], [2, [{ exchange: "NSE", symbol: "INFY" }], 0]);
  assert.deepEqual(world.state, ["live", "Connected as asha, broker angel."]);
});

test("a tick goes to whom its id belongs, with the scale of the acknowledgement, and an unknown one to nobody", () => {
  const world = new World();
  world.live();
  world.stream.add(SBIN);
  world.acknowledge(1, [{ ...SBIN, mode: "LTP", status: "success", id: 7, scale: 2 }]);
  world.says(2, 50, [[7, 1, 1, 0, 40, 81225]]);
  world.says(1, 60, [[7, 1, 2, 30, 55, 81230], [8, 1, 1, 0, 55, 1], [7, 2, 1, 0, 55, 1]]);
  world.says(9, "of a later version");
  const ticks = world.told.filter(([what]) => what === "tick").map(([, key, tick]) => [key, tick.ltp, tick.scale, tick.seq, tick.snapshot]);
  assert.deepEqual(ticks, [["NSE:SBIN/1", 81225, 2, 1, true], ["NSE:SBIN/1", 81230, 2, 2, false]]);
});

test("an acknowledgement nobody asked for renews the ids", () => {
  const world = new World();
  world.live();
  world.stream.add(SBIN);
  world.acknowledge(1, [{ ...SBIN, mode: "LTP", status: "success", id: 7, scale: 2 }]);
  world.says(0, { type: "subscribe", status: "success", subscriptions: [{ ...SBIN, mode: "LTP", status: "success", id: 9, scale: 4 }] });
  world.says(1, 60, [[9, 1, 1, 0, 55, 5]]);
  assert.deepEqual(world.told.at(-1).slice(0, 2), ["tick", "NSE:SBIN/1"]);
});

test("removing unsubscribes, and a tick on its way is not shown", () => {
  const world = new World();
  world.live();
  world.stream.add(SBIN);
  world.acknowledge(1, [{ ...SBIN, mode: "LTP", status: "success", id: 7, scale: 2 }]);
  world.stream.remove("NSE:SBIN/1");
  assert.deepEqual(world.socket.sent.at(-1), { action: "unsubscribe", symbols: [SBIN] });
  const before = world.told.length;
  world.says(1, 60, [[7, 1, 2, 0, 55, 81230]]);
  assert.equal(world.told.length, before);
});

test("removed before the acknowledgement came, it stays removed", () => {
  const world = new World();
  world.live();
  world.stream.add(SBIN);
  world.stream.remove("NSE:SBIN/1");
  world.acknowledge(1, [{ ...SBIN, mode: "LTP", status: "success", id: 7, scale: 2 }]);
  world.says(1, 60, [[7, 1, 1, 0, 55, 1]]);
  assert.ok(!world.told.some(([what]) => what === "tick"));
});

test("a refused entry is told with what to do, and not asked for again", () => {
  const world = new World();
  world.live();
  world.stream.add(SBIN);
  world.acknowledge(1, [{ ...SBIN, mode: undefined, status: "error", code: "LIMIT_EXCEEDED", message: "at most 1000" }].map(({ mode, ...rest }) => rest));
  assert.deepEqual(world.told.at(-1), ["refused", "NSE:SBIN/1", "at most 1000. Remove a symbol first, or ask for a higher limit."]);
  world.breaks();
  world.passes();
  world.opened();
  assert.equal(world.socket.sent.length, 1);
});

test("a request refused as a whole refuses what it asked for and nothing else", () => {
  const world = new World();
  world.live();
  world.stream.add(SBIN);
  world.acknowledge(1, [{ ...SBIN, mode: "LTP", status: "success", id: 7, scale: 2 }]);
  world.stream.add({ ...SBIN, symbol: "ITC" });
  world.says(0, { status: "error", code: "LIMIT_EXCEEDED", message: "full", request_id: world.socket.sent.at(-1).request_id });
  assert.deepEqual(world.told.at(-1).slice(0, 2), ["refused", "NSE:ITC/1"]);
  assert.deepEqual([...world.stream.wanted.keys()], ["NSE:SBIN/1"]);
});

test("a lost connection is made again after growing delays, and everything wanted is subscribed again", () => {
  const world = new World();
  world.live();
  world.stream.add(SBIN);
  const delays = [];
  for (let n = 0; n < 9; n += 1) {
    world.breaks();
    assert.equal(world.state[0], "waiting");
    delays.push(world.passes());
  }
  assert.deepEqual(delays, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
  world.opened();
  assert.deepEqual(world.socket.sent.map((sent) => sent.action), ["authenticate", "subscribe"]);
  // Only a connection that has lasted takes the delay back.
  world.breaks();
  assert.equal(world.passes(), 30000);
  world.opened();
  world.time += 10_000;
  world.breaks();
  assert.equal(world.passes(), 500);
});

test("an id of the connection before means nothing in the next", () => {
  const world = new World();
  world.live();
  world.stream.add(SBIN);
  world.acknowledge(1, [{ ...SBIN, mode: "LTP", status: "success", id: 7, scale: 2 }]);
  world.breaks();
  world.passes();
  world.opened();
  const before = world.told.length;
  world.says(1, 60, [[7, 1, 1, 0, 55, 5]]);
  assert.equal(world.told.length, before);
});

test("a wrong key ends it at once, with advice, and the key is forgotten", () => {
  const world = new World();
  world.stream.start("wrong");
  world.socket.onopen({});
  world.says(0, { status: "error", code: "AUTHENTICATION_ERROR", message: "Invalid API key" });
  assert.deepEqual(world.state, ["failed", "Invalid API key. Check the key; tickcast keys add makes a new one."]);
  assert.equal(world.socket.closedWith, 1000);
  assert.ok(!world.timers.some(Boolean));
  assert.ok(!JSON.stringify(world.stream).includes("wrong"));
});

test("what is not worth another try is not tried: a revoked key, too many attempts, a broken protocol", () => {
  for (const [code, reason] of [[4403, "key revoked"], [4401, "too many attempts"], [1002, ""], [1009, ""]]) {
    const world = new World();
    world.live();
    world.breaks(code, reason);
    assert.equal(world.state[0], "failed", String(code));
    assert.ok(!world.timers.some(Boolean), String(code));
  }
  for (const code of [1001, 1006, 1011, 1012, 1013, 4408, 4429]) {
    const world = new World();
    world.live();
    world.breaks(code);
    assert.equal(world.state[0], "waiting", String(code));
  }
});

test("a server that does not speak the subprotocol, or sends what cannot be read, is told so", () => {
  const world = new World();
  world.stream.start("a-key");
  world.socket.protocol = "";
  world.socket.onopen({});
  assert.equal(world.state[0], "failed");
  assert.deepEqual(world.socket.sent, [], "the key is not sent to whoever answers");
  const other = new World();
  other.live();
  other.socket.onmessage({ data: Uint8Array.of(0xc1).buffer });
  assert.match(other.state[1], /cannot read/);
});

test("stopping ends the connection, its events change nothing, and what is wanted stays for the next", () => {
  const world = new World();
  world.live();
  world.stream.add(SBIN);
  const old = world.socket;
  world.stream.stop();
  assert.deepEqual([old.closedWith, world.state[0]], [1000, "off"]);
  old.onclose({ code: 1000, reason: "" });
  assert.equal(world.state[0], "off");
  world.live();
  assert.equal(world.socket.sent.at(-1).action, "subscribe");
});

test("missing fields are null, in their places", () => {
  assert.deepEqual(fieldsOf(1, [5]), { ltp: 5, low: null, high: null });
  assert.equal(fieldsOf(3, [5]).bids, null);
  assert.deepEqual(fieldsOf(3, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, [[1, 2, 3]]]).bids, [[1, 2, 3]]);
});
