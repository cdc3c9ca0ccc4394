"""Addon of the proxy before fake-gcs-server: a PUT of GCS's XML API becomes a multipart upload of its JSON API.

The fake's media upload ignores `ifGenerationMatch`, its multipart upload honours it. Answers get the headers that GCS sends.
"""

import json
import os
import pathlib
import urllib.parse

FOLDER = pathlib.Path(os.environ["PROXY_FOLDER"])
EDGE = "a-part-ends-here-7f1c"


class Shim:
    def __init__(self):
        self.counted = {"creates": 0, "updates": 0, "overwrites": 0, "refused": 0}

    def request(self, flow):
        asked = flow.request
        path, _, query = asked.path.partition("?")
        if asked.method != "PUT" or query:
            return
        _, bucket, name = path.split("/", 2)
        generation = asked.headers.get("x-goog-if-generation-match")
        kind = "overwrites" if generation is None else "creates" if generation == "0" else "updates"
        self.counted[kind] += 1
        meta = {k.lower().removeprefix("x-goog-meta-"): v for k, v in asked.headers.items() if k.lower().startswith("x-goog-meta-")}
        about = {"name": urllib.parse.unquote(name), "contentType": "application/octet-stream", "metadata": meta}
        body = asked.content
        head = f"--{EDGE}\r\nContent-Type: application/json\r\n\r\n{json.dumps(about)}\r\n--{EDGE}\r\nContent-Type: application/octet-stream\r\n\r\n"
        asked.content = head.encode() + body + f"\r\n--{EDGE}--\r\n".encode()
        asked.method = "POST"
        more = "" if generation is None else f"&ifGenerationMatch={generation}"
        asked.path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart{more}"
        for header in [h for h in asked.headers if h.lower().startswith("x-goog-")]:
            del asked.headers[header]
        asked.headers["content-type"] = f"multipart/related; boundary={EDGE}"
        flow.metadata["put"] = True

    def response(self, flow):
        if not flow.metadata.get("put"):
            return
        if flow.response.status_code == 200:
            made = json.loads(flow.response.content)
            flow.response.headers["etag"] = f'"{made["etag"].strip(chr(34))}"'
            flow.response.headers["x-goog-generation"] = str(made["generation"])
            flow.response.content = b""
        elif flow.response.status_code == 412:
            self.counted["refused"] += 1
        new = FOLDER / "counted.new"
        new.write_text(json.dumps(self.counted))
        new.rename(FOLDER / "counted.json")


addons = [Shim()]
