// One client of tickcast: MessagePack over WebSocket, authenticated, reconnecting with back-off, resubscribing what is wanted.
// Socket, timers and chance come from outside, so that tests can play the server. The key lives in this object only, and only while it is used.

import { decode } from "./msgpack.mjs";

export const SUBPROTOCOL = "tickcast.v1.msgpack";
export const MODES = { LTP: 1, Quote: 2, Depth: 3 };

const QUOTE = [
  "ltp", "volume", "open", "high", "low", "close", "last_quantity", "average_price", "total_buy_quantity", "total_sell_quantity", "oi",
];
const FIELDS = { 1: ["ltp", "low", "high"], 2: QUOTE, 3: [...QUOTE, "bids", "asks"] };

/** First delay before connecting again, ms; doubles up to the longest, each shortened by up to a third so that pages do not come at once. */
const DELAY = 500;
const DELAY_MAX = 30_000;
/** A connection that lived so long, ms, counts as a success, and delays begin anew. */
const PROVEN = 10_000;

/** What a close code tells a person; those with `final` are not worth trying again. */
const CLOSES = {
  1001: { text: "The server is going away." },
  1002: { text: "The server found a mistake in the protocol. Reload the page, since the server may be newer.", final: true },
  1007: { text: "The server received text that is not UTF-8. Reload the page.", final: true },
  1009: { text: "A message was too large for the server. Subscribe to fewer symbols at once.", final: true },
  1011: { text: "The server failed, or this page did not answer its ping." },
  1012: { text: "The server is restarting." },
  1013: { text: "This user has as many sessions as it may have. Close others, or raise limits.sessions_per_user." },
  4401: { text: "The server saw no valid key in time." },
  4403: { text: "This key was revoked. Use another one: tickcast keys add makes it.", final: true },
  4408: { text: "This page read too slowly." },
  4429: { text: "This page sent too many requests." },
};

/** What an error code tells a person to do; the server's own message stands before it. */
const ADVICE = {
  AUTHENTICATION_ERROR: "Check the key; tickcast keys add makes a new one.",
  BROKER_ERROR: "Log in to the broker, then connect again.",
  BROKER_INIT_ERROR: "Renew the broker login, then connect again.",
  BROKER_CONNECTION_ERROR: "Wait some seconds, then connect again.",
  LIMIT_EXCEEDED: "Remove a symbol first, or ask for a higher limit.",
  MAX_CAPACITY_REACHED: "The broker's connections are full; remove a symbol first.",
  INVALID_PARAMETERS: "Check exchange and symbol.",
};

/** What tests put something else in the place of. */
const WORLD = {
  open: (url, protocol) => new WebSocket(url, protocol),
  later: (act, delay) => setTimeout(act, delay),
  cancel: (timer) => clearTimeout(timer),
  random: Math.random,
  now: Date.now,
};

export const keyOf = ({ exchange, symbol, mode }) => `${exchange}:${symbol}/${mode}`;

/** A tick's fields by name. */
export function fieldsOf(mode, values) {
  const fields = {};
  FIELDS[mode]?.forEach((name, at) => (fields[name] = values[at] ?? null));
  return fields;
}

export class Stream {
  /**
   * @param url the WebSocket address
   * @param told { state(state, text), tick(key, tick), refused(key, message), feed(notice) }; states are
   *   `off`, `connecting`, `live`, `waiting`, `failed`
   */
  constructor(url, told, world = {}) {
    Object.assign(this, { url, told }, WORLD, world);
    this.wanted = new Map();
    this.state = "off";
    this.reset();
    this.tries = 0;
    this.#key = null;
  }

  #key;

  /** What one connection has told, forgotten with it. */
  reset() {
    this.ids = new Map();
    this.requests = new Map();
    this.requestCount = 0;
  }

  start(key) {
    this.stop();
    this.#key = key;
    this.connect();
  }

  /** Ends the connection and forgets the key; what is wanted stays. */
  stop() {
    this.end();
    this.say("off", "");
  }

  end() {
    this.cancel(this.timer);
    this.#key = null;
    this.tries = 0;
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
  }

  /** Gives up, with the reason. */
  fail(text) {
    this.end();
    this.say("failed", text);
  }

  say(state, text) {
    this.state = state;
    this.told.state(state, text);
  }

  /** Wants an instrument, now or as soon as there is a connection; false when it is wanted already. */
  add(instrument) {
    const key = keyOf(instrument);
    if (this.wanted.has(key)) return false;
    this.wanted.set(key, instrument);
    if (this.state === "live") this.subscribe([instrument]);
    return true;
  }

  remove(key) {
    const instrument = this.wanted.get(key);
    if (!this.wanted.delete(key)) return;
    for (const [id, held] of this.ids) if (held.key === key) this.ids.delete(id);
    if (this.state === "live") this.send({ action: "unsubscribe", symbols: [instrument] });
  }

  connect() {
    this.reset();
    this.say("connecting", this.tries === 0 ? "Connecting…" : `Connecting again, attempt ${this.tries}…`);
    let socket;
    try {
      socket = this.open(this.url, SUBPROTOCOL);
    } catch (error) {
      this.fail(`The browser does not open ${this.url}: ${error.message}. Open this page over plain http, on the server's machine or through an SSH tunnel.`);
      return;
    }
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    const current = (handle) => (event) => this.socket === socket && handle(event);
    socket.onopen = current(() => {
      if (socket.protocol !== SUBPROTOCOL) return this.fail(`What answers at ${this.url} is no tickcast: it does not speak ${SUBPROTOCOL}.`);
      this.send({ action: "authenticate", api_key: this.#key });
    });
    socket.onmessage = current((event) => this.receive(event.data));
    socket.onclose = current((event) => this.closed(event));
  }

  closed({ code, reason }) {
    this.socket = null;
    const known = CLOSES[code];
    const text = known?.text ?? (this.state === "live" ? "The connection broke." : `Nothing answers at ${this.url}.`);
    if (known?.final || (code === 4401 && reason === "too many attempts")) return this.fail(text);
    if (this.state === "live" && this.now() - this.liveSince >= PROVEN) this.tries = 0;
    const delay = Math.min(DELAY * 2 ** this.tries, DELAY_MAX) * (1 - this.random() / 3);
    this.tries += 1;
    this.say("waiting", `${text} Trying again in ${Math.max(1, Math.round(delay / 1000))} s.`);
    this.timer = this.later(() => this.connect(), delay);
  }

  /** Requests are JSON text, which MessagePack sessions may send too. */
  send(message) {
    this.socket?.send(JSON.stringify(message));
  }

  subscribe(instruments) {
    for (const mode of new Set(instruments.map((one) => one.mode))) {
      this.requestCount += 1;
      this.requests.set(this.requestCount, mode);
      const symbols = instruments.filter((one) => one.mode === mode).map(({ exchange, symbol }) => ({ exchange, symbol }));
      this.send({ action: "subscribe", mode, symbols, feed_status: true, request_id: this.requestCount });
    }
  }

  receive(data) {
    let kind, rest;
    try {
      [kind, ...rest] = decode(new Uint8Array(data));
    } catch (error) {
      return this.fail(`The server sent what this page cannot read (${error.message}). Reload the page, since the server may be newer.`);
    }
    if (kind === 0) this.message(rest[0]);
    else if (kind === 1 || kind === 2) for (const tick of rest[1]) this.tick(tick, rest[0], kind === 2);
  }

  message(message) {
    if (message.type === "auth") {
      this.liveSince = this.now();
      this.say("live", `Connected as ${message.user_id}, broker ${message.broker}.`);
      this.subscribe([...this.wanted.values()]);
    } else if (message.type === "subscribe") this.acknowledged(message);
    else if (message.type === "feed_status") this.told.feed(message);
    else if (message.status === "error" && message.type === undefined) this.error(message);
  }

  acknowledged({ subscriptions, request_id }) {
    const asked = this.requests.get(request_id);
    this.requests.delete(request_id);
    for (const { exchange, symbol, mode: label, status, message, code, id, scale } of subscriptions) {
      const mode = MODES[label] ?? asked;
      const key = keyOf({ exchange, symbol, mode });
      if (!this.wanted.has(key)) continue;
      if (status === "error") {
        this.wanted.delete(key);
        this.told.refused(key, advised(code, message));
      } else this.ids.set(`${id}/${mode}`, { key, scale });
    }
  }

  error({ code, message, request_id }) {
    const mode = this.requests.get(request_id);
    if (mode === undefined) {
      if (this.state === "connecting") this.fail(advised(code, message));
      return;
    }
    // A request refused as a whole: nothing of it is held.
    this.requests.delete(request_id);
    const held = new Set([...this.ids.values()].map((one) => one.key));
    for (const [key, one] of this.wanted) {
      if (one.mode !== mode || held.has(key)) continue;
      this.wanted.delete(key);
      this.told.refused(key, advised(code, message));
    }
  }

  tick([id, mode, seq, exchanged, received, ...values], sent, snapshot) {
    const held = this.ids.get(`${id}/${mode}`);
    if (!held) return;
    this.told.tick(held.key, { scale: held.scale, seq, exchanged, received, sent, snapshot, ...fieldsOf(mode, values) });
  }
}

function advised(code, message) {
  const advice = ADVICE[code];
  const said = (message ?? "").replace(/[.\s]*$/, "");
  return advice ? `${said}. ${advice}` : `${said}.`;
}
