"""Runs an unmodified OpenAlgo broker adapter class beside tickcast: calls come over the control channel, ticks go as BATCH.

    python examples/openalgo_bridge.py --path /opt/openalgo --broker angel --user asha \
        --adapter broker.angel.streaming.angel_adapter:AngelWebSocketAdapter
"""

import argparse
import contextlib
import functools
import importlib
import os
import queue
import sys
import threading
import time

import msgpack
import zmq

ITEMS, BYTES, DELAY = 100, 64 * 1024, 0.002  # one BATCH is sent at whichever comes first
BEAT, SILENCE = 2.0, 6.0
QUEUE = 100_000  # ticks that may wait; the oldest go first
log = functools.partial(print, file=sys.stderr, flush=True)


class Publisher(threading.Thread):
    """BATCH frames with a real timer: the last tick before a pause waits 2 ms, not for the next one."""

    def __init__(self, bind):
        super().__init__(daemon=True)
        self.socket = zmq.Context.instance().socket(zmq.PUB)
        self.socket.setsockopt(zmq.SNDHWM, 10_000)
        self.socket.bind(bind)
        self.endpoint = self.socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")
        self.waiting = queue.Queue(QUEUE)

    def publish(self, topic, data):
        """In place of the base adapter's publish_market_data; any thread may call it."""
        item = msgpack.packb([topic, data], default=str)
        while True:
            with contextlib.suppress(queue.Full):
                return self.waiting.put_nowait(item)
            with contextlib.suppress(queue.Empty):
                self.waiting.get_nowait()

    def run(self):
        while True:
            items, due = [self.waiting.get()], time.monotonic() + DELAY
            size = len(items[0])
            while len(items) < ITEMS and size < BYTES and (left := due - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    items.append(self.waiting.get(timeout=left))
                    size += len(items[-1])
            head = msgpack.Packer().pack_array_header(len(items))
            self.socket.send_multipart([b"BATCH", head + b"".join(items)])


class Worker(threading.Thread):
    """Makes the adapter's calls one after the other, so that a slow broker delays no heartbeat."""

    def __init__(self, make, broker, user):
        super().__init__(daemon=True)
        self.make, self.broker, self.user = make, broker, user
        self.jobs, self.results = queue.Queue(), queue.Queue()
        self.adapter, self.held = None, set()

    def log_in(self):
        if self.adapter is None:
            adapter = self.make()
            for step in (lambda: adapter.initialize(self.broker, self.user), adapter.connect):
                ok, message, _ = outcome(step())
                if not ok:
                    raise RuntimeError(message)
            self.adapter = adapter
            log("logged in to", self.broker)

    def log_out(self):
        adapter, self.adapter, self.held = self.adapter, None, set()
        if adapter is not None:
            adapter.disconnect()
            log("logged out of", self.broker)

    def clear(self):
        for key in self.held:
            self.adapter.unsubscribe(*key)
        self.held = set()

    def do(self, call):
        op = call["op"]
        if op in ("unsubscribe_all", "disconnect"):
            return self.clear() if op == "unsubscribe_all" else self.log_out()
        self.log_in()
        key = (call.get("symbol"), call.get("exchange"), call.get("mode"))
        if op == "subscribe":
            answer = self.adapter.subscribe(*key, call["depth"])
            if outcome(answer)[0]:
                self.held.add(key)
            return answer
        if key not in self.held:  # or a login
            return None
        answer = self.adapter.unsubscribe(*key)
        if outcome(answer)[0]:
            self.held.remove(key)
        return answer

    def run(self):
        while True:
            call = self.jobs.get()
            try:
                ok, message, depth = outcome(self.do(call))
            except Exception as error:  # whatever a broker's code raises is an answer too
                ok, message, depth = False, f"{type(error).__name__}: {error}", None
            if not ok:
                log(call["op"], "failed:", message)
            if "id" in call:
                status, more = "success" if ok else "error", {"actual_depth": depth} if depth else {}
                self.results.put({"session": call["session"], "id": call["id"], "status": status, "message": message, **more})


def outcome(answer):
    """Both result dialects of OpenAlgo's adapters, and None, which is a success: (ok, message, depth)."""
    answer = answer or {}
    ok = answer.get("status", "success") == "success" and answer.get("success", True) is not False
    return ok, str(answer.get("message") or answer.get("error") or ""), answer.get("actual_depth")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--adapter", required=True, help="module:Class")
    options.add_argument("--path", default=".", help="where that module is")
    options.add_argument("--broker", required=True)
    options.add_argument("--user", required=True, help="whose login the adapter uses")
    options.add_argument("--shared", action="store_true", help="serve all users of the broker")
    options.add_argument("--control", default="tcp://127.0.0.1:5655")
    options.add_argument("--bind", default="tcp://127.0.0.1:*", help="where ticks are published")
    options.add_argument("--capacity", type=int, default=0, help="instruments the adapter can hold")
    options = options.parse_args()
    sys.path.insert(0, options.path)
    publisher = Publisher(options.bind)

    def make():
        module, name = options.adapter.split(":")
        adapter = getattr(importlib.import_module(module), name)()
        adapter.publish_market_data = publisher.publish
        return adapter

    worker = Worker(make, options.broker, options.user)
    for thread in (publisher, worker):
        thread.start()
    dealer = zmq.Context.instance().socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.IMMEDIATE, 1)  # nothing waits for a server that is not there: it would be stale
    dealer.connect(options.control)
    hello = {"broker": options.broker, "user": None if options.shared else options.user, "modes": [1, 2, 3], "capacity": options.capacity,
             "publishes": [publisher.endpoint], "secret": os.environ.get("TICKCAST_ADAPTERS_SECRET")}
    session, connected, wanted = None, True, True
    heard = beaten = -SILENCE

    def say(op, **more):
        with contextlib.suppress(zmq.Again):
            return dealer.send(msgpack.packb({"v": 1, "op": op, **more}), zmq.NOBLOCK) is None

    log("publishing on", publisher.endpoint)
    while True:
        now = time.monotonic()
        if now - beaten >= BEAT and (session is not None or now - heard >= SILENCE):
            silent = now - heard >= SILENCE
            beaten = now if (say("hello", **hello) if silent else say("heartbeat", session=session)) else beaten
        while not worker.results.empty():
            say("result", **worker.results.get())
        if session is not None and connected != bool(getattr(worker.adapter, "connected", True)):
            connected = not connected
            say("status", session=session, connected=connected)
        if not dealer.poll(10):
            continue
        call, heard = msgpack.unpackb(dealer.recv()), time.monotonic()
        op = call.get("op")
        if op == "hello_required":
            wanted = True
            say("hello", **hello)
        elif op == "welcome":
            session, connected = call["session"], True
            if wanted:  # after a logout for want of clients, only when somebody comes
                worker.jobs.put({"op": "login"})
        elif op == "disconnect":
            log("told to disconnect:", call.get("reason"))
            session, wanted = None, False
            if call.get("reason") == "replaced":
                return worker.log_out()
            worker.jobs.put({"op": "disconnect"})
        elif op in ("subscribe", "unsubscribe", "unsubscribe_all") and call.get("session") == session:
            worker.jobs.put(call)


if __name__ == "__main__":
    main()
