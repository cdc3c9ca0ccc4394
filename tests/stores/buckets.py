"""Lake and state on object stores: who may do what, stores that must be refused, answers lost, storms, a store that dies.

Every sync here ends well or with a code that says what; the next one makes the lake equal to one that was never disturbed.
"""

import os
import pathlib
import random
import re
import subprocess
import time

import servers
from program import Hirelake, Sandbox, check, equal, local_files, same, section

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORAGE, PARTIAL, BUSY = 7, 3, 5


class Stage:
    """The servers that the parts share: each is started when it is first asked for."""

    def __init__(self, folder):
        self.folder, self.started = folder, {}

    def __getattr__(self, name):
        kinds = {"weed": servers.SeaweedFS, "mini": servers.MiniStack, "azurite": servers.Azurite,
                 "localbucket": servers.LocalBucket, "s3rver": servers.S3rver}
        if name not in kinds:
            raise AttributeError(name)
        if name not in self.started:
            self.started[name] = kinds[name](self.folder / name)
        return self.started[name]

    def proxy(self, name, *args, **more):
        self.started[name] = servers.Proxy(self.folder / name, *args, **more)
        return self.started[name]

    def add(self, name, server):
        self.started[name] = server
        return server

    def end(self):
        for server in reversed(self.started.values()):
            server.end()


def whole(binary, folder, sandbox):
    """An undisturbed lake in a folder, to compare with."""
    h = Hirelake(binary, folder / "whole", sandbox)
    h.connect("acme")
    h.synced("an undisturbed sync")
    return h


def ended(story, done, codes, *words):
    """The run ended so, and said all of that."""
    check(f"{story}: exit code", done.returncode in codes, (done.returncode, done.stderr[-1500:]))
    for word in words:
        check(f"{story}: says {word!r}", word in done.stdout + done.stderr, done.stderr[-1500:])


def conformance(binary, folder, stage):
    section("a first load and changes on every store that must work")
    sandbox = Sandbox(binary, {"acme": 60})
    try:
        plain = whole(binary, folder, sandbox)
        worlds = {}
        for name in ("weed", "mini", "azurite"):
            server = getattr(stage, name)
            url = server.make("conformance")
            worlds[name] = h = Hirelake(binary, folder / name, sandbox, lake=f"{url}/lake", state=f"{url}/state", env=server.env())
            h.connect("acme")
            h.synced(f"{name}: a first load")
            same(f"{name}: a first load", server.lake(h.lake), local_files(plain.lake))
        sandbox.change("acme", 5)
        plain.synced("the changes, undisturbed")
        for name, h in worlds.items():
            h.synced(f"{name}: changes")
            same(f"{name}: changes", getattr(stage, name).lake(h.lake), local_files(plain.lake))
            again = h.synced(f"{name}: nothing new")
            equal(f"{name}: nothing new: files rewritten", again.get("partitions_rewritten"), 0)
            ended(f"{name}: verify", h.run("verify", "acme"), {0})
            ended(f"{name}: check", h.run("check"), {0})
    finally:
        sandbox.end()


def identities(binary, folder, stage):
    section("who may do what (SeaweedFS)")
    sandbox = Sandbox(binary, {"acme": 20})
    weed = stage.weed
    try:
        plain = whole(binary, folder, sandbox)
        url = weed.make("identities")
        reading = weed.env(weed.reader, weed.reader_secret)

        def world(name, **places):
            h = Hirelake(binary, folder / name, sandbox, env=weed.env(weed.runner, weed.runner_secret), **places)
            h.connect("acme")
            return h

        for name, places in {
            "the lake": {"lake": f"{url}/a/lake"},
            "the state": {"state": f"{url}/b/state"},
            "lake and state": {"lake": f"{url}/c/lake", "state": f"{url}/c/state"},
        }.items():
            h = world(name.replace(" ", "-"), **places)
            done = h.sync(env=reading)
            what = places["state"] if "state" in places else places["lake"]
            ended(f"{name} may only be read", done, {STORAGE}, "may not write there", "403", what, "docs/storage.md")
            # Who may only read sees everything all the same.
            ended(f"{name} may only be read: status", h.run("status", env=reading), {0}, "acme")
            said = h.run("check", env=reading)
            ended(f"{name} may only be read: check", said, {STORAGE}, "may not write there")
            h.synced(f"{name} may be written")
            found = weed.lake(h.lake) if "://" in h.lake else local_files(h.lake)
            same(f"{name} may be written", found, local_files(plain.lake))
            if name == "the lake":
                # It takes the tenant's lease, so the state must be writable.
                ended(f"{name} may only be read, after a load: verify", h.run("verify", "acme", env=reading), {0})

        h = world("refused", lake=f"{url}/d/lake", state=f"{url}/d/state")
        for story, env, words in [
            ("a wrong secret", {"AWS_SECRET_ACCESS_KEY": "canary-of-nobody"}, ["does not accept these credentials"]),
            ("an unknown key", {"AWS_ACCESS_KEY_ID": "nobody"}, ["does not accept these credentials"]),
            ("a bucket that is not there", {"HIRELAKE_STATE": "s3://no-such-bucket/x"}, ["make the bucket first"]),
            ("a bucket of the lake that is not there", {"HIRELAKE_LAKE": "s3://no-such-bucket/x"}, ["make the bucket first"]),
            ("nobody listens", {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{servers.driver.free_port()}"}, ["cannot be reached", "check the endpoint"]),
        ]:
            began = time.monotonic()
            done = h.sync(env=env)
            took = time.monotonic() - began
            ended(story, done, {STORAGE}, *words)
            check(f"{story}: said within a minute", took < 60, f"{took:.0f} s")
            check(f"{story}: no secret", "canary-of-nobody" not in done.stdout + done.stderr)
        bare = {k: v for k, v in h.env.items() if not k.startswith("AWS_") or k in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ALLOW_HTTP")}
        # Where the tests run there may be something at the address at which a machine asks for its role.
        bare["AWS_EC2_METADATA_DISABLED"] = "true"
        began = time.monotonic()
        done = subprocess.run(h.command("sync"), env=bare, cwd=h.folder, capture_output=True, text=True, timeout=120)
        took = time.monotonic() - began
        check("no credentials at all: exit code", done.returncode in (2, STORAGE), (done.returncode, done.stderr))
        check("no credentials at all: says where they were looked for", "no credentials for" in done.stderr and "AWS_ACCESS_KEY_ID" in done.stderr, done.stderr)
        check("no credentials at all: said within seconds", took < 10, f"{took:.1f} s")
        for story, url in [("a misspelt scheme", "s4://x/y"), ("a secret in the URL", "s3://key:canary-in-url@bucket/x")]:
            done = h.sync(env={"HIRELAKE_LAKE": url})
            check(f"{story}: refused, with a hint", done.returncode in (2, STORAGE) and "hint:" in done.stderr and "canary-in-url" not in done.stderr, done.stderr)
        h.synced("and with all of it right")
    finally:
        sandbox.end()


def imitations(binary, folder, stage):
    section("stores that must be refused")
    sandbox = Sandbox(binary, {"acme": 20})
    try:
        for name, why in [("s3rver", "it ignores that an object may be created only where there is none"), ("localbucket", "it ignores that an object may be replaced only")]:
            server = getattr(stage, name)
            url = server.make("imitation")
            h = Hirelake(binary, folder / f"{name}-lake", sandbox, env=server.env())
            h.connect("acme")
            there = {"HIRELAKE_LAKE": f"{url}/lake"}
            ended(f"{name} as a lake", h.sync(env=there), {STORAGE}, "cannot be relied on", why, "use another store")
            ended(f"{name} as a lake: check", h.run("check", env=there), {STORAGE}, "cannot be relied on", why)
            # A state that may not be relied on gets no grant, either.
            other = Hirelake(binary, folder / f"{name}-state", sandbox, state=f"{url}/state", env=server.env())
            try:
                other.connect("acme")
                check(f"{name} as a state: connect is refused", False, "it took a grant")
            except SystemExit as error:
                check(f"{name} as a state: connect is refused", "cannot be relied on" in str(error), error)
            ended(f"{name} as a state: check", other.run("check"), {STORAGE}, "cannot be relied on", why)
            # LocalBucket knows no deletion of several objects at once, which the client uses: there the probe's own stay.
            left = [o["Key"] for o in server.listing("imitation") if name == "s3rver" or "/probes/" not in o["Key"]]
            equal(f"{name}: nothing is left there", left, [])

        # What was found of one store is not taken for another of the same URL, nor what was accepted by name once for ever.
        url = stage.weed.make("imitation")
        h = Hirelake(binary, folder / "moved", sandbox, lake=f"{url}/moved", env=stage.weed.env())
        h.connect("acme")
        h.synced("on a store that is fit")
        ended("the same URL at another endpoint", h.sync(env=stage.s3rver.env()), {STORAGE}, "cannot be relied on", "use another store")
        accepting = "[store.lake]\nwithout_conditional_replace = true\n"
        # Without signatures, since the proxy changes what was signed.
        mini, blind = stage.mini, stage.proxy("blind-proxy", stage.mini.url, "storms.py")
        mini.make("imitation")
        blind.tell(blind=True)
        h = Hirelake(binary, folder / "accepted", sandbox, lake=f"{url}/accepted", env=mini.env(endpoint=blind.url), sync=accepting)
        h.connect("acme")
        h.synced("accepted by name")
        h.config.write_text(h.config.read_text().replace(accepting, ""))
        ended("accepted no longer", h.sync(), {STORAGE}, "cannot be relied on", "it ignores that an object may be replaced only")
    finally:
        sandbox.end()


def storms(binary, folder, stage, seed):
    section(f"answers lost, storms, latency (SeaweedFS behind mitmproxy), seed {seed}")
    dice = random.Random(seed)
    sandbox = Sandbox(binary, {"acme": 40})
    weed = stage.weed
    try:
        plain = whole(binary, folder, sandbox)
        url = weed.make("storms", versioned=True)
        proxy = stage.proxy("storm-proxy", weed.url, "storms.py")

        def world(name):
            return Hirelake(binary, folder / name, sandbox, lake=f"{url}/{name}/lake", state=f"{url}/{name}/state", env=weed.env(endpoint=proxy.url))

        expected = local_files(plain.lake)
        before = proxy.counted()
        for nth in (2, 3, 7):
            h = world(f"lost-{nth}")
            h.connect("acme", grant=True)
            proxy.tell(lose=nth, conditional=True)
            h.synced(f"every {nth}. answer to a conditional write lost")
            proxy.tell()
            same(f"every {nth}. answer to a conditional write lost", weed.lake(h.lake), expected)
            equal(f"every {nth}. answer lost: the grant", h.health("acme"), "live")
            again = h.synced(f"every {nth}. answer lost, then nothing new")
            equal(f"every {nth}. answer lost, then nothing new: files rewritten", again.get("partitions_rewritten"), 0)
        worlds = [h]
        sandbox.change("acme", seed)
        plain.synced("the changes, undisturbed")
        expected = local_files(plain.lake)
        proxy.tell(lose=2, conditional=True)
        h.synced("changes with every second answer lost")
        proxy.tell()
        same("changes with every second answer lost", weed.lake(h.lake), expected)
        counted = proxy.counted()
        lost = {k: counted.get(k, 0) - before.get(k, 0) for k in ("lost_creates", "lost_updates")}
        print(f"         lost after the store had acted: {lost}")
        check("answers to creates and to updates were lost", lost["lost_creates"] > 20 and lost["lost_updates"] > 0, lost)

        # Storms. What is refused now and then is asked again; what is refused always ends the run, and soon.
        h = world("stormy")
        h.connect("acme")
        for story, script in [("every 4. request answered 503", {"fail": 4, "status": 503}), ("every 5. request answered 500", {"fail": 5, "status": 500})]:
            proxy.tell(**script)
            h.synced(f"a first load with {story}", "--full") if "500" in story else h.synced(f"a first load with {story}")
            proxy.tell()
        fresh_first = Hirelake(binary, folder / "plain-2", sandbox)
        fresh_first.connect("acme")
        fresh_first.synced("another undisturbed sync")
        same("after storms", weed.lake(h.lake), local_files(fresh_first.lake))
        check("requests were refused", proxy.counted()["failed"] > 20, proxy.counted())
        proxy.tell(fail=1, status=503)
        began = time.monotonic()
        done = h.sync()
        took = time.monotonic() - began
        proxy.tell()
        ended("nothing but 503", done, {STORAGE}, "503", "overloaded")
        check("nothing but 503: said within two minutes", took < 120, f"{took:.0f} s")
        h.synced("after nothing but 503")
        h = world("slow")
        h.connect("acme")
        proxy.tell(delay_ms=40)
        h.synced("40 ms before every answer")
        proxy.tell()
        same("40 ms before every answer", weed.lake(h.lake), local_files(fresh_first.lake))
    finally:
        sandbox.end()


def outage(binary, folder, stage, seed):
    section(f"the store is killed in the middle of a sync (SeaweedFS, kill -9), seed {seed}")
    dice = random.Random(seed)
    sandbox = Sandbox(binary, {"acme": 120}, "--latency-ms=10")
    # Its own, for others use the shared one.
    weed = stage.add("mortal", servers.SeaweedFS(folder / "mortal"))
    try:
        plain = whole(binary, folder, sandbox)
        url = weed.make("outage")
        h = Hirelake(binary, folder / "world", sandbox, lake=f"{url}/lake", state=f"{url}/state", env=weed.env())
        h.connect("acme", grant=True)
        for i in range(1):
            process = h.start("sync")
            # At work for sure, and not done.
            while not weed.listing("outage", "lake/lever/") and process.poll() is None:
                time.sleep(0.05)
            time.sleep(dice.uniform(0.0, 0.5))
            check(f"killed in mid-sync ({i}): it was at work", process.poll() is None)
            weed.kill()
            # It comes back after as long as such a thing takes.
            weed.start()
            code = process.wait(240)
            text = process.log.read_text()
            h.search(text)
            check(f"killed in mid-sync ({i}): exit code {code}", code in (0, STORAGE, PARTIAL), text[-1500:])
            if code:
                check(f"killed in mid-sync ({i}): says a hint", "hint:" in text, text[-1500:])
            wait_for_lease(h, f"killed in mid-sync ({i}), then the next run")
            same(f"killed in mid-sync ({i}), then the next run", weed.lake(h.lake), local_files(plain.lake))
            equal(f"killed in mid-sync ({i}): the grant", h.health("acme"), "live")
    finally:
        sandbox.end()


def wait_for_lease(h, story, most_s=240):
    """The next run, and the ones after it while the dead owner's lease still holds."""
    end = time.monotonic() + most_s
    while True:
        done = h.sync()
        if done.returncode != BUSY or time.monotonic() > end:
            break
        time.sleep(5)
    return equal(f"{story}: exit code", (done.returncode, done.stderr[-1500:] if done.returncode else ""), (0, ""))


# The conformance walk and the enumeration of crashes that the Rust tests have, on these stores.

WALK = ["incremental::", "children::children_come_back_equal", "tombstones::", "crash_recovery::"]


def rust(binary, folder, stage, every=1, stores=("weed", "mini", "azurite")):
    """`every`: of the crashes that there are to enumerate only each so-manieth, to save time (of Azurite's, the slowest, fewer still, and none on the second S3); 1 for all."""
    section("the conformance walk and the enumeration of crashes, unchanged, on every store that must work")
    built = subprocess.run([os.environ.get("CARGO", "cargo"), "test", "--test", "it", "--no-run"], cwd=ROOT, capture_output=True, text=True)
    found = re.search(r"\((target/\S+/it-\w+)\)", built.stderr)
    if not found:
        raise SystemExit(f"the tests were not built: {built.stderr[-2000:]}")
    running = {}
    for name in stores:
        server = getattr(stage, name)
        walk = [w for w in WALK if every == 1 or name != "mini" or not w.startswith("crash")]
        env = {**servers.clean_env(server.env()), "HIRELAKE_TEST_STORE": server.make("walk") + "/it", "HIRELAKE_TEST_EVERY": str(every if every == 1 or name != "azurite" else 4 * every)}
        log = folder / f"{name}.log"
        with log.open("w") as out:
            command = [ROOT / found[1], "--test-threads=2", *walk]
            running[name] = (time.monotonic(), walk, log, subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out))
    for name, (began, walk, log, process) in running.items():
        code = process.wait()
        text = log.read_text()
        told = re.search(r"test result: (\w+)\. (\d+) passed; (\d+) failed", text)
        if check(f"{name}: {told[0] if told else f'ended with {code}, without a word'}", code == 0 and told and int(told[2]) >= len(walk), text[-3000:]):
            print(f"         after {time.monotonic() - began:.0f} s")
