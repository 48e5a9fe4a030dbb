// The panels below and above the live ticks: what /metrics, /feeds, /sessions and /subscriptions say, for people.

import { $, badge, each, make, row, write } from "./dom.mjs";
import { NONE, bytes, count, rate, seconds, share, span, whole } from "./format.mjs";
import { between, perSecond, quantile } from "./metrics.mjs";

/** Delivery slower than this is the alert SlowBroadcast, seconds. */
const SLOW = 0.05;
/** A session that is further behind counts as lagging, seconds. */
const LAGGING = 1;
const ROWS_MAX = 8;
const HEALTHY_MAX = 4;

const FEED_TONES = { live: "good", recovered: "info", quiet: "idle", stale: "warn", down: "bad" };
const MODES = { 1: "LTP", 2: "Quote", 3: "Depth" };
const VERDICTS = {
  ok: ["keeps up", "good"],
  network: ["network", "warn"],
  client: ["client does not read", "bad"],
  us: ["this server", "bad"],
};

/** Shows the table, or says why there is none. */
function table(name, rows, empty) {
  $(name).hidden = rows.length === 0;
  $(`${name}-empty`).hidden = rows.length > 0;
  write($(`${name}-empty`), empty);
  return $(name).tBodies[0];
}

function two(cell, first, second) {
  if (cell.childElementCount === 0) cell.append(make("span", { className: "first" }), make("small"));
  write(cell.firstChild, first);
  write(cell.lastChild, second);
}

/** Figures of a sample compared with one some seconds before. */
export function figures(history) {
  const now = history.now;
  const [short, long] = [history.back(2), history.back(10)];
  const per = (name, want) => perSecond(short, now, `tickcast_${name}`, want);
  const sum = (name, want) => now.sum(`tickcast_${name}`, want);
  const delivery = between(long, now, "tickcast_broadcast_latency_seconds");
  return {
    ticksIn: per("ticks_received_total"),
    ticksOut: per("ticks_sent_total"),
    bytesOut: per("bytes_sent_total"),
    frames: per("frames_sent_total"),
    merged: per("ticks_merged_total"),
    json: sum("clients_connected", { format: "json" }) ?? 0,
    msgpack: sum("clients_connected", { format: "msgpack" }) ?? 0,
    lagging: sum("sessions_lagging") ?? 0,
    subscriptions: sum("subscriptions_active") ?? 0,
    p50: quantile(delivery, 0.5),
    p99: quantile(delivery, 0.99),
  };
}

/** Throughput of the newest second, and delivery over the last five, for the plots. */
export function points(history) {
  const now = history.now;
  const delivery = between(history.back(5), now, "tickcast_broadcast_latency_seconds");
  const per = (name) => perSecond(history.back(1), now, name);
  return {
    throughput: [now.time, per("tickcast_ticks_received_total"), per("tickcast_ticks_sent_total")],
    latency: [now.time, ...[0.5, 0.95, 0.99].map((q) => quantile(delivery, q))],
  };
}

export function vitals(figures) {
  const { ticksIn, ticksOut, bytesOut, frames, merged, json, msgpack, lagging, subscriptions, p50, p99 } = figures;
  const clients = json + msgpack;
  const tiles = [
    ["Ticks in", rate(ticksIn ?? NaN), "/s", merged === null ? "" : merged > 0 ? `${rate(merged)} /s merged` : "none merged", ""],
    ["Ticks out", rate(ticksOut ?? NaN), "/s", ticksOut === null ? "" : ticksOut > 0 ? `${(ticksOut / frames).toFixed(1)} a frame` : "nothing is sent", ""],
    ["Bytes out", bytes(bytesOut ?? NaN), "/s", count(subscriptions, "subscription"), ""],
    ["Delivered, p99", seconds(p99 ?? NaN), "", p99 === null ? "no tick in 10 s" : p99 > SLOW ? "slow: above 50 ms" : `median ${seconds(p50)}`, p99 > SLOW ? "warn" : ""],
    ["Clients", whole(clients), "", [[json, "JSON"], [msgpack, "MessagePack"]], ""],
    ["Lagging", whole(lagging), "", lagging > 0 ? `more than ${LAGGING} s behind` : clients > 0 ? "everybody keeps up" : "nobody is here", lagging > 0 ? "bad" : ""],
  ];
  const tile = ([name]) => {
    const unit = make("small");
    const note = make("dd", { className: "note" });
    const tile = make("div", {}, make("dt", { textContent: name }), make("dd", {}, make("b"), unit), note);
    if (name !== "Clients") return tile;
    for (const format of ["json", "msgpack"]) note.append(make("span", {}, make("i", { className: `key ${format}` }), make("span")), " ");
    tile.append(make("span", { className: "mix", "aria-hidden": "true" }, make("i", { className: "json" }), make("i", { className: "msgpack" })));
    return tile;
  };
  each($("vitals"), tiles, ([name]) => name, tile, (element, [name, value, unit, note, tone]) => {
    const [, figure, remark, mix] = element.children;
    element.dataset.tone = tone;
    write(figure.firstChild, value);
    write(figure.lastChild, value === NONE ? "" : unit);
    if (typeof note === "string") return write(remark, note);
    mix.hidden = clients === 0;
    note.forEach(([number, format], at) => {
      write(remark.children[at].lastChild, `${whole(number)} ${format}`);
      mix.children[at].style.flexGrow = number;
    });
  });
}

export function feeds(answer) {
  const list = answer.body?.feeds ?? [];
  const worst = ["down", "stale", "recovered", "quiet", "live"];
  list.sort((a, b) => worst.indexOf(a.state) - worst.indexOf(b.state) || a.user.localeCompare(b.user));
  const counted = worst.map((state) => [state, list.filter((feed) => feed.state === state).length]).filter(([, n]) => n > 0);
  write($("feeds-about"), counted.map(([state, n]) => `${n} ${state}`).join(" · "));
  const body = table("feeds", list, answer.missing ?? "No feed yet: one starts with its user's first client.");
  const shown = list.slice(0, ROWS_MAX);
  each(body, shown, (feed) => `${feed.user}/${feed.broker}`, () => row(["", "", "n", "n", "n w"]), (element, feed) => {
    const [user, state, last, held, room] = element.cells;
    element.dataset.state = feed.state;
    two(user, feed.user, feed.kind === feed.broker ? feed.broker : `${feed.broker} by ${feed.kind}`);
    if (state.childElementCount === 0) state.append(make("span"), make("small"));
    badge(state.firstChild, feed.state, FEED_TONES[feed.state] ?? "idle");
    const since = span((Date.now() - feed.since) / 1000);
    write(state.lastChild, `for ${since}${feed.state === "live" ? "" : `: ${feed.detail}`}`);
    write(last, feed.silence_seconds === null ? NONE : feed.silence_seconds < 1 ? "now" : `${span(feed.silence_seconds)} ago`);
    write(held, whole(feed.subscriptions));
    write(room, whole(feed.capacity_left));
  });
}

export function sessions(answer, lagging) {
  const list = answer.body?.sessions ?? [];
  const empty = answer.missing ? `${answer.missing}${lagging > 0 ? ` ${count(lagging, "session")} behind.` : ""}` : "No client is connected.";
  write($("sessions-about"), answer.body ? `${whole(answer.body.lagging)} of ${whole(answer.body.total)} lag more than ${LAGGING} s` : "");
  const body = table("sessions", list, empty);
  const behind = list.filter((one) => one.verdict !== "ok" || one.lag_seconds > LAGGING);
  // Those who keep up are shown for comparison only.
  each(body, list.slice(0, Math.min(ROWS_MAX, behind.length + HEALTHY_MAX)), (one) => one.session, () => row(["", "n", "n w", "n w", ""]), (element, one) => {
    const [who, lag, waiting, merged, verdict] = element.cells;
    const lags = one.lag_seconds > LAGGING;
    element.classList.toggle("lagging", lags);
    two(who, one.user, `${one.peer} · ${one.format === "msgpack" ? "MessagePack" : "JSON"}`);
    write(lag, one.lag_seconds > 0 ? seconds(one.lag_seconds) : NONE);
    write(waiting, one.outbox_bytes > 0 ? bytes(one.outbox_bytes) : NONE);
    write(merged, one.merged > 0 ? rate(one.merged) : NONE);
    const [text, tone] = VERDICTS[one.verdict] ?? [one.verdict, "idle"];
    if (verdict.childElementCount === 0) verdict.append(make("span"), make("small"));
    badge(verdict.firstChild, text, one.verdict !== "ok" && !lags ? "warn" : tone);
    write(verdict.lastChild, one.verdict === "ok" ? "" : one.why);
  });
}

/** Remembers the running counts of /subscriptions, which become rates by difference. */
export class Hot {
  constructor(choose) {
    this.choose = choose;
    this.before = new Map();
    this.streams = [];
  }

  show(answer, time) {
    const name = ({ exchange, symbol, mode, scope }) => `${exchange}:${symbol}/${mode}/${scope}`;
    const counts = new Map();
    this.streams = (answer.body?.streams ?? []).map((stream) => {
      const key = name(stream);
      counts.set(key, { ticks: stream.ticks, time });
      const was = this.before.get(key);
      const rate = was && stream.ticks >= was.ticks && time > was.time ? (stream.ticks - was.ticks) / (time - was.time) : null;
      return { ...stream, key, rate };
    });
    this.before = counts;
    // By two digits of the rate, then by name: rows of about the same rate keep their places.
    const rough = ({ rate }) => Number((rate ?? 0).toPrecision(2));
    this.streams.sort((a, b) => rough(b) - rough(a) || a.key.localeCompare(b.key, "en", { numeric: true }));
    const most = Math.max(...this.streams.map((stream) => stream.rate ?? 0), 1e-9);
    const about = answer.body ? `${count(answer.body.active, "subscription")}, ${share(answer.body.shared_ratio)} of the keys shared` : "";
    write($("hot-about"), about);
    const body = table("hot", this.streams, answer.missing ?? "Nobody has subscribed to anything.");
    const element = (stream) => {
      const made = row(["", "grow", "n", "n"]);
      const button = make("button", { type: "button", className: "link", title: "Show it among the live ticks" });
      button.addEventListener("click", () => this.choose(stream));
      made.cells[0].append(button, make("small"));
      made.cells[1].append(make("span", { className: "bar", "aria-hidden": "true" }, make("i")));
      return made;
    };
    each(body, this.streams.slice(0, ROWS_MAX), (stream) => stream.key, element, (element, stream) => {
      const [which, bar, per, takers] = element.cells;
      write(which.firstChild, `${stream.exchange}:${stream.symbol}`);
      write(which.lastChild, ` ${MODES[stream.mode] ?? stream.mode}`);
      bar.firstChild.firstChild.style.width = `${(100 * (stream.rate ?? 0)) / most}%`;
      write(per, rate(stream.rate ?? NaN));
      write(takers, whole(stream.references));
    });
  }
}

/** Where `value` seconds stand on a line from 100 ns to 1 s, by magnitude, percent. */
function place(value) {
  return Math.min(100, Math.max(0, (100 * (Math.log10(Math.max(value, 1e-7)) + 7)) / 7));
}

/** A line from median to 99th percentile, and both in words. */
function range(cell, buckets, limit) {
  if (cell.childElementCount === 0) cell.append(make("span", { className: "range", "aria-hidden": "true" }, make("i")), make("small"));
  const [middle, high] = [quantile(buckets, 0.5), quantile(buckets, 0.99)];
  const line = cell.firstChild.firstChild;
  line.hidden = buckets === null;
  line.dataset.tone = high > limit ? "bad" : "";
  line.style.left = `${place(middle ?? 0)}%`;
  line.style.width = `${Math.max(2, place(high ?? 0) - place(middle ?? 0))}%`;
  write(cell.lastChild, buckets === null ? NONE : `${seconds(middle)} to ${seconds(high)}`);
}

export function locks(history) {
  const [before, now] = [history.back(10), history.now];
  const names = ["subscription", "user", "adapter"];
  each($("locks").tBodies[0], names, (name) => name, () => row(["", "n", "n", "", ""]), (element, lock) => {
    const [name, taken, contended, wait, hold] = element.cells;
    const per = perSecond(before, now, "tickcast_lock_acquisitions_total", { lock });
    const blocked = perSecond(before, now, "tickcast_lock_contended_total", { lock });
    write(name, lock);
    write(taken, rate(per ?? NaN));
    write(contended, per > 0 ? share(blocked / per) : NONE);
    // Above 0.1 s is the alert HighLockContention.
    range(wait, between(before, now, "tickcast_lock_wait_seconds", { lock }), 0.1);
    range(hold, between(before, now, "tickcast_lock_hold_seconds", { lock }), 0.1);
  });
  const stages = [
    ["publisher to tickcast", "tick_age_seconds"],
    ["bus to client's socket", "broadcast_latency_seconds"],
    ["behind, until caught up", "delivery_delay_seconds"],
    ["command to answer", "command_seconds"],
  ];
  each($("stages").tBodies[0], stages, ([, name]) => name, () => row(["", "n", "n", "n"]), (element, [title, name]) => {
    const buckets = between(before, now, `tickcast_${name}`);
    element.title = `tickcast_${name}`;
    write(element.cells[0], title);
    [0.5, 0.95, 0.99].forEach((q, at) => write(element.cells[at + 1], seconds(quantile(buckets, q) ?? NaN)));
  });
}
