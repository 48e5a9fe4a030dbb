"""The unmodified OpenAlgo SDK, driven line by line: commands as JSON on stdin, results and callbacks as JSON on stdout.

Without --wheel the installed `openalgo` is used as its users use it. With --wheel DIR the feed module comes from the
wheel unpacked there: only `openalgo.feed` and what it imports itself, since the package's own __init__ wants more
libraries and a newer Python. Ends when stdin does.
"""

import argparse
import json
import sys
import threading
import types

arguments = argparse.ArgumentParser()
arguments.add_argument("--wheel")
arguments.add_argument("--url", required=True)
arguments.add_argument("--key", required=True)
options = arguments.parse_args()

if options.wheel:
    package = types.ModuleType("openalgo")
    package.__path__ = [options.wheel + "/openalgo"]
    sys.modules["openalgo"] = package
    from openalgo.feed import FeedAPI

    client = FeedAPI(api_key=options.key, ws_url=options.url)
else:
    from openalgo import api

    client = api(api_key=options.key, ws_url=options.url)

writing = threading.Lock()


def say(**what):
    with writing:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


def callback(name):
    return lambda message: say(event=name, message=message)


MODES = {1: "ltp", 2: "quote", 3: "depth"}
say(event="ready", source=sys.modules["openalgo.feed"].__file__)
for line in sys.stdin:
    command = json.loads(line)
    op = command["op"]
    if op == "connect":
        result = client.connect()
    elif op == "disconnect":
        result = client.disconnect()
    elif op == "subscribe":
        name = MODES[command["mode"]]
        result = getattr(client, f"subscribe_{name}")(command["instruments"], on_data_received=callback(name))
    elif op == "unsubscribe":
        result = getattr(client, f"unsubscribe_{MODES[command['mode']]}")(command["instruments"])
    elif op == "subscribe_orders":
        result = client.subscribe_orders(on_order_update=callback("order"))
    elif op == "state":
        result = {"connected": client.connected, "authenticated": client.authenticated}
    else:
        raise SystemExit(f"unknown op {op}")
    say(event="done", op=op, result=result)
