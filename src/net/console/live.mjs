// The live ticks: a table of the symbols that a person asked for, painted at most ten times a second however many ticks come.

import { $, make, row, write } from "./dom.mjs";
import { NONE, change, price, rate, seconds, span, whole } from "./format.mjs";
import { keyOf } from "./stream.mjs";

/** Between two paints, ms. */
const PAINT = 100;
/** A spark line: points, and the time one stands for, ms. Together two minutes. */
const SPARKS = 120;
const SPARKS_MIN = 20;
const SPARK = 1000;
/** Ticks per second are counted over, ms. */
const COUNTED = 5000;
const ROWS_MAX = 100;
const LEVELS = 5;

const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Live {
  /** @param removed (key): the person took a row away */
  constructor(removed) {
    this.rows = new Map();
    this.removed = removed;
    this.body = $("ticks").tBodies[0];
    this.painted = 0;
    setInterval(() => this.age(), 1000);
  }

  get full() {
    return this.rows.size >= ROWS_MAX;
  }

  add(instrument) {
    const key = keyOf(instrument);
    const { exchange, symbol, mode } = instrument;
    const element = row(["", "n price", "n change", "spark", "n w", "n w", "n w", "n w", "n w", "n w", "act"]);
    const name = `${exchange}:${symbol}`;
    element.dataset.symbol = name;
    element.cells[0].append(make("span", { className: "first" }, `${exchange}:`, make("wbr"), symbol), make("small", { textContent: ["", "LTP", "Quote", "Depth"][mode] }));
    element.cells[3].append(spark());
    const button = make("button", { type: "button", className: "quiet", textContent: "×", "aria-label": `Remove ${name}`, title: "Unsubscribe and remove" });
    button.addEventListener("click", () => this.take(key));
    element.cells[10].append(button);
    element.cells[1].append(make("span", { className: "figure", textContent: NONE }));
    element.cells[2].append(make("span", { textContent: "waiting for a tick" }), make("small"));
    const ladder = mode === 3 ? make("tr", { className: "ladder" }, make("td", { colSpan: 11 }, make("div", {}))) : null;
    this.rows.set(key, { element, ladder, mode, tick: null, first: null, last: null, seq: null, merged: 0, arrivals: [], history: [], dirty: false });
    this.body.append(element, ...(ladder ? [ladder] : []));
    this.count();
  }

  /** Takes a row away because a person said so; the focus stays near. */
  take(key) {
    const next = this.rows.get(key).element.nextElementSibling?.querySelector("button");
    this.drop(key);
    (next ?? $("symbol")).focus();
    this.removed(key);
  }

  drop(key) {
    const one = this.rows.get(key);
    if (!one) return;
    one.element.remove();
    one.ladder?.remove();
    this.rows.delete(key);
    this.count();
  }

  count() {
    $("ticks").hidden = this.rows.size === 0;
    $("nothing").hidden = this.rows.size > 0;
  }

  /** The connection is gone: prices stay, marked as old, and sequence numbers begin anew. */
  stale(is) {
    $("ticks").classList.toggle("stale", is);
    if (is) for (const one of this.rows.values()) one.seq = null;
  }

  tick(key, tick) {
    const one = this.rows.get(key);
    if (!one) return;
    const now = performance.now();
    const snapshot = tick.snapshot;
    if (one.seq !== null && tick.seq > one.seq && !snapshot) {
      const behind = Number(tick.seq) - Number(one.seq);
      one.merged += behind - 1;
    }
    one.seq = tick.seq;
    one.tick = tick;
    one.first ??= tick.ltp;
    if (!snapshot) one.arrivals.push(now);
    if (tick.ltp !== null) {
      const slot = Math.floor(now / SPARK);
      const last = one.history.at(-1);
      if (last?.slot === slot) last.ltp = Number(tick.ltp);
      else one.history.push({ slot, ltp: Number(tick.ltp) });
    }
    one.dirty = true;
    this.wake();
  }

  wake() {
    if (this.waiting) return;
    this.waiting = true;
    const pause = Math.max(0, PAINT - (performance.now() - this.painted));
    // A hidden page is given no frames, and so paints nothing.
    setTimeout(() => requestAnimationFrame(() => this.paint()), pause);
  }

  paint() {
    this.waiting = false;
    this.painted = performance.now();
    for (const one of this.rows.values()) {
      if (!one.dirty) continue;
      one.dirty = false;
      this.show(one);
    }
  }

  show(one) {
    const { element, tick } = one;
    const [, cell, moved, line, low, high, volume, , delay, merged] = element.cells;
    const { scale } = tick;
    const ltp = cell.firstChild;
    write(ltp, price(tick.ltp, scale));
    const direction = one.last === null || tick.ltp === null ? 0 : Math.sign(Number(tick.ltp) - Number(one.last));
    if (direction !== 0) flash(ltp, direction);
    if (tick.ltp !== null) one.last = tick.ltp;
    const base = tick.close || one.first;
    const { text, percent, direction: since } = change(tick.ltp, base, scale);
    moved.dataset.move = since > 0 ? "up" : since < 0 ? "down" : "";
    moved.title = tick.close ? "since the previous close" : "since the first tick that this page saw";
    write(moved.firstChild, text);
    write(moved.lastChild, percent);
    drawSpark(line.firstChild, one.history);
    write(low, price(tick.low, scale));
    write(high, price(tick.high, scale));
    write(volume, whole(tick.volume));
    write(delay, tick.snapshot ? "snapshot" : seconds((tick.sent - tick.received) / 1e6));
    delay.title = tick.snapshot ? `the last known value, ${span((tick.sent - tick.received) / 1e6)} old` : "";
    write(merged, whole(one.merged));
    if (one.ladder) drawLadder(one.ladder.cells[0].firstChild, tick, scale);
  }

  /** What changes without ticks: rates fall, spark lines move on. */
  age() {
    const now = performance.now();
    for (const one of this.rows.values()) {
      one.arrivals = one.arrivals.filter((at) => at > now - COUNTED);
      one.history = one.history.filter(({ slot }) => slot > Math.floor(now / SPARK) - SPARKS);
      if (document.hidden || !one.tick) continue;
      write(one.element.cells[7], rate((one.arrivals.length * 1000) / COUNTED));
      drawSpark(one.element.cells[3].firstChild, one.history);
    }
  }
}

function flash(cell, direction) {
  cell.dataset.move = direction > 0 ? "up" : "down";
  if (calm.matches) return;
  const tone = getComputedStyle(cell).getPropertyValue("--move");
  cell.animate([{ backgroundColor: tone }, { backgroundColor: "transparent" }], { duration: 700, easing: "ease-out" });
}

function svg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function spark() {
  const picture = svg("svg", { viewBox: "0 0 120 28", preserveAspectRatio: "none", "aria-hidden": "true", class: "sparkline" });
  picture.append(svg("path", { class: "area" }), svg("path", { class: "stroke" }));
  return picture;
}

function drawSpark(picture, history) {
  if (history.length === 0) return;
  const now = Math.floor(performance.now() / SPARK);
  const prices = history.map(({ ltp }) => ltp);
  const [low, high] = [Math.min(...prices), Math.max(...prices)];
  // What is young fills the line, and grows into the two minutes.
  const shown = Math.min(SPARKS, Math.max(SPARKS_MIN, now - history[0].slot));
  const x = (slot) => (SPARKS * (1 - (now - slot) / shown)).toFixed(1);
  const y = (ltp) => (high === low ? 14 : 26 - (24 * (ltp - low)) / (high - low)).toFixed(1);
  const points = history.map(({ slot, ltp }) => `${x(slot)},${y(ltp)}`);
  // The last price holds until now.
  const line = `M${points.join("L")}H${SPARKS}`;
  picture.lastChild.setAttribute("d", line);
  picture.firstChild.setAttribute("d", `${line}V28H${x(history[0].slot)}Z`);
}

function drawLadder(host, { bids, asks }, scale) {
  const most = Math.max(1, ...[...(bids ?? []), ...(asks ?? [])].map(([, quantity]) => Number(quantity ?? 0)));
  if (host.childElementCount === 0) {
    for (let n = 0; n < 2 * LEVELS; n += 1) {
      host.append(make("p", { className: n < LEVELS ? "bid" : "ask" }, make("i"), make("span"), make("b")));
    }
  }
  [...host.children].forEach((element, at) => {
    const level = (at < LEVELS ? bids : asks)?.[at % LEVELS];
    const [bar, quantity, value] = element.children;
    bar.style.width = `${(100 * Number(level?.[1] ?? 0)) / most}%`;
    write(quantity, whole(level?.[1]));
    write(value, price(level?.[0], scale));
  });
}
