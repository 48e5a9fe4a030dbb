// Reads MessagePack, as much of it as tickcast sends: no extensions, no timestamps. Pure.

const text = new TextDecoder("utf-8", { fatal: true });

/** How deep values may stand in one another; what the server sends has five levels. */
const DEPTH_MAX = 32;

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  /** The place of the next `length` bytes, which are then behind us. */
  take(length) {
    const at = this.at;
    if (length > this.bytes.length - at) throw new RangeError("the message ends too early");
    this.at = at + length;
    return at;
  }

  string(length) {
    const at = this.take(length);
    return text.decode(this.bytes.subarray(at, at + length));
  }

  /** A number while it is exact, else a BigInt: prices may be anything that 64 bits hold. */
  wide(value) {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  array(length, depth) {
    const values = [];
    for (let n = 0; n < length; n += 1) values.push(this.value(depth + 1));
    return values;
  }

  map(length, depth) {
    const entries = [];
    for (let n = 0; n < length; n += 1) entries.push([String(this.value(depth + 1)), this.value(depth + 1)]);
    // An own property whatever its name, which `object[name] = …` would not make of `__proto__`.
    return Object.fromEntries(entries);
  }

  value(depth) {
    if (depth > DEPTH_MAX) throw new RangeError("values stand too deep in one another");
    const { view } = this;
    const first = view.getUint8(this.take(1));
    if (first < 0x80) return first;
    if (first < 0x90) return this.map(first & 0x0f, depth);
    if (first < 0xa0) return this.array(first & 0x0f, depth);
    if (first < 0xc0) return this.string(first & 0x1f);
    if (first >= 0xe0) return first - 0x100;
    switch (first) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.binary(view.getUint8(this.take(1)));
      case 0xc5: return this.binary(view.getUint16(this.take(2)));
      case 0xc6: return this.binary(view.getUint32(this.take(4)));
      case 0xca: return view.getFloat32(this.take(4));
      case 0xcb: return view.getFloat64(this.take(8));
      case 0xcc: return view.getUint8(this.take(1));
      case 0xcd: return view.getUint16(this.take(2));
      case 0xce: return view.getUint32(this.take(4));
      case 0xcf: return this.wide(view.getBigUint64(this.take(8)));
      case 0xd0: return view.getInt8(this.take(1));
      case 0xd1: return view.getInt16(this.take(2));
      case 0xd2: return view.getInt32(this.take(4));
      case 0xd3: return this.wide(view.getBigInt64(this.take(8)));
      case 0xd9: return this.string(view.getUint8(this.take(1)));
      case 0xda: return this.string(view.getUint16(this.take(2)));
      case 0xdb: return this.string(view.getUint32(this.take(4)));
      case 0xdc: return this.array(view.getUint16(this.take(2)), depth);
      case 0xdd: return this.array(view.getUint32(this.take(4)), depth);
      case 0xde: return this.map(view.getUint16(this.take(2)), depth);
      case 0xdf: return this.map(view.getUint32(this.take(4)), depth);
      default: throw new RangeError(`a type that tickcast does not send: 0x${first.toString(16)}`);
    }
  }

  binary(length) {
    const at = this.take(length);
    return this.bytes.slice(at, at + length);
  }
}

/** The one value that `bytes` (a Uint8Array) holds; throws a RangeError or TypeError when they hold anything else. */
export function decode(bytes) {
  const reader = new Reader(bytes);
  const value = reader.value(0);
  if (reader.at !== bytes.length) throw new RangeError("something follows the value");
  return value;
}
