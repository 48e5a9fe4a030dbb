"""Angel's own library of ticks, or with --orders that of order updates, unmodified, driven line by line: commands as JSON on stdin, its callbacks as JSON on stdout.

Only its module of that stream is loaded: the package's first one asks the internet for its own address. Ends when stdin does.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import threading

arguments = argparse.ArgumentParser()
arguments.add_argument("--url", required=True)
arguments.add_argument("--jwt", required=True)
arguments.add_argument("--feed-token", required=True)
arguments.add_argument("--orders", action="store_true")
options = arguments.parse_args()

writing = threading.Lock()


def say(**what):
    with writing:
        sys.stdout.write(json.dumps(what, default=str) + "\n")
        sys.stdout.flush()


# It puts its log beside wherever it runs.
os.chdir(tempfile.mkdtemp())
package = importlib.util.find_spec("SmartApi").submodule_search_locations[0]
name = "smartWebSocketOrderUpdate" if options.orders else "smartWebSocketV2"
spec = importlib.util.spec_from_file_location(name, os.path.join(package, name + ".py"))
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

if options.orders:
    stream = module.SmartWebSocketOrderUpdate(options.jwt, "key", "A1", options.feed_token)
    stream.WEBSOCKET_URI = options.url
    stream.MAX_CONNECTION_RETRY_ATTEMPTS = 0
    stream.on_message = lambda app, message: say(event="message", message=message)
    stream.on_error = lambda app, error: say(event="error", text=str(error))
else:
    stream = module.SmartWebSocketV2(options.jwt, "key", "A1", options.feed_token, max_retry_attempt=0)
    stream.ROOT_URI = options.url
    stream.on_data = lambda app, tick: say(event="tick", tick=tick)
    stream.on_error = lambda kind, text: say(event="error", kind=kind, text=text)
    stream.on_close = lambda app: None
stream.on_open = lambda app: say(event="connected")
say(event="ready")
threading.Thread(target=stream.connect, daemon=True).start()
for line in sys.stdin:
    command = json.loads(line)
    getattr(stream, command["op"])(*command["arguments"])
os._exit(0)
