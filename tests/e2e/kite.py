"""Zerodha's own ticker library, unmodified, driven line by line: commands as JSON on stdin, its callbacks as JSON on stdout.

Ends when stdin does.
"""

import argparse
import json
import os
import sys
import threading

from kiteconnect import KiteTicker
from twisted.internet import reactor

arguments = argparse.ArgumentParser()
arguments.add_argument("--url", required=True)
arguments.add_argument("--key", required=True)
arguments.add_argument("--token", required=True)
options = arguments.parse_args()

writing = threading.Lock()


def say(**what):
    with writing:
        sys.stdout.write(json.dumps(what, default=str) + "\n")
        sys.stdout.flush()


ticker = KiteTicker(options.key, options.token, root=options.url, reconnect=False)
ticker.on_connect = lambda ws, response: say(event="connected")
ticker.on_ticks = lambda ws, ticks: say(event="ticks", ticks=ticks)
ticker.on_order_update = lambda ws, order: say(event="order", order=order)
ticker.on_error = lambda ws, code, reason: say(event="error", code=code, reason=str(reason))
ticker.on_close = lambda ws, code, reason: say(event="closed", code=code, reason=str(reason))
say(event="ready")
ticker.connect(threaded=True)
for line in sys.stdin:
    command = json.loads(line)
    call = getattr(ticker, command["op"])
    reactor.callFromThread(call, *command["arguments"])
# Twisted's thread is not a daemon of ours to join.
os._exit(0)
