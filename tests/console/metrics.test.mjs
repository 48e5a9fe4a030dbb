// The page's reading of /metrics: labels, rates, percentiles, and a server that began anew.

import assert from "node:assert/strict";
import { test } from "node:test";
import { History, Sample, between, perSecond, quantile } from "../../src/net/console/metrics.mjs";

const TEXT = `# HELP x_total what it counts
# TYPE x_total counter
x_total 7
y{format="json",where="a}b \\"c\\" \\\\ d"} 1.5
y{format="msgpack"} 2e3

z +Inf
timed 5 1761367200123
`;

const histogram = (...counts) => ["0.001", "0.01", "0.1", "+Inf"].map((le, at) => `h_bucket{le="${le}"} ${counts[at]}\n`).join("") + `h_sum 1\nh_count ${counts[3]}\n`;

test("names, labels with every escape, values", () => {
  const sample = new Sample(TEXT, 1);
  assert.equal(sample.sum("x_total"), 7);
  assert.deepEqual(sample.all("y")[0].labels, { format: "json", where: 'a}b "c" \\ d' });
  assert.equal(sample.sum("y"), 2001.5);
  assert.equal(sample.sum("y", { format: "msgpack" }), 2000);
  assert.equal(sample.sum("z"), Infinity);
  assert.equal(sample.sum("timed"), 5);
  assert.equal(sample.sum("absent"), null);
  assert.equal(sample.sum("y", { format: "other" }), null);
});

test("a rate is the growth over the time between, and unknown when the count fell or nothing came before", () => {
  const at = (value, time) => new Sample(`n_total ${value}\n`, time);
  assert.equal(perSecond(at(10, 1), at(40, 3), "n_total"), 15);
  assert.equal(perSecond(at(40, 1), at(10, 3), "n_total"), null);
  assert.equal(perSecond(null, at(10, 3), "n_total"), null);
  assert.equal(perSecond(at(1, 3), at(1, 3), "n_total"), null);
  assert.equal(perSecond(at(1, 1), at(1, 3), "other"), null);
  // A series that appears counts from nothing.
  assert.equal(perSecond(new Sample("", 1), at(10, 2), "n_total"), 10);
});

test("percentiles are of what came between two readings, linear within a bucket", () => {
  const before = new Sample(histogram(5, 5, 5, 5), 0);
  const now = new Sample(histogram(55, 95, 105, 105), 1);
  const buckets = between(before, now, "h");
  assert.deepEqual(buckets, [[0.001, 50], [0.01, 90], [0.1, 100], [Infinity, 100]]);
  assert.equal(quantile(buckets, 0.25), 0.0005);
  assert.equal(quantile(buckets, 0.5), 0.001);
  assert.ok(Math.abs(quantile(buckets, 0.95) - 0.055) < 1e-12);
  assert.equal(quantile(null, 0.5), null);
});

test("beyond the last edge the last edge is what is known", () => {
  assert.equal(quantile(between(new Sample(histogram(0, 0, 0, 0), 0), new Sample(histogram(0, 0, 0, 4), 1), "h"), 0.99), 0.1);
});

test("no sample in between, or a server that began anew, gives no percentile", () => {
  const sample = new Sample(histogram(5, 5, 5, 5), 0);
  assert.equal(between(sample, sample, "h"), null);
  assert.equal(between(null, sample, "h"), null);
  assert.equal(between(sample, new Sample(histogram(1, 2, 9, 9), 1), "h"), null);
  assert.equal(between(sample, new Sample("", 1), "h"), null);
});

test("histograms of several labels add up", () => {
  const of = (a, b) => new Sample(`h_bucket{lock="a",le="1"} ${a}\nh_bucket{lock="b",le="1"} ${b}\nh_bucket{lock="a",le="+Inf"} ${a}\nh_bucket{lock="b",le="+Inf"} ${b}\n`, 0);
  assert.deepEqual(between(of(0, 0), of(2, 3), "h"), [[1, 5], [Infinity, 5]]);
  assert.deepEqual(between(of(0, 0), of(2, 3), "h", { lock: "b" }), [[1, 3], [Infinity, 3]]);
});

test("the history keeps its seconds and finds the sample that is old enough", () => {
  const history = new History(10);
  assert.equal(history.back(1), null);
  for (let time = 0; time < 30; time += 1) history.push(new Sample("", time));
  assert.equal(history.now.time, 29);
  assert.equal(history.back(5).time, 24);
  assert.equal(history.back(100).time, 19);
  assert.ok(history.samples.length <= 12);
  history.clear();
  assert.equal(history.back(1), null);
});
