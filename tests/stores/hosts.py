"""Two hosts on one tenant: one works, the others say that it is busy, and whoever wakes late leaves nothing behind.

A host is a UTS namespace with a name of its own; its clock may be an hour off (faketime). What happened is read from the store:
the lease's entries (a line of numbered objects, each says its owner), and every version of every file of the lake, which says
in its metadata under which entry of the lease it was written.
"""

import json
import random
import re
import signal
import time

from program import Hirelake, Sandbox, check, equal, local_files, same, section

BUSY, DONE = 5, 0
LAST = 999_999_999_999_999
# What a lease lasts without a beat.
TERM_S = 180


def host(name, clock=None):
    """What a command is wrapped in to run there."""
    off = ["faketime", "-f", clock] if clock else []
    return ["unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "on-host", *off]


def leases(server, bucket, state):
    """The entries of the tenant's lease in their order: number, owner, host, whether it was let go, the store's time."""
    client, found = server.client(), []
    for listed in server.listing(bucket, f"{state}/leases/acme/"):
        entry = json.loads(client.get_object(Bucket=bucket, Key=listed["Key"])["Body"].read())
        number = LAST - int(listed["Key"].rpartition("/")[2].removesuffix(".json"))
        if number != entry["n"]:
            check("a lease's entry has the number of its name", False, (number, entry["n"]))
        body = entry["body"]
        found.append((entry["n"], body["owner"], body["host"].split("/")[0], body["released"], listed["LastModified"]))
    return sorted(found)


def versions(server, bucket, lake):
    """Every version of every file of the lake, oldest first: key, time, run, number of the hold, whether it is the newest."""
    client, found = server.client(), []
    pages = client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=f"{lake}/lever/")
    for page in pages:
        listed = page.get("Versions", [])
        for i, v in enumerate(listed):
            head = client.head_object(Bucket=bucket, Key=v["Key"], VersionId=v["VersionId"])
            run, fence, _ = head["Metadata"]["hirelakewriter"].split("/")
            # Newest first, in each listing of a key.
            found.append((v["Key"], v["LastModified"], run, int(fence), v["IsLatest"], -i))
    return sorted(found, key=lambda v: (v[0], v[1], v[5]))


def one_at_a_time(story, entries, files, taken_over=()):
    """From the store alone: holds follow each other, and each file's versions were written under holds in their order."""
    owner, free, holds = None, True, {}
    for n, who, where, released, _ in entries:
        if who != owner:
            if not free and owner not in taken_over:
                check(f"{story}: a hold is taken only when the one before was let go", False, (n, owner, who))
            if who in holds:
                check(f"{story}: nobody holds it twice", False, (n, who))
            holds[who] = n
        owner, free = who, released
    check(f"{story}: {len(holds)} holds one after another, by their {len(entries)} entries", len(holds) > 1, entries)
    unknown = [(k, run, fence) for k, _, run, fence, _, _ in files if holds.get(run) != fence]
    equal(f"{story}: every version was written under the hold of its run", unknown[:3], [])
    of_key = {}
    for key, _, _, fence, _, _ in files:
        of_key.setdefault(key, []).append(fence)
    wrong = {k: f for k, f in of_key.items() if f != sorted(f)}
    equal(f"{story}: versions of each file in the order of the holds", dict(list(wrong.items())[:2]), {})
    # In the store's own time (seconds): between the first entry of a hold and the first entry of the next.
    begins = {n: at for n, who, _, _, at in entries if holds[who] == n}
    order = sorted(begins)
    outside = []
    for key, at, _, fence, _, _ in files:
        following = next((begins[n] for n in order if n > fence), None)
        if (begins[fence] - at).total_seconds() > 1 or (following and (at - following).total_seconds() > 1):
            outside.append((key, at, fence))
    equal(f"{story}: every version was written while its run held the tenant, by the store's clock", outside[:3], [])
    return holds


def crowd(binary, folder, stage, seed, runs=50):
    section(f"{runs} runs of two hosts on one tenant (SeaweedFS), seed {seed}")
    dice = random.Random(seed)
    sandbox = Sandbox(binary, {"acme": 40})
    weed = stage.weed
    try:
        url = weed.make("crowd", versioned=True)
        h = Hirelake(binary, folder / "crowd", sandbox, lake=f"{url}/lake", state=f"{url}/state", env=weed.env())
        h.connect("acme")
        hosts = [host("alpha", "+10m"), host("omega", "-10m")]
        started = []
        for i in range(runs):
            # In bunches, and the account changes all the while, so that many of them find something to write.
            if i % 5 == 0:
                sandbox.do("edit", account="acme", n=4, seed=i)
                sandbox.do("add", account="acme", n=1)
                time.sleep(dice.uniform(0.5, 2.0))
            started.append(h.start("sync", wrap=hosts[i % 2], log=f"run-{i:02}.log"))
        codes = [p.wait(300) for p in started]
        texts = [p.log.read_text() for p in started]
        for text in texts:
            h.search(text)
        counts = {c: codes.count(c) for c in sorted(set(codes))}
        odd = next((t for c, t in zip(codes, texts) if c not in (DONE, BUSY)), "")
        check(f"exit codes are only done and busy: {counts}", set(counts) == {DONE, BUSY}, odd[-1500:])
        told = [t for c, t in zip(codes, texts) if c == BUSY]
        check("who is busy says who holds the tenant, and where", all("is busy: run " in t and re.search(r"alpha|omega|written by another run", t) for t in told), told[:1])
        time.sleep(2.2)
        # Whoever waits gets its turn.
        waiting = [h.start("sync", "--wait", "2m", wrap=hosts[i % 2], log=f"waits-{i}.log") for i in range(4)]
        equal("runs that wait for their turn all work", [p.wait(300) for p in waiting], [DONE] * 4)
        # How many of the crowd found the tenant free, and something new, is the machine's matter. These four find both.
        turns = []
        for i in range(4):
            sandbox.do("edit", account="acme", n=4, seed=runs + i)
            # What changed just now is left to the next run.
            time.sleep(2.2)
            turns.append(h.start("sync", "--wait", "2m", wrap=hosts[i % 2], log=f"turn-{i}.log").wait(300))
        equal("runs of the two hosts in turn all work", turns, [DONE] * 4)
        plain = Hirelake(binary, folder / "plain", sandbox)
        plain.connect("acme")
        plain.synced("an undisturbed load of what the account has now")
        h.synced("one more run")
        same("after all of them", weed.lake(h.lake), local_files(plain.lake))
        entries, files = leases(weed, "crowd", "state"), versions(weed, "crowd", "lake")
        holds = one_at_a_time("the crowd", entries, files)
        writers = {run for _, _, run, _, _, _ in files}
        check(f"several of them wrote ({len(writers)} runs, {len(files)} versions), from both hosts", len(writers) > 2 and {"alpha", "omega"} <= {e[2] for e in entries if e[1] in holds}, writers)
    finally:
        sandbox.end()


def hour_apart(binary, folder, stage):
    """Clocks an hour apart, on a store that checks no signatures: those of S3 allow a quarter of an hour."""
    section("two hosts whose clocks are two hours apart (MiniStack)")
    sandbox = Sandbox(binary, {"acme": 25})
    mini = stage.mini
    try:
        plain = Hirelake(binary, folder / "plain", sandbox)
        plain.connect("acme")
        plain.synced("an undisturbed sync")
        url = mini.make("hour")
        h = Hirelake(binary, folder / "hour", sandbox, lake=f"{url}/lake", state=f"{url}/state", env=mini.env())
        h.connect("acme")
        early, late = host("early", "-1h"), host("late", "+1h")
        processes = [h.start("sync", wrap=wrap, log=f"hour-{i}.log") for i, wrap in enumerate([early, late] * 3)]
        codes = [p.wait(200) for p in processes]
        check(f"one works and the others are told: {sorted(codes)}", set(codes) <= {DONE, BUSY} and DONE in codes, [p.log.read_text()[-800:] for p in processes])
        same("a first load by one of them", mini.lake(h.lake), local_files(plain.lake))
        for i in range(3):
            sandbox.change("acme", 40 + i)
            plain.synced(f"changes {i}, undisturbed")
            # A host that is behind reads up to what it takes for now, and no further; what it leaves out, the next one reads.
            for who, wrap in [("behind", early), ("ahead", late)] if i != 1 else [("ahead", late)]:
                done = h.sync(wrap=wrap)
                equal(f"changes {i}, by the host that is {who}", (done.returncode, done.stderr[-800:] if done.returncode else ""), (0, ""))
            same(f"changes {i}, after both", mini.lake(h.lake), local_files(plain.lake))
        h.synced("by a host whose clock is right")
        same("by a host whose clock is right", mini.lake(h.lake), local_files(plain.lake))
        sandbox.change("acme", 50)
        plain.synced("more changes, undisturbed")
        h.synced("more changes, by a host whose clock is right")
        same("more changes, by a host whose clock is right", mini.lake(h.lake), local_files(plain.lake))
    finally:
        sandbox.end()


def stopped(binary, folder, stage):
    """A run that is stopped (SIGSTOP) for longer than its term, while it is at work; another takes over; the first goes on."""
    section("a run that sleeps through its term (SeaweedFS)")
    sandbox = Sandbox(binary, {"acme": 60}, "--latency-ms=60")
    weed = stage.weed
    sleeper = None
    try:
        plain = Hirelake(binary, folder / "plain", sandbox)
        plain.connect("acme")
        plain.synced("an undisturbed sync")
        expected = local_files(plain.lake)
        url = weed.make("stopped", versioned=True)
        h = Hirelake(binary, folder / "world", sandbox, lake=f"{url}/lake", state=f"{url}/state", env=weed.env())
        h.connect("acme")
        # The wrapper execs it, so a signal reaches the program itself.
        sleeper = h.start("sync", wrap=host("sleeper"), log="sleeper.log")
        end = time.monotonic() + 60
        while len(weed.listing("stopped", "lake/lever/")) < 3 and time.monotonic() < end and sleeper.poll() is None:
            time.sleep(0.05)
        sleeper.send_signal(signal.SIGSTOP)
        slept = time.monotonic()
        check("it was stopped at work", sleeper.poll() is None and len(weed.listing("stopped", "lake/lever/")) >= 3)
        done = h.sync(wrap=host("other"))
        equal("meanwhile the tenant is busy", done.returncode, BUSY)
        check("and it is said for how long", "ends by itself" in done.stderr and "sleeper" in done.stderr, done.stderr[-800:])
        done = h.sync("--wait", "4m", wrap=host("other"), timeout=400)
        waited = time.monotonic() - slept
        equal(f"another takes over ({waited:.0f} s after)", (done.returncode, done.stderr[-1500:] if done.returncode else ""), (0, ""))
        check("not before the term was over", waited > TERM_S - 10, waited)
        same("what the other made", weed.lake(h.lake), expected)
        newest = {k: (run, at) for k, at, run, _, latest, _ in versions(weed, "stopped", "lake") if latest}
        commits = {o["Key"]: o["ETag"] for o in weed.listing("stopped", "state/commits/")}
        sleeper.send_signal(signal.SIGCONT)
        code = sleeper.wait(120)
        text = sleeper.log.read_text()
        h.search(text)
        check(f"the first ends as one that lost its hold: {code}", code in (BUSY, 3, 7) and ("hold on tenant acme was lost" in text or "another run" in text), text[-1500:])
        after = {k: (run, at) for k, at, run, _, latest, _ in versions(weed, "stopped", "lake") if latest}
        equal("nothing that it wrote late is the newest of its file", {k: v for k, v in after.items() if newest.get(k) != v}, {})
        equal("nor does it commit anything", {o["Key"]: o["ETag"] for o in weed.listing("stopped", "state/commits/")}, commits)
        h.synced("the next run")
        same("the next run", weed.lake(h.lake), expected)
        entries = leases(weed, "stopped", "state")
        owners = [e[1] for e in entries if e[2] == "sleeper"]
        one_at_a_time("the sleeper and the other", entries, versions(weed, "stopped", "lake"), taken_over=set(owners))
    finally:
        if sleeper and sleeper.poll() is None:
            sleeper.kill()
        sandbox.end()
