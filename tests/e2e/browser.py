"""Debian's Chromium, driven line by line on stdin. Ends when stdin does.

A command is one JSON object with an `op`; each is answered by one event, `done` with a `result` or `failed` with a `message`.
"""

import argparse
import json
import os
import shutil
import sys
import time

from playwright.sync_api import Error, sync_playwright

arguments = argparse.ArgumentParser()
arguments.add_argument("--pictures", required=True, help="folder for screenshots")
options = arguments.parse_args()

# How often a condition is looked at, seconds.
LOOK = 0.05


def tell(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


class Browser:
    def __init__(self, chromium):
        self.chromium = chromium
        self.page = None

    def open(self, url, width=1280, height=900, scheme="light", motion="no-preference"):
        """A page with nothing kept from any other; everything it asks for and complains about is noticed."""
        context = self.chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion=motion
        )
        self.page = page = context.new_page()
        self.asked, self.complaints = [], []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.on("console", lambda line: line.type in ("error", "warning") and self.complaints.append(line.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        answer = page.goto(url)
        return {"status": answer.status, "headers": answer.headers}

    def evaluate(self, js):
        return self.page.evaluate(js)

    def wait(self, js, seconds):
        """The first value of `js` that counts as true."""
        deadline = time.monotonic() + seconds
        while not (value := self.page.evaluate(js)):
            if time.monotonic() > deadline:
                raise Error(f"never: {js}")
            self.page.wait_for_timeout(1000 * LOOK)
        return value

    def press(self, key):
        self.page.keyboard.press(key)

    def type(self, text):
        self.page.keyboard.type(text)

    def click(self, at):
        self.page.click(at)

    def fill(self, at, text):
        self.page.fill(at, text)

    def reload(self):
        self.page.reload()

    def picture(self, name, until=None):
        """Of the whole page, or down to the end of an element."""
        path = os.path.join(options.pictures, name)
        clip = None
        if until:
            box = self.page.locator(until).bounding_box()
            clip = {"x": 0, "y": 0, "width": self.page.viewport_size["width"], "height": box["y"] + box["height"] + 16}
        self.page.screenshot(path=path, full_page=True, clip=clip)
        return path

    def noticed(self):
        return {"asked": self.asked, "complaints": self.complaints}


program = os.environ.get("E2E_CHROMIUM") or shutil.which("chromium")
if not program:
    sys.exit("no chromium: run scripts/test.sh, which installs it, or set E2E_CHROMIUM")
with sync_playwright() as playwright:
    # Chromium's sandbox does not work as root, which test machines often are; the only page it sees is ours.
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    browser = Browser(playwright.chromium.launch(executable_path=program, args=sandbox))
    tell("ready", version=browser.chromium.version)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            tell("done", result=getattr(browser, command.pop("op"))(**command))
        except Error as error:
            tell("failed", message=str(error))
    browser.chromium.close()
