"""Hirelake beside its peers: the same opportunities, from the same server, to Parquet.

usage: run.py HIRELAKE FOLDER [--bare PROGRAM]

Prints a Markdown table and writes it to FOLDER/table.md. PEERS_ROWS is how many opportunities there are (100000). The end
says which thresholds were kept; with PEERS_STRICT=1 a missed one is exit code 1. `make bench-peers` installs the peers.

The server is `hirelake sandbox` on the same machine, without a rate limit, so it shares the processors with whoever is
measured. It made its records before.

This process stays small and imports nothing big: on Linux a child begins with the peak memory of its parent, so none can
show less.
"""

import argparse
import base64
import datetime
import http.client
import json
import math
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
from measure import Failed, driver, environment, measure, megabytes, peak_bytes

INSTALLED = HERE.parents[1] / "target/peers"
ROWS = int(os.environ.get("PEERS_ROWS", "100000"))
PAGE = 100
RECORD_BYTES = 2000
# How many times the rows a second of each Hirelake must reach.
THRESHOLDS = {"dlt": 25, "tap": 25, "script": 5}


def python(venv):
    return str(INSTALLED / venv / "bin/python")


def version(venv, package):
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python(venv), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


# The server.


class Sandbox(driver.Sandbox):
    def __init__(self, binary, rows, log):
        with log.open("wb") as err:
            super().__init__(binary, {"acme": rows}, "--warm", f"--record-bytes={RECORD_BYTES}", log=err)
        self.key = self.api_key("acme")

    def look(self):
        """How many records there are, how many have an `updatedAt`, when the oldest was, bytes in all."""
        headers = {"authorization": "Basic " + base64.b64encode(f"{self.key}:".encode()).decode()}
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=600)
        found, dated, oldest, size, path = 0, 0, math.inf, 0, f"/v1/opportunities?limit={PAGE}"
        while path:
            connection.request("GET", path, headers=headers)
            text = connection.getresponse().read()
            page = json.loads(text)
            times = [row["updatedAt"] for row in page["data"] if row["updatedAt"] is not None]
            found, dated, oldest, size = found + len(page["data"]), dated + len(times), min([oldest, *times]), size + len(text)
            token = page.get("next")
            path = token and f"/v1/opportunities?limit={PAGE}&offset={urllib.parse.quote(token, safe='')}"
        connection.close()
        return found, dated, oldest, size


class Contest:
    def __init__(self, sandbox, folder):
        self.sandbox, self.folder, self.results, self.failed = sandbox, folder, [], []

    def enter(self, name, title, expected, run, lake):
        """`run(folder, key_file)` gives the pipeline and its environment; `lake` says which files hold what it wrote: the
        table of opportunities and all, or None for who writes nothing."""
        folder = driver.fresh(self.folder / f"{name}-{len(self.results)}")
        print(f"-- {title}", file=sys.stderr, flush=True)
        key_file = driver.private(folder / "key", self.sandbox.key)
        try:
            commands, env = run(folder, key_file)
            self.sandbox.do("reset_stats")
            result = measure(commands, folder, env)
            stats = self.sandbox.stats()
            result |= {"requests": sum(stats["requests"].values()), "refused": stats["statuses"].get("429", 0)}
            result |= self.read_back(folder, expected, result["requests"], *(lake or (None, None)))
        except Failed as why:
            self.failed.append(f"{title}: {why}")
            print(f"FAILED {self.failed[-1]}", file=sys.stderr, flush=True)
            return
        finally:
            # Keys do not outlive their run.
            for path in [key_file, folder / "config.json", folder / "client.secret", folder / "vault.key"]:
                path.unlink(missing_ok=True)
        self.results.append({"name": name, "title": title, "rate": result["rows"] / result["wall"], **result})

    def read_back(self, folder, expected, requests, table, everything):
        if table is None:
            if requests != math.ceil(expected / PAGE):
                raise Failed(f"{requests} requests for {expected} opportunities")
            return {"rows": expected, "size": None}
        files = sorted(map(str, folder.glob(table)))
        if not files:
            raise Failed(f"wrote no {table}")
        done = subprocess.run([python("script"), HERE / "read_back.py", *files], capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"its Parquet cannot be read: {done.stderr[-1500:]}")
        found = json.loads(done.stdout)
        if found["distinct"] != expected:
            raise Failed(f"{found['distinct']} distinct ids, not {expected}")
        return {"rows": found["distinct"], "size": sum(p.stat().st_size for p in folder.glob(everything))}


# The contenders.


def hirelake(binary, sandbox):
    def run(folder, key_file):
        defaults = 'rate = { per_second = 100000.0, burst = 100000 }\nresources = ["opportunities"]'
        driver.configure(folder, sandbox.url, defaults)
        connect = [binary, "connect", "acme", "--api-key-file", str(key_file)]
        done = subprocess.run(connect, cwd=folder, env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"connect: {done.stderr[-1500:]}")
        return [[binary, "sync"]], None

    return run


def simple(program, sandbox, out):
    return lambda folder, key_file: ([[*program, f"{sandbox.url}/v1", str(key_file), out]], None)


def load_dlt(how, sandbox):
    command = [python("dlt"), str(HERE / "load_dlt.py"), how, f"{sandbox.url}/v1"]
    # It would tell its makers of every run.
    env = {"RUNTIME__DLTHUB_TELEMETRY": "false"}
    return lambda folder, key_file: ([[*command, str(key_file), "lake"]], env)


def tap(how, sandbox, since):
    def run(folder, key_file):
        config = driver.private(folder / "config.json", json.dumps({"token": sandbox.key, "start_date": since}))
        base = [python("tap"), str(HERE / "tap.py"), f"{sandbox.url}/v1", how, "--config", str(config)]
        found = subprocess.run([*base, "--discover"], env=environment(), capture_output=True, text=True)
        if found.returncode:
            raise Failed(f"discovery: {found.stderr[-1500:]}")
        catalog = json.loads(found.stdout)
        catalog["streams"] = [s for s in catalog["streams"] if s["stream"] == "opportunities"]
        for stream in catalog["streams"]:
            for entry in stream["metadata"]:
                entry["metadata"]["selected"] = True
        (folder / "catalog.json").write_text(json.dumps(catalog))
        target = [python("script"), str(HERE / "target.py"), "out.parquet"]
        return [[*base, "--catalog", str(folder / "catalog.json")], target], None

    return run


def iso(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# The end.

COLUMNS = ["contender", "rows", "wall s", "rows/s", "Hirelake is", "CPU s", "peak MB", "requests", "refused", "output MB"]


def table(results, ours):
    lines = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 1)]]
    for r in results:
        lines.append(
            [
                r["title"],
                f"{r['rows']:,}",
                f"{r['wall']:.2f}",
                f"{r['rate']:,.0f}",
                "" if r is ours else f"{ours['rate'] / r['rate']:.1f}x",
                f"{r['cpu']:.2f}",
                f"{megabytes(r['peak']):.0f}",
                f"{r['requests']:,}",
                f"{r['refused']}",
                "" if r["size"] is None else f"{r['size'] / 1e6:.1f}",
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def middle(results, name):
    """The run of that contender that was neither the fastest nor the slowest."""
    runs = sorted((r for r in results if r["name"] == name), key=lambda r: r["rate"])
    return runs[len(runs) // 2]


def judge(results, ours):
    """Whether every threshold was kept. A contender that failed keeps none."""
    kept = True
    for name, times in THRESHOLDS.items():
        other = next((r for r in results if r["name"] == name), None)
        reached = ours["rate"] / other["rate"] if other else math.nan
        ok = reached >= times
        kept &= ok
        what = f"{times}x {other['title']} (reached {reached:.1f}x)" if other else f"{times}x {name}, which failed"
        print(f"{'kept' if ok else 'missed'}: {what}")
    return kept


def main():
    arguments = argparse.ArgumentParser(usage="run.py HIRELAKE FOLDER [--bare PROGRAM]")
    arguments.add_argument("hirelake", type=pathlib.Path)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--bare", type=pathlib.Path)
    given = arguments.parse_args()
    binary, folder = str(given.hirelake.resolve()), driver.fresh(given.folder.resolve())
    began = time.monotonic()
    sandbox = Sandbox(binary, ROWS, folder / "sandbox.err")
    try:
        found, dated, oldest, size = sandbox.look()
        if found != ROWS:
            raise SystemExit(f"the sandbox listed {found} opportunities, not {ROWS}")
        now = datetime.datetime.now(datetime.UTC)
        first_day = iso(datetime.datetime.fromtimestamp(oldest / 1000, datetime.UTC).replace(hour=0, minute=0, second=0))
        contest = Contest(sandbox, folder)
        one_file = ("out.parquet", "out.parquet")
        dlt_lake = ("lake/lever/opportunities/*.parquet", "lake/lever/**/*.parquet")

        fetch = [python("script"), str(HERE / "fetch.py")]
        script = [python("script"), str(HERE / "script.py")]

        def short_ones():
            lake = ("lake/lever/opportunities/**/*.parquet", "lake/lever/**/*.parquet")
            contest.enter("hirelake", "**hirelake**", ROWS, hirelake(binary, sandbox), lake)
            contest.enter("fetch", "fetch only", ROWS, simple(fetch, sandbox, "bytes"), None)
            if given.bare:
                bare = [str(given.bare.resolve())]
                contest.enter("bare", "bare loop in Rust", ROWS, simple(bare, sandbox, "out.parquet"), one_file)
            contest.enter("script", "hand-written script", ROWS, simple(script, sandbox, "out.parquet"), one_file)

        short_ones()
        dlt = f"dlt {version('dlt', 'dlt')}"
        contest.enter("dlt-arrow", f"{dlt}, Arrow tables", ROWS, load_dlt("arrow", sandbox), dlt_lake)
        short_ones()
        contest.enter("dlt-flat", f"{dlt}, flat", ROWS, load_dlt("flat", sandbox), dlt_lake)
        contest.enter("dlt", f"{dlt}, default", ROWS, load_dlt("nested", sandbox), dlt_lake)
        tapped = f"tap-lever {version('tap', 'tap-lever')}"
        since = iso(now - datetime.timedelta(hours=1))
        contest.enter("tap", f"{tapped}, one listing", ROWS, tap("listing", sandbox, since), one_file)
        contest.enter("tap-days", f"{tapped}, day by day", dated, tap("windows", sandbox, first_day), one_file)
        short_ones()
    finally:
        sandbox.end()

    results = [middle(contest.results, name) for name in dict.fromkeys(r["name"] for r in contest.results)]
    results.sort(key=lambda r: -r["rate"])
    runs = [r for r in contest.results if r["name"] == "hirelake"]
    if len(runs) < 3:
        raise SystemExit("\n".join(contest.failed))
    ours = next(r for r in results if r["name"] == "hirelake")
    own = megabytes(peak_bytes(resource.getrusage(resource.RUSAGE_SELF)))
    walls = ", ".join(f"{r['wall']:.2f}" for r in runs)
    text = (
        f"{ROWS:,} opportunities, {size / ROWS:,.0f} bytes each, {PAGE} a page; {os.cpu_count()} processors of "
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}; {iso(now)[:10]}.\n"
        f"What takes seconds ran first, between and last (Hirelake {walls} s); the median stands. The server ran on the same machine.\n"
        f"Rows are distinct ids. No peak can be below {own:.0f} MB, which this script takes itself.\n"
        f"Day by day, tap-lever never sees the {ROWS - dated:,} opportunities that have no `updatedAt`.\n\n"
        f"{table(results, ours)}"
    )
    (folder / "table.md").write_text(text)
    print(text)
    kept = judge(results, ours)
    print(f"took {time.monotonic() - began:.0f} s")
    if contest.failed:
        raise SystemExit("\n".join(contest.failed))
    if not kept and os.environ.get("PEERS_STRICT") == "1":
        raise SystemExit(1)


main()
