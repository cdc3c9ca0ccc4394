"""Addon of the proxy before a store: answers lost after the store has acted, storms of errors, latency.

What is to happen stands in script.json, which is read anew whenever it changes:
  lose      every n-th PUT is carried out and its answer dropped; `conditional` of them only with If-Match or If-None-Match
  fail      every n-th request is answered `status` without reaching the store
  blind     If-Match is taken out of every request: the store replaces whatever is there
  delay_ms  every request waits so long; `delay_parts_ms` those with a part of a large file
What happened stands in counted.json.
"""

import asyncio
import json
import os
import pathlib

FOLDER = pathlib.Path(os.environ["PROXY_FOLDER"])


class Storms:
    def __init__(self):
        self.script, self.stamp = {}, None
        self.counted = {"requests": 0, "puts": 0, "lost": 0, "lost_creates": 0, "lost_updates": 0, "failed": 0}

    def read(self):
        stamp = (FOLDER / "script.json").stat().st_mtime_ns
        if stamp != self.stamp:
            self.script, self.stamp = json.loads((FOLDER / "script.json").read_text()), stamp

    def write(self):
        new = FOLDER / "counted.new"
        new.write_text(json.dumps(self.counted))
        new.rename(FOLDER / "counted.json")

    async def request(self, flow):
        self.read()
        self.counted["requests"] += 1
        delay = self.script.get("delay_parts_ms" if "partNumber=" in flow.request.path else "delay_ms")
        if delay:
            await asyncio.sleep(delay / 1000)
        if self.script.get("blind"):
            flow.request.headers.pop("if-match", None)
        nth = self.script.get("fail")
        if nth and self.counted["requests"] % nth == 0:
            from mitmproxy import http

            self.counted["failed"] += 1
            code = self.script.get("status", 503)
            name = "SlowDown" if code == 503 else "InternalError"
            body = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>again, please</Message></Error>"
            flow.response = http.Response.make(code, body, {"content-type": "application/xml"})
            flow.metadata["ours"] = True
        self.write()

    def response(self, flow):
        if flow.request.method != "PUT" or flow.metadata.get("ours"):
            return
        create, update = "if-none-match" in flow.request.headers, "if-match" in flow.request.headers
        if self.script.get("conditional") and not (create or update):
            return
        self.counted["puts"] += 1
        nth = self.script.get("lose")
        # Only of what the store has done is it a loss that the answer does not come.
        if nth and self.counted["puts"] % nth == 0 and flow.response.status_code < 300:
            self.counted["lost"] += 1
            self.counted["lost_creates"] += create
            self.counted["lost_updates"] += update
            flow.kill()
        self.write()


addons = [Storms()]
