"""Many SIGKILLs at random moments, on a store whose provider fails one call in twenty: `torture.py HIRELAKE FOLDER [KILLS [SEED]]`.

Lake and state lie on SeaweedFS. Runs are killed in first loads, in increments and while they refresh (every run needs new
tokens). The provider answers 503, resets connections, and does its work without an answer. A run is killed with its process
group of one; the lease that it leaves is let go by the test as the term would let it go (three minutes of silence each would
make this a matter of days): a released entry is written behind it, as its owner would have.

In the end each lake equals one that was never disturbed, but for `_synced_at`, and no grant is lost, except where the provider
used up a refresh token whose successor never arrived: those are counted, and each must be marked in the state.
"""

import json
import pathlib
import random
import secrets
import sys
import time
import uuid

import buckets
import hosts
import program
from program import Hirelake, Sandbox, check, equal, local_files, same, section

RECONNECT = 4
# Of so many calls one fails.
ONE_IN = 20
RESOURCES = ["opportunities", "applications", "contacts", "users", "postings", "opportunities_deleted", "notes"]


class Torture:
    def __init__(self, binary, folder, stage, seed):
        self.dice, self.folder, self.binary, self.weed = random.Random(seed), folder, binary, stage.weed
        self.bucket = f"torture-{seed}"[:60]
        self.url = self.weed.make(self.bucket)
        # One account that stays as it is, for first loads; one that changes. Small, for each failure costs a pause.
        self.sandbox = Sandbox(binary, {"still": 14, "lively": 14}, "--latency-ms=10")
        self.kills = self.done = self.syncs = self.lost = self.marked = self.reconnected = self.unexplained = 0
        self.by_kind = {"first load": 0, "increment": 0, "refresh": 0}

    def faults(self):
        """At least one call in twenty goes wrong, each in its way, as if by chance (what a killed run no longer sees is made up for)."""
        self.sandbox.do("clear_faults")
        kinds = [("status", {"code": 503}), ("reset", {}), ("reply_lost", {})]
        self.dice.shuffle(kinds)
        for kind, action in kinds:
            self.sandbox.fault("GET /v1/", "sometimes", times=0, percent=3, action={"kind": kind, **action})
        # The token endpoint is asked once a run.
        self.token_fault = None
        if self.dice.random() < 1 / ONE_IN:
            self.token_fault = self.dice.choice(["status", "reset", "reply_lost"])
            self.sandbox.fault("POST /oauth/token", self.token_fault, times=1, **({"code": 503} if self.token_fault == "status" else {}))

    def generation(self, h, tenant):
        """Which set of tokens the state holds."""
        prefix = f"{h.state.removeprefix('s3://' + self.bucket + '/')}/grants/{tenant}/"
        newest = min(o["Key"] for o in self.weed.listing(self.bucket, prefix))
        return json.loads(self.weed.client().get_object(Bucket=self.bucket, Key=newest)["Body"].read())["body"]["generation"]

    def let_go(self, h, tenant):
        """Writes what a dead owner did not: that the tenant is free. Only when nobody runs."""
        client = self.weed.client()
        prefix = f"{h.state.removeprefix('s3://' + self.bucket + '/')}/leases/{tenant}/"
        listed = sorted(o["Key"] for o in self.weed.listing(self.bucket, prefix))
        if not listed:
            return
        entry = json.loads(client.get_object(Bucket=self.bucket, Key=listed[0])["Body"].read())
        if entry["body"]["released"]:
            return
        entry["n"] += 1
        entry["nonce"] = str(uuid.uuid4())
        entry["body"]["released"] = True
        key = f"{prefix}{hosts.LAST - entry['n']:015}.json"
        client.put_object(Bucket=self.bucket, Key=key, Body=json.dumps(entry).encode(), IfNoneMatch="*")

    def world(self, name):
        return Hirelake(self.binary, self.folder / name, self.sandbox, resources=RESOURCES, lake=f"{self.url}/{name}/lake", state=f"{self.url}/{name}/state", env=self.weed.env())

    def connect(self, h, tenant):
        self.sandbox.do("clear_faults")
        h.connect(tenant, grant=True, force=True)
        self.reconnected += 1

    def token_answers(self):
        """Requests to the token endpoint that the provider has carried out, as far as it can be told."""
        return self.sandbox.stats()["token_requests"]

    def run(self, h, tenant, kind, kill):
        """One run with new tokens; killed after `kill` seconds, or to its end. Gives its exit code, `None` when it was killed."""
        self.sandbox.do("expire_access_tokens", account=tenant)
        self.faults()
        before, asked = self.generation(h, tenant), self.token_answers()
        process = h.start("sync", "--tenant", tenant, log="last.log")
        if kill is not None:
            if kind == "refresh":
                # While the answer to its refresh is under way.
                end = time.monotonic() + 20
                while self.token_answers() == asked and process.poll() is None and time.monotonic() < end:
                    time.sleep(0.002)
                time.sleep(kill)
            else:
                time.sleep(kill)
            process.kill()
        code = process.wait(300)
        text = process.log.read_text()
        h.search(text)
        self.syncs += 1
        if code < 0:
            self.kills += 1
            self.by_kind[kind] += 1
            self.let_go(h, tenant)
        # A token that was asked for and is not in the state: the provider may have used up the one before it.
        consumed = self.token_answers() > asked and self.generation(h, tenant) == before
        if consumed:
            self.sure = False
        return (None if code < 0 else code), text

    def heal(self, h, tenant, story):
        """Runs until all is well; where the grant is lost, it must be for a reason, and marked."""
        for _ in range(12):
            code, text = self.run(h, tenant, "increment", None)
            if code == 0:
                return True
            if code == RECONNECT:
                self.lost += 1
                marked = h.health(tenant) == "dead"
                self.marked += marked
                # `sure`: whatever was asked of the provider since the last run that ended well is in the state.
                explained = not self.sure or self.token_fault == "reply_lost"
                self.unexplained += not explained
                if not (marked and explained):
                    check(f"{story}: a grant is lost only with its successor, and marked", False, (marked, explained, text[-1500:]))
                self.connect(h, tenant)
                self.sure = True
                continue
            if code not in (3, 8):
                return check(f"{story}: a healing run's exit code {code}", False, text[-1500:])
        return check(f"{story}: well after twelve runs", False, text[-1500:])

    def torture(self, kills):
        plain = Hirelake(self.binary, self.folder / "plain", self.sandbox, resources=RESOURCES)
        for tenant in ("still", "lively"):
            plain.connect(tenant)
            began = time.monotonic()
            plain.synced(f"an undisturbed load of {tenant}")
            took = time.monotonic() - began
        still = {p: b for p, b in local_files(plain.lake).items() if "tenant=still" in p}
        lively = self.world("lively")
        self.connect(lively, "lively")
        self.sure = True
        self.heal(lively, "lively", "the first load of lively")
        n = 0
        while self.kills < kills:
            n += 1
            if n > 4 * kills:
                check("enough runs were killed", False, self.kills)
                break
            if n % 2:
                # A first load, killed again and again, each time a little further on.
                h, self.sure = self.world(f"load-{n}"), True
                self.connect(h, "still")
                for _ in range(min(4, kills - self.kills)):
                    kind = "refresh" if self.dice.random() < 0.25 else "first load"
                    self.run(h, "still", kind, self.dice.uniform(0, 0.05) if kind == "refresh" else self.dice.uniform(0.05, took))
                self.heal(h, "still", f"first load {n}")
                same(f"first load {n}", self.weed.lake(h.lake), still)
                continue
            self.sandbox.do("clear_faults")
            self.sandbox.change("lively", n)
            plain.synced(f"changes {n}, undisturbed", "--tenant", "lively")
            self.sure = True
            for _ in range(min(4, kills - self.kills)):
                kind = "refresh" if self.dice.random() < 0.4 else "increment"
                self.run(lively, "lively", kind, self.dice.uniform(0, 0.05) if kind == "refresh" else self.dice.uniform(0.05, took * 0.7))
            self.heal(lively, "lively", f"changes {n}")
            same(f"changes {n}", self.weed.lake(lively.lake), {p: b for p, b in local_files(plain.lake).items() if "tenant=lively" in p})
        equal("every lost grant is marked", (self.lost, self.unexplained), (self.marked, 0))
        stats = self.sandbox.stats()
        bad = sum(v for k, v in stats["statuses"].items() if k in ("0", "503"))
        calls = sum(stats["statuses"].values())
        check(f"the provider failed {bad} of {calls} calls", bad > calls / ONE_IN * 0.6, stats["statuses"])
        print(f"torture: {self.kills} kills {self.by_kind} in {self.syncs} runs; {bad} of {calls} calls failed by the provider; "
              f"{self.lost} grants lost with a successor that never arrived, {self.marked} marked, {self.unexplained} unexplained", flush=True)


def torture(binary, folder, stage, seed, kills):
    section(f"{kills} SIGKILLs at random moments, seed {seed}")
    t = Torture(binary, folder, stage, seed)
    try:
        t.torture(kills)
    finally:
        t.sandbox.end()


if __name__ == "__main__":
    folder = program.driver.fresh(pathlib.Path(sys.argv[2]).resolve())
    kills = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else secrets.randbelow(10**9)
    stage = buckets.Stage(folder / "servers")
    try:
        torture(str(pathlib.Path(sys.argv[1]).resolve()), folder, stage, seed, kills)
    finally:
        stage.end()
    print(f"{program.passed} passed, {len(program.failed)} failed")
    sys.exit(1 if program.failed else 0)
