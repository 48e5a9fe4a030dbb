"""A pyzmq publisher, driven line by line on stdin; a PUB socket as OpenAlgo's adapters make it. Ends when stdin does."""

import argparse
import json
import sys

import msgpack
import zmq

arguments = argparse.ArgumentParser()
side = arguments.add_mutually_exclusive_group(required=True)
side.add_argument("--bind")
side.add_argument("--connect")
arguments.add_argument("--heartbeat", type=int, default=0, help="HEARTBEAT_IVL in ms")
options = arguments.parse_args()

socket = zmq.Context.instance().socket(zmq.PUB)
socket.setsockopt(zmq.LINGER, 1000)
socket.setsockopt(zmq.SNDHWM, 1000)
if options.heartbeat:
    socket.setsockopt(zmq.HEARTBEAT_IVL, options.heartbeat)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10 * options.heartbeat)
if options.bind:
    socket.bind(options.bind)
else:
    socket.connect(options.connect)
endpoint = socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")
print(json.dumps({"event": "ready", "endpoint": endpoint}), flush=True)

for line in sys.stdin:
    command = json.loads(line)
    form = command.get("form", "json")
    if form == "json":
        socket.send_multipart([command["topic"].encode(), json.dumps(command["data"]).encode()])
    elif form == "msgpack":
        socket.send_multipart([command["topic"].encode(), msgpack.packb(command["data"])])
    elif form == "batch":
        socket.send_multipart([b"BATCH", msgpack.packb(command["items"])])
    else:
        raise SystemExit(f"unknown form {form}")
socket.close()
zmq.Context.instance().term()
