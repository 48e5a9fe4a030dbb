#!/usr/bin/env python3
"""Publishes Zerodha ticks to tickcast over ZeroMQ, the way an OpenAlgo adapter does.

    pip install pyzmq msgpack
    cargo run --release -- --set adapters.default=bus
    cargo run --release -- watch INFY TATAMOTORS NSE_INDEX:NIFTY
    python examples/publish_zerodha.py

It reads files of test vectors: JSON with `cases`, each with `expected.ticks` as Zerodha's own Python library parses one
packet of their feed. Every tick is turned into the fields OpenAlgo's Zerodha adapter publishes, and sent once in each of
the three forms a publisher may use: a single JSON message, a single MessagePack message, and BATCH. See README.md beside
this file.
"""

import argparse
import json
import os
import pathlib
import sys
import time

try:
    import msgpack
    import zmq
except ImportError as missing:
    sys.exit(f"{missing}; install what is needed with: pip install pyzmq msgpack")

VECTORS = pathlib.Path(__file__).resolve().parent.parent / "tests" / "vectors" / "broker-feeds" / "kite"
# The last byte of an instrument token says where it trades.
EXCHANGES = {1: "NSE", 2: "NFO", 3: "CDS", 4: "BSE", 5: "BFO", 6: "BCD", 7: "MCX", 8: "MCX", 9: "NSE_INDEX", 12: "NCO"}
SYMBOLS = {408065: "INFY", 884737: "TATAMOTORS", 256265: "NIFTY"}
FORMS = ("json", "msgpack", "batch")


def instrument(token):
    """(exchange, symbol) of a token. An adapter looks it up in the broker's instrument list."""
    return EXCHANGES.get(token & 0xFF, "NSE"), SYMBOLS.get(token, f"TOK{token}")


def messages(tick, now_ms):
    """[(topic, data)] for one tick of Zerodha's library: one a mode, as their adapter fans out.

    The lowest mode first: tickcast serves lower modes from a higher tick only while the publisher does not send them
    itself, and so every subscriber gets each tick once from the first tick on.
    """
    exchange, symbol = instrument(tick["instrument_token"])
    base = {"symbol": symbol, "exchange": exchange, "ltp": tick["last_price"], "timestamp": now_ms}
    # Epoch seconds in full packets, else the adapter's clock in milliseconds: that is how the adapter does it.
    ltt = tick.get("last_trade_time") or now_ms
    out = [("LTP", {**base, "mode": "ltp", "ltt": ltt})]
    if tick["mode"] != "ltp":
        quote = {**base, "mode": "quote", "ltt": ltt, "volume": tick.get("volume_traded", 0)}
        if tick["tradable"]:
            quote["last_quantity"] = tick["last_traded_quantity"]
            quote["average_price"] = tick["average_traded_price"]
            quote["total_buy_quantity"] = tick["total_buy_quantity"]
            quote["total_sell_quantity"] = tick["total_sell_quantity"]
        else:
            quote["price_change_percent"] = tick["change"]
        quote.update({name: tick["ohlc"][name] for name in ("open", "high", "low", "close")})
        out.append(("QUOTE", quote))
        # Indices have no depth.
        if "depth" in tick:
            full = {**quote, "mode": "full", "oi": tick["oi"], "open_interest": tick["oi"], "depth": tick["depth"]}
            out.append(("DEPTH", full))
    return [(f"{exchange}_{symbol}_{mode}", data) for mode, data in out]


def ticks(paths):
    """[(case name, [tick])] of all files, without the cases that carry none."""
    for path in paths:
        for case in json.loads(path.read_text())["cases"]:
            found = case.get("expected", {}).get("ticks") if case.get("kind") == "binary" else None
            if found:
                yield case["name"], found


def send(socket, form, items):
    """Sends (topic, data) items in one of the three forms."""
    if form == "batch":
        socket.send_multipart([b"BATCH", msgpack.packb([list(item) for item in items])])
        return
    pack = msgpack.packb if form == "msgpack" else (lambda data: json.dumps(data).encode())
    for topic, data in items:
        socket.send_multipart([topic.encode(), pack(data)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=pathlib.Path, help="vector files or folders of them")
    side = parser.add_mutually_exclusive_group()
    side.add_argument("--connect", metavar="ENDPOINT", help="where tickcast binds (default tcp://127.0.0.1:5555)")
    side.add_argument("--bind", metavar="ENDPOINT", help="bind here; tickcast must connect (ZMQ_PUB_PORT)")
    parser.add_argument("--form", choices=FORMS, action="append", help="only this form; may be repeated")
    parser.add_argument("--interval", type=float, default=0.05, metavar="S", help="pause after each packet (default 0.05)")
    parser.add_argument("--rounds", type=int, default=1, help="how often to send everything; 0 = until Ctrl-C")
    parser.add_argument("--wait", type=float, default=10, metavar="S", help="how long to wait for a subscriber")
    options = parser.parse_args()

    given = options.files or [pathlib.Path(os.environ.get("TICKCAST_VECTORS", VECTORS))]
    paths = [p for path in given for p in (sorted(path.glob("kite_*.json")) if path.is_dir() else [path])]
    cases = list(ticks(paths))
    if not cases:
        sys.exit(f"no ticks in {', '.join(map(str, given))}")

    # XPUB is PUB that can see its subscribers: so nothing is sent before somebody listens.
    socket = zmq.Context.instance().socket(zmq.XPUB)
    socket.setsockopt(zmq.LINGER, 1000)
    socket.setsockopt(zmq.SNDHWM, 100_000)
    if options.bind:
        socket.bind(options.bind)
    else:
        socket.connect(options.connect or "tcp://127.0.0.1:5555")
    if not socket.poll(int(options.wait * 1000)):
        where = f"to {options.bind}; start tickcast with ZMQ_PUB_PORT" if options.bind else "; is tickcast running?"
        sys.exit(f"nobody subscribed within {options.wait:g} s {where}")
    socket.recv()

    sent, rounds = 0, 0
    while options.rounds == 0 or rounds < options.rounds:
        rounds += 1
        for form in options.form or FORMS:
            for _, found in cases:
                items = [item for tick in found for item in messages(tick, time.time_ns() // 1_000_000)]
                send(socket, form, items)
                sent += len(items)
                time.sleep(options.interval)
    socket.close()
    zmq.Context.instance().term()
    print(f"sent {sent} ticks of {len(cases)} packets")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
