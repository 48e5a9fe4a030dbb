"""A broker adapter of OpenAlgo's shape, with its base class: what the bridge hosts in tests. Tells what it does on stdout."""

import json
import threading
import time


class BaseAdapter:
    """As OpenAlgo's base adapter: subclasses call publish_market_data."""

    def __init__(self):
        self.connected = False

    def publish_market_data(self, topic, data):
        raise AssertionError("the bridge takes its place")


class FakeWebSocketAdapter(BaseAdapter):
    """Each subscribed instrument ticks every 20 ms, counting from 1; symbols that begin with BAD are refused."""

    def __init__(self):
        super().__init__()
        self.held = {}
        self.lock = threading.Lock()

    def tell(self, event, **more):
        print(json.dumps({"event": event, **more}), flush=True)

    def told_held(self):
        self.tell("held", held=sorted(f"{symbol}/{mode}" for symbol, _, mode in self.held))

    def initialize(self, broker, user, auth_data=None):
        self.tell("initialize", broker=broker, user=user)
        return {"status": "success"}

    def connect(self):
        self.connected = True
        threading.Thread(target=self.tick, daemon=True).start()
        self.tell("connect")

    def disconnect(self):
        self.connected = False
        self.tell("disconnect")

    def subscribe(self, symbol, exchange, mode=2, depth_level=5):
        if symbol.startswith("BAD"):
            return {"status": "error", "code": "SYMBOL_NOT_FOUND", "message": f"{symbol} is not traded"}
        with self.lock:
            self.held[symbol, exchange, mode] = 0
            self.told_held()
        return {"status": "success", "symbol": symbol, "exchange": exchange, "mode": mode, "actual_depth": 5}

    def unsubscribe(self, symbol, exchange, mode=2):
        with self.lock:
            self.held.pop((symbol, exchange, mode), None)
            self.told_held()
        return {"success": True}

    def tick(self):
        while self.connected:
            with self.lock:
                for symbol, exchange, mode in self.held:
                    self.held[symbol, exchange, mode] += 1
                    topic = f"{exchange}_{symbol}_{['LTP', 'QUOTE', 'DEPTH'][mode - 1]}"
                    price = self.held[symbol, exchange, mode] + 0.25
                    self.publish_market_data(topic, {"symbol": symbol, "exchange": exchange, "mode": mode, "ltp": price})
            time.sleep(0.02)
