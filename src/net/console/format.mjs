// Numbers as people read them. Pure.

/** Between a number and its unit, so that no line ends there. */
const GAP = "\u00a0";

/** What stands where nothing is known. */
export const NONE = "–";

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Three significant digits: 7.12, 71.2, 712. */
function three(value) {
  if (Math.abs(value) < 1) return value.toFixed(2);
  return Math.abs(value) < 999.5 ? value.toPrecision(3) : value.toFixed(0);
}

function scaled(value, step, units) {
  let at = 0;
  while (Math.abs(value) >= step * 0.9995 && at < units.length - 1) {
    value /= step;
    at += 1;
  }
  return [value, units[at]];
}

/** A whole number with separators; also what fits no double. */
export function whole(value) {
  return value === null || value === undefined ? NONE : grouped.format(value);
}

/** A number of things: 1 client, 2 clients. */
export function count(value, thing) {
  return `${whole(value)} ${thing}${value === 1 ? "" : "s"}`;
}

/** A rate: 0, 0.4, 37, 1,234, 56.7 k, 8.9 M. */
export function rate(value) {
  if (!Number.isFinite(value)) return NONE;
  if (value === 0) return "0";
  if (value < 9.95) return value.toFixed(1);
  if (value < 9999.5) return grouped.format(value);
  const [number, unit] = scaled(value, 1000, ["", `${GAP}k`, `${GAP}M`, `${GAP}G`]);
  return three(number) + unit;
}

/** Bytes in binary units. */
export function bytes(value) {
  if (!Number.isFinite(value)) return NONE;
  const [number, unit] = scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
  return (unit === "B" ? number.toFixed(0) : three(number)) + GAP + unit;
}

/** A short time: 250 ns, 3.1 µs, 0.42 ms, 1.2 s. */
export function seconds(value) {
  if (!Number.isFinite(value)) return NONE;
  if (value === 0) return `0${GAP}s`;
  if (value < 1e-6) return `${(value * 1e9).toFixed(0)}${GAP}ns`;
  if (value < 99.5e-6) return `${three(value * 1e6)}${GAP}µs`;
  if (value < 0.9995) return `${value < 1e-3 ? (value * 1e3).toFixed(2) : three(value * 1e3)}${GAP}ms`;
  return value < 99.5 ? `${three(value)}${GAP}s` : span(value);
}

/** A long time: 45 s, 12 min, 3 h 20 min, 2 d 4 h. */
export function span(value) {
  if (!Number.isFinite(value)) return NONE;
  const s = Math.max(0, Math.round(value));
  if (s < 100) return `${s}${GAP}s`;
  const minutes = Math.round(s / 60);
  if (minutes < 100) return `${minutes}${GAP}min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours}${GAP}h ${minutes % 60}${GAP}min`;
  return `${Math.floor(hours / 24)}${GAP}d ${hours % 24}${GAP}h`;
}

/** A share: 0 %, 0.03 %, 12 %. */
export function share(value) {
  if (!Number.isFinite(value)) return NONE;
  const percent = value * 100;
  return `${percent === 0 ? "0" : percent < 0.1 ? percent.toFixed(2) : percent < 10 ? percent.toFixed(1) : percent.toFixed(0)}${GAP}%`;
}

/** An integer price of MessagePack with its scale, to the last digit: (81230, 2) is 812.30. A number or a BigInt. */
export function price(value, scale) {
  if (value === null || value === undefined) return NONE;
  const text = String(value);
  const minus = text.startsWith("-");
  const digits = (minus ? text.slice(1) : text).padStart(scale + 1, "0");
  const rupees = digits.slice(0, digits.length - scale).replace(/\B(?=(\d{3})+$)/g, ",");
  const rest = scale > 0 ? `.${digits.slice(-scale)}` : "";
  return `${minus ? "−" : ""}${rupees}${rest}`;
}

/** The change between two integer prices of one scale: { text, percent, direction }. */
export function change(value, base, scale) {
  if (value === null || value === undefined || base === null || base === undefined) return { text: NONE, percent: "", direction: 0 };
  const difference = BigInt(value) - BigInt(base);
  const direction = difference > 0n ? 1 : difference < 0n ? -1 : 0;
  const sign = direction > 0 ? "+" : direction < 0 ? "−" : "";
  const absolute = price(difference < 0n ? -difference : difference, scale);
  const percent = Number(base) === 0 ? null : Math.abs((Number(difference) / Number(base)) * 100);
  return { text: `${sign}${absolute}`, percent: percent === null ? "" : `${sign}${percent.toFixed(2)}${GAP}%`, direction };
}
