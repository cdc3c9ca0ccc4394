"""GCS, as far as it can be shown without Google: fake-gcs-server behind a shim (gcs_shim.py).

What this shows: that `gs://` URLs, an endpoint of one's own and the client's requests for reading, listing and deleting work
against a server that somebody else wrote; that create-only and replacement by generation are asked for in the way GCS documents
(`x-goog-if-generation-match`, 0 for "only where there is none"), since the shim hands over nothing else; that what a lost race
answers (412) is understood; and that lakes come out right.

What it does not show: GCS itself. The fake knows no PUT of the XML API, so the shim turns each into an upload of the JSON API;
that real GCS takes the PUT is the word of its documentation and of object_store's own tests. Nor does it show signatures
(none are made), uploads in parts (the fake has none in the XML API), service accounts, or how GCS orders its listings.
"""

import http.client
import json
import urllib.parse

import servers
from buckets import ended
from program import Hirelake, Sandbox, check, equal, local_files, same, section


def ask(server, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def lake(server, bucket, prefix):
    found, token = {}, ""
    while True:
        query = urllib.parse.urlencode({"prefix": f"{prefix}/lever/", **({"pageToken": token} if token else {})})
        page = json.loads(ask(server, "GET", f"/storage/v1/b/{bucket}/o?{query}")[1])
        for item in page.get("items", []):
            name = urllib.parse.quote(item["name"], safe="")
            if item["name"].endswith(".parquet"):
                found[item["name"].removeprefix(f"{prefix}/")] = ask(server, "GET", f"/download/storage/v1/b/{bucket}/o/{name}?alt=media")[1]
        token = page.get("nextPageToken")
        if not token:
            return found


def gcs(binary, folder, stage):
    section("gs:// against a fake behind a shim (see gcs.py for what this shows)")
    sandbox = Sandbox(binary, {"acme": 25})
    try:
        outside = servers.driver.free_port()
        fake = stage.add("gcs", servers.FakeGcs(folder / "fake", f"http://127.0.0.1:{outside}"))
        proxy = stage.proxy("gcs-shim", fake.url, "gcs_shim.py", outside)
        equal("a bucket is made", ask(fake, "POST", "/storage/v1/b", json.dumps({"name": "lake"}))[0], 200)
        plain = Hirelake(binary, folder / "plain", sandbox)
        plain.connect("acme")
        plain.synced("an undisturbed sync")
        # The client's own way of talking to a fake: without it every PUT asks Google for a token first.
        account = folder / "account.json"
        account.write_text(json.dumps({"gcs_base_url": proxy.url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}))
        env = {"GOOGLE_BASE_URL": proxy.url, "GOOGLE_SERVICE_ACCOUNT": str(account), "GOOGLE_ALLOW_HTTP": "true"}
        h = Hirelake(binary, folder / "world", sandbox, lake="gs://lake/l", state="gs://lake/s", env=env)
        h.connect("acme")
        ended("the probe, by check", h.run("check"), {0}, "one winner of a race", "not a stale one")
        h.synced("a first load")
        same("a first load", lake(fake, "lake", "l"), local_files(plain.lake))
        sandbox.change("acme", 3)
        plain.synced("the changes, undisturbed")
        h.synced("changes")
        same("changes", lake(fake, "lake", "l"), local_files(plain.lake))
        counted = proxy.counted()
        check(f"all were conditional, by generation: {counted}", counted["creates"] > 50 and counted["updates"] > 5 and counted["refused"] > 0, counted)
    finally:
        sandbox.end()
