#!/usr/bin/env python3
"""Every panel's value, from a real Prometheus, without Grafana.

Starts Prometheus with dashboards/prometheus.yml against running servers, lets it scrape for a while, asks it what each panel
of dashboards/grafana/*.json asks, prints the answers as a table, and ends Prometheus again.

Needs `prometheus` on PATH, or named by the variable PROMETHEUS. Python's own library does the rest.
"""

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DASHBOARDS = ROOT / "dashboards"
# Where scripts/test.sh puts it when the machine has none.
UNPACKED = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "e2e-prometheus/usr/bin"
TARGET = '["127.0.0.1:9464"]'
START_SECONDS = 20
LISTENING = re.compile(r'msg="Listening on".*address=(\S+)')
# The longest window that a recorded rate looks back; a run that is shorter sees too little of it.
WINDOW_SECONDS = 60


def fail(message):
    sys.exit(f"dashboards: {message}")


def find_prometheus():
    named = os.environ.get("PROMETHEUS")
    found = shutil.which(named or "prometheus") or shutil.which("prometheus", path=UNPACKED)
    return found or fail(
        "there is no prometheus; apt-get install prometheus, or name it in the variable PROMETHEUS"
    )


def adapted_config(targets, interval):
    """Our own file, with the servers to scrape, whole paths, and one interval for all."""
    text = (DASHBOARDS / "prometheus.yml").read_text()
    rules = f"  - {DASHBOARDS}/rules/"
    for old, new in [(TARGET, json.dumps(targets)), ("  - rules/", rules)]:
        if old not in text:
            fail(f"prometheus.yml has no {old!r}: this script must follow its change")
        text = text.replace(old, new)
    return re.sub(r"_interval: \w+", f"_interval: {interval}s", text)


class Prometheus:
    """A Prometheus on a port of the kernel's choice, with its data in a folder that goes with it."""

    def __init__(self, targets, interval):
        self.folder = tempfile.TemporaryDirectory(prefix="dashboards-")
        config = Path(self.folder.name) / "prometheus.yml"
        config.write_text(adapted_config(targets, interval))
        command = [find_prometheus(), f"--config.file={config}", f"--storage.tsdb.path={self.folder.name}/data"]
        self.process = subprocess.Popen(
            [*command, "--web.listen-address=127.0.0.1:0"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.log, self.address, self.listens = [], None, threading.Event()
        threading.Thread(target=self.read_log, daemon=True).start()
        self.listens.wait(START_SECONDS)
        if not self.address:
            self.end()
            fail("prometheus did not start:\n" + "".join(self.log))

    def read_log(self):
        for line in self.process.stderr:
            self.log.append(line)
            if found := LISTENING.search(line):
                self.address = found[1]
                self.listens.set()
        self.listens.set()

    def query(self, expression):
        """All (labels, value) that an expression gives now."""
        url = f"http://{self.address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(url, timeout=START_SECONDS) as answer:
                    result = json.load(answer)["data"]["result"]
                return [(series["metric"], float(series["value"][1])) for series in result]
            except urllib.error.HTTPError as error:
                # 503 until its storage is ready.
                if error.code != 503 or time.monotonic() > deadline:
                    fail(f"{expression}: {error.read().decode()}")
                time.sleep(0.1)

    def await_scrape(self, servers):
        """It takes Prometheus some 5 s to take up its first targets."""
        deadline = time.monotonic() + START_SECONDS
        while len(self.query("up == 1")) < servers:
            if time.monotonic() > deadline:
                fail(f"prometheus has not scraped all servers: {self.query('up')}")
            time.sleep(0.1)

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


def panels():
    for file in sorted(DASHBOARDS.glob("grafana/*.json"), key=lambda file: (file.stem != "overview", file.stem)):
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield board["title"], panel


def expression(target, window):
    text = target["expr"]
    for name, value in {"$__rate_interval": f"{window}s", "$job": ".*", "$instance": ".*"}.items():
        text = text.replace(name, value)
    if "$" in text:
        fail(f"a variable this script does not know: {text}")
    return text


def scaled(value, units, step):
    n = 0
    while abs(value) >= step and n < len(units) - 1:
        value, n = value / step, n + 1
    return f"{value:.3g} {units[n]}".rstrip() if abs(value) < 1000 else f"{value:.0f} {units[n]}".rstrip()


def seconds(value):
    return scaled(value * 1e9, ["ns", "µs", "ms"], 1000) if 0 < abs(value) < 1 else f"{value:.3g} s"


def show(value, panel):
    """As Grafana would: mapped words first, then the unit."""
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults.get("unit", "short")
    if panel["type"] == "heatmap":
        unit = "short"
    for mapping in defaults.get("mappings", []):
        if word := mapping["options"].get(f"{value:g}"):
            return word["text"]
    if math.isnan(value):
        return "no samples"
    if math.isinf(value):
        return "infinite"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return seconds(value)
    if unit in ("bytes", "Bps"):
        return scaled(value, ["B", "KiB", "MiB", "GiB"], 1024) + ("/s" if unit == "Bps" else "")
    rate = "/s" if unit in ("cps", "ops", "mps") else ""
    return scaled(value, ["", "k", "M", "G"], 1000).replace(" ", "") + rate


def legend(labels, target):
    form = target.get("legendFormat", "__auto")
    if form == "__auto":
        return ", ".join(value for name, value in labels.items() if name != "__name__")
    return re.sub(r"{{\s*(\w+)\s*}}", lambda name: labels.get(name[1], ""), form).strip()


def fullest(series, unit):
    """What can be said of a heatmap in a line: cumulative counts by upper edge."""
    edges = sorted((float(labels["le"]), count) for labels, count in series)
    counts = [(edge, count - below) for (edge, count), below in zip(edges, [0, *(count for _, count in edges)])]
    total = sum(count for _, count in counts)
    edge, most = max(counts, key=lambda bucket: bucket[1])
    upto = seconds(edge) if unit == "s" else f"{edge:g}"
    return f"{total:.0f} samples, most ({most:.0f}) up to {upto}" if total else "no samples"


def answer(prometheus, panel, window):
    """One line for a panel, and whether each of its queries gave at least one number."""
    shown, complete = [], True
    for target in panel["targets"]:
        series = prometheus.query(expression(target, window))
        complete &= any(math.isfinite(value) for _, value in series)
        if panel["type"] == "heatmap":
            shown += [fullest(series, panel["options"]["yAxis"].get("unit"))] if series else []
            continue
        table = panel["type"] == "table"
        told = [(labels, value) for labels, value in series if table or len(series) == 1 or value > 0 or value < 0]
        for labels, value in sorted(told, key=lambda item: -item[1]):
            name = legend(labels, target)
            shown.append(name if table else f"{name}: {show(value, panel)}".removeprefix(": "))
        for what, count in [("at 0", zeros(series)), ("without samples", len(series) - len(told) - zeros(series))]:
            if count > 0 and len(told) < len(series):
                shown.append(f"{count} {what}")
    return " · ".join(shown) or panel["fieldConfig"]["defaults"].get("noValue", "no data"), complete


def zeros(series):
    return sum(value == 0 for _, value in series)


def check_servers(targets):
    for target in targets:
        try:
            urllib.request.urlopen(f"http://{target}/metrics", timeout=5).close()
        except OSError as error:
            fail(f"no metrics at http://{target}/metrics ({error}); is tickcast running, and is this its admin address?")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("servers", nargs="*", default=["127.0.0.1:9464"], help="admin addresses, HOST:PORT (%(default)s)")
    parser.add_argument("--seconds", type=int, default=WINDOW_SECONDS, help="how long to scrape before asking (%(default)s)")
    parser.add_argument("--interval", type=int, default=1, help="seconds between scrapes (%(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit 1 if any query has no value")
    parser.add_argument("--keep", action="store_true", help="leave Prometheus running until Ctrl-C, to look around")
    options = parser.parse_args()
    check_servers(options.servers)
    # Whoever ends this program ends its Prometheus too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    prometheus = Prometheus(options.servers, options.interval)
    try:
        prometheus.await_scrape(len(options.servers))
        print(f"scraping {', '.join(options.servers)} for {options.seconds} s", file=sys.stderr)
        time.sleep(options.seconds)
        window = max(min(options.seconds, WINDOW_SECONDS), 4 * options.interval)
        rows = [(title, panel, *answer(prometheus, panel, window)) for title, panel in panels()]
        width = max(len(panel["title"]) for _, panel, *_ in rows)
        board = None
        for title, panel, text, _ in rows:
            if title != board:
                print(f"\n{title}\n")
                board = title
            print(f"  {panel['title']:{width}}  {text}")
        missing = [f"{title} / {panel['title']}" for title, panel, _, complete in rows if not complete]
        print(f"\n{len(rows)} panels, {len(missing)} of them without a value for some query")
        if options.seconds < WINDOW_SECONDS:
            print(f"Some rates look {WINDOW_SECONDS} s back and are too low after {options.seconds} s.")
        if options.keep:
            print(f"Prometheus runs at http://{prometheus.address} until Ctrl-C", flush=True)
            threading.Event().wait()
        if options.strict and missing:
            fail("no value: " + "; ".join(missing))
    except KeyboardInterrupt:
        pass
    finally:
        prometheus.end()


if __name__ == "__main__":
    main()
