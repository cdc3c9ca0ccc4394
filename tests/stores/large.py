"""Files that go in parts, a run that wakes late in the middle of one, and a store behind a certificate of one's own (SeaweedFS)."""

import re
import signal
import time

import servers
from buckets import STORAGE, ended
from program import Hirelake, Sandbox, check, equal, local_files, same, section

# Of this many the one file has more than one part, which is of 8 MiB.
OPPORTUNITIES = 50_000
TABLES = ["opportunities", "opportunities_deleted"]
ONE_FILE = '[partitions]\nopportunities = "none"\n'
IN_PARTS = ONE_FILE + "[store.lake]\nmultipart_above_mib = 5\n"
FILE = "lever/opportunities/tenant=acme/data.parquet"


def uploads(weed, bucket):
    return [u["Key"] for u in weed.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def large(binary, folder, stage):
    section("a large file goes in parts, and who wakes late in the middle of one changes nothing (SeaweedFS)")
    sandbox = Sandbox(binary, {"acme": OPPORTUNITIES})
    weed = stage.weed
    try:
        plain = Hirelake(binary, folder / "plain", sandbox, resources=TABLES, sync=ONE_FILE)
        plain.connect("acme")
        plain.synced("an undisturbed sync")
        url = weed.make("large")
        proxy = stage.proxy("large-proxy", weed.url, "storms.py")
        env = weed.env(endpoint=proxy.url)
        h = Hirelake(binary, folder / "world", sandbox, lake=f"{url}/lake", state=f"{url}/state", env=env, resources=TABLES, sync=IN_PARTS)
        h.connect("acme")
        h.synced("a first load in parts")
        same("a first load in parts", weed.lake(h.lake), local_files(plain.lake))

        def tag():
            return weed.client().head_object(Bucket="large", Key=f"lake/{FILE}")

        check("it has several parts", re.search(r"-[2-9]\"?$", tag()["ETag"]), tag()["ETag"])
        check("it says who wrote it", re.fullmatch(r"[0-9a-f-]{36}/\d+/[0-9a-f-]{36}", tag()["Metadata"].get("hirelakewriter", "")), tag()["Metadata"])
        equal("no upload is left", (uploads(weed, "large"), weed.listing("large", "state/uploads/")), ([], []))

        sandbox.change("acme", 1)
        plain.synced("the changes, undisturbed")
        # Long enough to be met in the middle.
        proxy.tell(delay_parts_ms=5000)
        late = h.start("sync")
        end = time.monotonic() + 120
        while not weed.listing("large", "state/uploads/") and time.monotonic() < end and late.poll() is None:
            time.sleep(0.05)
        late.send_signal(signal.SIGSTOP)
        try:
            proxy.tell()
            equal("one upload is under way", (len(uploads(weed, "large")), len(weed.listing("large", "state/uploads/"))), (1, 1))
            began = time.monotonic()
            ended("another run", h.sync(), {5}, "is busy")
            check("another run is told at once", time.monotonic() - began < 30, time.monotonic() - began)
            h.synced("another run that waits", "--wait", "5m")
            same("another run that waits", weed.lake(h.lake), local_files(plain.lake))
            equal("the upload of who sleeps was ended", (uploads(weed, "large"), weed.listing("large", "state/uploads/")), ([], []))
            written = tag()["Metadata"]["hirelakewriter"]
        finally:
            late.send_signal(signal.SIGCONT)
        code = late.wait(240)
        text = late.log.read_text()
        h.search(text)
        check(f"who woke late: exit code {code}", code in (3, 5, STORAGE), text[-1500:])
        check("who woke late: says a hint", "hint:" in text, text[-1500:])
        equal("who woke late wrote nothing", tag()["Metadata"]["hirelakewriter"], written)
        h.synced("the next run")
        same("the next run", weed.lake(h.lake), local_files(plain.lake))
        ended("the next run: verify", h.run("verify", "acme"), {0})
    finally:
        sandbox.end()


def certificate(binary, folder, stage):
    section("a store behind a certificate of one's own (Caddy before SeaweedFS)")
    sandbox = Sandbox(binary, {"acme": 20})
    weed = stage.weed
    try:
        url = weed.make("tls")
        caddy = stage.add("caddy", servers.Caddy(folder / "caddy", weed.port))
        plain = Hirelake(binary, folder / "plain", sandbox)
        plain.connect("acme")
        plain.synced("an undisturbed sync")
        env = weed.env(endpoint=caddy.url)
        env.pop("AWS_ALLOW_HTTP")
        trusting = f"[store]\nca_file = \"{caddy.authority}\"\n"
        h = Hirelake(binary, folder / "world", sandbox, lake=f"{url}/lake", state=f"{url}/state", env=env, sync=trusting)
        h.connect("acme")
        h.synced("with ca_file")
        same("with ca_file", weed.lake(h.lake), local_files(plain.lake))
        h.config.write_text(h.config.read_text().replace(trusting, ""))
        began = time.monotonic()
        ended("without ca_file", h.sync(), {STORAGE}, "certificate", "ca_file")
        check("without ca_file: said within two minutes", time.monotonic() - began < 120, time.monotonic() - began)
    finally:
        sandbox.end()
