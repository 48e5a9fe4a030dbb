"""A publisher that registers itself where tickcast finds it ([discovery]): in a SQLite file or in Redis.

    python examples/register_publisher.py INFY --file publishers.db
    python examples/register_publisher.py INFY --redis redis://127.0.0.1:6379/0

It binds a PUB socket, on the next free port if its own is taken, registers what it got, renews that every second, and takes
it out when it ends. Killed, it is forgotten after four seconds. Without --file or --redis it does not register: then its
port must be free, since nobody would find another. To copy from: File, Redis, bind and the thread at the end.
"""

import argparse
import json
import os
import signal
import sqlite3
import sys
import threading
import time

import zmq

BEAT, LEASE = 1.0, 4.0  # seconds; tickcast refuses leases above 5


class File:
    def __init__(self, path):
        self.path = path
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # who can write it can publish prices

    def write(self, sql, *values):
        db = sqlite3.connect(self.path, timeout=1, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE IF NOT EXISTS publishers (endpoint TEXT PRIMARY KEY, broker TEXT, user TEXT, pid INTEGER, expires_at INTEGER NOT NULL)")
            return db.execute(sql, values).fetchall()
        finally:
            db.close()

    def holder(self, endpoint):
        found = self.write("SELECT broker, user FROM publishers WHERE endpoint = ? AND expires_at > ?", endpoint, int((time.time() - 10) * 1000))
        return found[0] if found else None

    def renew(self, endpoint, broker, user):
        sql = "INSERT INTO publishers VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (endpoint) DO UPDATE SET broker = ?2, user = ?3, pid = ?4, expires_at = ?5"
        self.write(sql, endpoint, broker, user, os.getpid(), int((time.time() + LEASE) * 1000))

    def leave(self, endpoint):
        self.write("DELETE FROM publishers WHERE endpoint = ? AND pid = ?", endpoint, os.getpid())


class Redis:
    def __init__(self, url):
        import redis

        self.db = redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)

    def holder(self, endpoint):
        value = self.db.get(f"tickcast:publisher:{endpoint}")
        if value:
            return json.loads(value)["broker"], json.loads(value)["user"]
        # Just run out: whose it was is not known any more.
        return None if self.db.zscore("tickcast:publishers", endpoint) is None else ("?", "?")

    def renew(self, endpoint, broker, user):
        value = json.dumps({"broker": broker, "user": user, "pid": os.getpid()})
        step = self.db.pipeline(transaction=True)
        step.set(f"tickcast:publisher:{endpoint}", value, px=int(LEASE * 1000))
        step.zadd("tickcast:publishers", {endpoint: int(time.time() * 1000)}, nx=True).execute()

    def leave(self, endpoint):
        step = self.db.pipeline(transaction=True)
        step.delete(f"tickcast:publisher:{endpoint}").zrem("tickcast:publishers", endpoint).execute()


def bind(socket, host, port, registry, whose):
    """Binds the port, or the next one that is neither in use nor still leased to another, and gives the endpoint."""
    for tried in range(port, port + (200 if registry and port else 1)):
        holder = registry and registry.holder(f"tcp://{host}:{tried}")
        if holder and holder[1] != whose[1] or holder and holder[1] and holder[0] != whose[0]:
            continue  # tickcast may still be connected there for that user
        try:
            socket.bind(f"tcp://{host}:{tried}")
            return socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
    if registry:
        raise SystemExit(f"no free port from {port}")
    raise SystemExit(f"port {port} is in use and this publisher does not register: name another with --port, or register with --file or --redis")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("symbol")
    arguments.add_argument("--port", type=int, default=5601)
    arguments.add_argument("--file")
    arguments.add_argument("--redis")
    arguments.add_argument("--broker")
    arguments.add_argument("--user", help="the only user who receives these ticks; needs --broker")
    options = arguments.parse_args()
    registry = File(options.file) if options.file else Redis(options.redis) if options.redis else None
    socket = zmq.Context.instance().socket(zmq.PUB)
    endpoint = bind(socket, "127.0.0.1", options.port, registry, (options.broker, options.user))
    over = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: over.set())

    registered = threading.Event()

    def keep():
        while not over.is_set():
            try:
                registry.renew(endpoint, options.broker, options.user)
                registered.set()
            except Exception as error:  # locked or down: publishing goes on, and it is tried again
                print(f"cannot register, trying again: {error}", file=sys.stderr, flush=True)
            over.wait(BEAT)
        registry.leave(endpoint)

    if registry:
        keeper = threading.Thread(target=keep)
        keeper.start()
        while not registered.wait(0.1) and not over.is_set():
            pass
    print(f"ready {endpoint}", flush=True)
    price = 0
    while not over.wait(0.02):
        price += 1
        socket.send_multipart([f"NSE_{options.symbol}_LTP".encode(), json.dumps({"ltp": price}).encode()])
    if registry:
        keeper.join()


if __name__ == "__main__":
    main()
