// Lines over the last two minutes, drawn by uPlot; beside each plot its figures in words, for those who do not look.

import { make, write } from "./dom.mjs";

/** What a plot shows, seconds. */
export const WINDOW = 120;

const AXIS_FONT = '11px Inter, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const HEIGHT = 190;

function ago(seconds) {
  const whole = Math.round(-seconds);
  return whole < 1 ? "now" : whole % 60 === 0 ? `${whole / 60} min ago` : `${whole} s ago`;
}

/** Lines at powers of ten only. */
function decades(plot, axis, low, high) {
  const first = Math.round(Math.log10(low));
  const count = Math.round(Math.log10(high)) - first + 1;
  return Array.from({ length: count }, (_, at) => 10 ** (first + at));
}

export class Plot {
  /**
   * @param host the element that takes legend and canvas
   * @param series [{ label, tone, width?, fill? }]; tones are classes of the style sheet
   * @param format value → text
   * @param log whether values are read by their magnitude
   */
  constructor(host, { title, series, format, log = false, floor = 1 }) {
    Object.assign(this, { host, title, series, format, log, floor });
    this.data = [[], ...series.map(() => [])];
    this.hovered = null;
    this.values = series.map(() => make("b"));
    this.keys = series.map(({ tone }) => make("i", { className: `key ${tone}` }));
    this.legend = make("p", { className: "legend" });
    series.forEach(({ label }, at) => this.legend.append(make("span", {}, this.keys[at], `${label} `, this.values[at])));
    this.when = make("span", { className: "when" });
    this.legend.append(this.when);
    this.canvas = make("div", { className: "canvas", role: "img" });
    host.append(this.legend, this.canvas);
    new ResizeObserver(() => this.plot?.setSize({ width: this.canvas.clientWidth, height: HEIGHT })).observe(this.canvas);
    this.draw();
  }

  /** Makes the plot anew, in the colours of now. */
  draw() {
    this.plot?.destroy();
    const style = getComputedStyle(this.canvas);
    const grid = { stroke: style.getPropertyValue("border-top-color"), width: 1 };
    const axis = { stroke: style.color, font: AXIS_FONT, ticks: { show: false }, grid };
    this.plot = new uPlot(
      {
        width: Math.max(this.canvas.clientWidth, 100),
        height: HEIGHT,
        padding: [10, 22, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
        scales: {
          x: { time: false, range: () => [-WINDOW, 0] },
          y: this.log ? { distr: 3, range: (_, low, high) => this.magnitudes(low, high) } : { range: (_, __, high) => [0, Math.max(high ?? 0, this.floor) * 1.15] },
        },
        axes: [
          { ...axis, size: 26, gap: 8, grid: { show: false }, splits: () => [-120, -90, -60, -30, 0], values: (_, at) => at.map(ago) },
          { ...axis, size: 62, gap: 8, space: 34, ...(this.log && { splits: decades }), values: (_, at) => at.map((value) => this.format(value)) },
        ],
        series: [{}, ...this.series.map((one, at) => this.line(one, at))],
        hooks: { setCursor: [(plot) => this.hover(plot.cursor.idx)] },
      },
      this.data,
      this.canvas,
    );
  }

  line({ label, width = 1.5, fill = false }, at) {
    const stroke = getComputedStyle(this.keys[at]).color;
    const soft = (plot) => {
      const shade = plot.ctx.createLinearGradient(0, plot.bbox.top, 0, plot.bbox.top + plot.bbox.height);
      const [r, g, b] = stroke.match(/[\d.]+/g);
      shade.addColorStop(0, `rgba(${r}, ${g}, ${b}, 0.22)`);
      shade.addColorStop(1, `rgba(${r}, ${g}, ${b}, 0)`);
      return shade;
    };
    return { label, stroke, width, points: { show: false }, ...(fill && { fill: soft }) };
  }

  /** Whole decades around what is shown. */
  magnitudes(low, high) {
    if (!(low > 0) || !(high > 0)) return [1e-4, 1e-1];
    return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high * 1.01))];
  }

  /** Shows `points`, oldest first: [time in seconds, value or null, …]. */
  update(points) {
    const now = points.at(-1)?.[0] ?? 0;
    this.data = [points.map(([time]) => time - now), ...this.series.map((_, at) => points.map((point) => point[at + 1]))];
    this.plot.setData(this.data);
    if (this.hovered === null) this.tell(points.length - 1);
    const figures = this.series.map(({ label }, at) => `${label} ${this.format(this.data[at + 1].at(-1) ?? NaN)}`);
    this.canvas.setAttribute("aria-label", `${this.title}, last two minutes. Now: ${figures.join(", ")}.`);
  }

  hover(at) {
    this.hovered = at ?? null;
    this.tell(this.hovered ?? this.data[0].length - 1);
  }

  tell(at) {
    this.values.forEach((element, n) => write(element, this.format(this.data[n + 1][at] ?? NaN)));
    write(this.when, this.hovered === null ? "" : ago(this.data[0][at]));
  }
}
