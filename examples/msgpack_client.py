#!/usr/bin/env python3
"""Shows live ticks from tickcast over MessagePack: names, decimal prices, how many ticks were merged, latency.

    pip install websocket-client msgpack
    cargo run --release
    python examples/msgpack_client.py NSE:RELIANCE NSE_INDEX:NIFTY --mode 2

MessagePack clients offer the WebSocket subprotocol tickcast.v1.msgpack. They send the JSON protocol's objects, packed or
as JSON text; the server sends binary frames, each an array: [0, map] is a reply, [1, t_send, ticks] live ticks, [2, t_send,
ticks] snapshots, anything else is for later clients. A tick is [id, mode, seq, t_exch, t_recv, …fields]; trailing nils may
be missing. docs/PROTOCOL.md has the whole of it.
"""

import argparse
import sys
import time
from decimal import Decimal

try:
    import msgpack
    import websocket
except ImportError as missing:
    sys.exit(f"{missing}; install what is needed with: pip install websocket-client msgpack")

SUBPROTOCOL = "tickcast.v1.msgpack"
QUOTE = "ltp volume open high low close last_quantity average_price total_buy_quantity total_sell_quantity oi".split()
FIELDS = {1: ["ltp", "low", "high"], 2: QUOTE, 3: QUOTE + ["bids", "asks"]}
PRICES = {"ltp", "open", "high", "low", "close", "average_price"}


def request(ws, message):
    """Sends one request and gives its reply; this program asks one thing at a time, before any tick can come."""
    ws.send_binary(msgpack.packb(message))
    kind, reply, *_ = msgpack.unpackb(ws.recv())
    if kind != 0 or reply.get("status") == "error":
        sys.exit(f"{message['action']}: {reply}")
    return reply


def show(name, value, scale):
    """One field. A price is an integer: 81230 with scale 2 is 812.30, with no binary fraction on the way."""
    if name in ("bids", "asks"):
        return ",".join(f"{show('ltp', price, scale)}x{quantity}" for price, quantity, _orders in value)
    return f"{Decimal(value).scaleb(-scale):f}" if name in PRICES and value is not None else str(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("symbols", nargs="+", metavar="EXCHANGE:SYMBOL")
    parser.add_argument("--mode", type=int, choices=FIELDS, default=1, help="1 LTP, 2 Quote, 3 Depth")
    parser.add_argument("--url", default="ws://127.0.0.1:8765")
    parser.add_argument("--key", default="demo-key")
    options = parser.parse_args()
    ws = websocket.create_connection(options.url, subprotocols=[SUBPROTOCOL])
    if ws.getsubprotocol() != SUBPROTOCOL:
        sys.exit(f"{options.url} does not speak {SUBPROTOCOL}")
    request(ws, {"action": "authenticate", "api_key": options.key})
    wanted = [dict(zip(("exchange", "symbol"), name.split(":", 1))) for name in options.symbols]
    entries = request(ws, {"action": "subscribe", "mode": options.mode, "symbols": wanted})["subscriptions"]
    known = {e["id"]: (f"{e['exchange']}:{e['symbol']}", e["scale"]) for e in entries if "id" in e}
    print(f"subscribed {len(known)} of {len(wanted)}", *(e["message"] for e in entries if "id" not in e), flush=True)
    last = {}
    while known:
        kind, *rest = msgpack.unpackb(ws.recv())  # which also answers the server's pings
        for iid, mode, seq, _t_exch, t_recv, *values in rest[1] if kind in (1, 2) else []:
            (name, scale), merged = known[iid], seq - last.get(iid, seq - 1) - 1
            last[iid] = seq
            words = [f"{key}={show(key, value, scale)}" for key, value in zip(FIELDS[mode], values) if value is not None]
            age = "snapshot" if kind == 2 else f"latency={(time.time_ns() // 1000 - t_recv) / 1000:.2f}ms"
            print(name, *words, f"seq={seq}", f"merged={merged}", age, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, OSError, websocket.WebSocketException) as end:
        sys.exit(str(end) or None)
