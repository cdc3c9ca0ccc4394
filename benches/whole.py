"""Whole runs of the program against its sandbox, another process on the same machine.

usage: whole.py HIRELAKE BARE FOLDER [PART…]

bare    a first load beside the bare loop of benches/bare.rs, in turn, and the ratios
growth  a first load of 10,000, 100,000 and 1,000,000 opportunities, and the night after with 500 of them changed
pace    20,000 opportunities and the look-ups at 10 requests/s and several latencies, in real time
fleet   1,000 tenants with 200 opportunities each, in one process
start   the time until the first request, and the binary's size

Prints Markdown, and writes growth.svg into FOLDER. Without a part: all of them. Opportunities have RECORD_BYTES (2000) of JSON each.
"""

import contextlib
import json
import math
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time

from measure import Failed, driver, environment, measure, megabytes

RECORD_BYTES = os.environ.get("RECORD_BYTES", "2000")
REPEAT = int(os.environ.get("REPEAT", "3"))
LOOKUPS = ["users", "postings", "stages", "archive_reasons", "sources", "tags"]
NO_LIMIT = "rate = { per_second = 100000.0, burst = 100000 }"
TICKS = os.sysconf("SC_CLK_TCK")


class Sandbox(driver.Sandbox):
    def __init__(self, binary, accounts, *more):
        super().__init__(binary, accounts, f"--record-bytes={RECORD_BYTES}", *more, log=subprocess.DEVNULL)

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def world(binary, folder, sandbox, tenants=("acme",), defaults=NO_LIMIT, resources=("opportunities",)):
    """A configuration with these tenants connected, and nothing in the lake."""
    driver.fresh(folder)
    defaults = f"{defaults}\nresources = {json.dumps(list(resources))}"
    driver.configure(folder, sandbox.url, defaults, sync='safety_lag = "0s"')
    for tenant in tenants:
        key = driver.private(folder / "key", sandbox.api_key(tenant))
        measure([[binary, "connect", tenant, "--api-key-file", str(key)]], folder)
        key.unlink()
    return folder


def report(folder):
    newest = max((folder / "state/reports").glob("*.json"), key=lambda p: p.stat().st_mtime)
    return json.loads(newest.read_text())


def sync(binary, folder, *more):
    done = measure([[binary, "sync", *more]], folder)
    told = report(folder)["tenants"]
    done["requests"] = sum(t["requests"] for t in told.values())
    done["refused"] = sum(t.get("refused", 0) for t in told.values())
    done["resources"] = next(iter(told.values()))["resources"]
    return done


def table(heads, rows):
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)
    print()


def bare(binary, other, folder):
    n = 100_000
    sandbox = Sandbox(binary, {"acme": n}, "--warm")
    try:
        key = driver.private(folder / "bare.key", sandbox.api_key("acme"))
        ours, theirs, served = [], [], []
        for turn in range(REPEAT + 1):
            before = sandbox.cpu()
            loop = measure([[other, f"{sandbox.url}/v1", str(key), "bare.parquet"]], folder)
            told = (folder / "0.out").read_text()
            assert told.strip() == f"{n} rows", told
            served.append(sandbox.cpu() - before)
            whole = sync(binary, world(binary, folder / "bare", sandbox))
            assert whole["resources"]["opportunities"]["rows"] == n
            if turn:
                ours.append(whole)
                theirs.append(loop)
        key.unlink()
    finally:
        sandbox.end()

    def row(name, runs):
        middle = {k: statistics.median(r[k] for r in runs) for k in ("wall", "cpu", "peak")}
        return name, f"{middle['wall']:.2f}", f"{n / middle['wall']:,.0f}", f"{middle['cpu']:.2f}", f"{megabytes(middle['peak']):.0f}"

    table(["100,000 rows", "wall s", "rows/s", "CPU s", "peak MB"], [row("hirelake", ours), row("bare loop", theirs)])
    pairs = list(zip(ours, theirs))
    speed, cpu = (statistics.median(p) for p in ([b["wall"] / o["wall"] for o, b in pairs], [o["cpu"] / b["cpu"] for o, b in pairs]))
    print(f"Hirelake's speed is {speed:.2f} of the bare loop's, its CPU {cpu:.2f} times; the sandbox took {statistics.median(served):.2f} s of CPU to serve the bare loop.\n")


def growth(binary, _, folder):
    rows, points = [], []
    for n in (10_000, 100_000, 1_000_000):
        sandbox = Sandbox(binary, {"acme": n}, "--warm")
        try:
            place = world(binary, folder / "growth", sandbox)
            first = sync(binary, place)
            assert first["resources"]["opportunities"]["rows"] == n
            sandbox.do("edit", account="acme", n=500, seed=1)
            # Nothing is read up to the very second.
            time.sleep(3)
            files = {p: p.stat().st_mtime_ns for p in place.glob("lake/lever/opportunities/**/*.parquet")}
            night = sync(binary, place)
            touched = [p for p, at in files.items() if p.stat().st_mtime_ns != at]
            changed = night["resources"]["opportunities"]
            assert changed["updated"] == 500 and changed["rows"] == n, changed
            size = sum(p.stat().st_size for p in files)
        finally:
            sandbox.end()
        points.append((n, first))
        rows.append((f"{n:,}", f"{first['wall']:.2f}", f"{first['cpu']:.2f}", f"{megabytes(first['peak']):.0f}", f"{first['requests']:,}", f"{size / 2**20:.0f}",
                     f"{night['wall']:.2f}", f"{night['cpu']:.2f}", f"{megabytes(night['peak']):.0f}", changed["requests"], f"{len(touched)} of {len(files)}"))
    table(["rows", "wall s", "CPU s", "peak MB", "requests", "lake MB", "night: wall s", "CPU s", "peak MB", "requests for the listing", "files rewritten"], rows)
    (folder / "growth.svg").write_text(plot(points))


def plot(points):
    """The four figures over the rows, both axes logarithmic, each as a multiple of its first value."""
    figures = [("wall", "wall", "#1b6ca8"), ("cpu", "CPU", "#c8553d"), ("peak", "peak memory", "#3a7d44"), ("requests", "requests", "#7d5ba6")]
    x = [80, 290, 500]
    lines = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 330" font-family="sans-serif" font-size="12">', '<rect width="640" height="330" fill="white"/>']
    for power in range(3):
        y = 280 - power * 110
        lines.append(f'<line x1="80" y1="{y}" x2="500" y2="{y}" stroke="#ddd"/><text x="70" y="{y + 4}" text-anchor="end">{10**power}×</text>')
    for at, (n, _) in zip(x, points):
        lines.append(f'<text x="{at}" y="305" text-anchor="middle">{n:,} rows</text>')
    for i, (key, name, colour) in enumerate(figures):
        ys = [280 - math.log10(max(run[key] / points[0][1][key], 0.5)) * 110 for _, run in points]
        path = " ".join(f"{at},{y:.1f}" for at, y in zip(x, ys))
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="512" y="{60 + 20 * i}" fill="{colour}">{name}: {points[-1][1][key] / points[0][1][key]:.1f}×</text>')
    return "\n".join([*lines, "</svg>", ""])


def pace(binary, _, folder):
    n, rows = 20_000, []
    for latency in (5, 100, 250, 1000):
        sandbox = Sandbox(binary, {"acme": n}, "--rate=10", "--burst=20", f"--latency-ms={latency}", "--warm")
        try:
            done = sync(binary, world(binary, folder / "pace", sandbox, defaults="", resources=["opportunities", *LOOKUPS]))
        finally:
            sandbox.end()
        bucket = (done["requests"] - 20) / 10
        most = 1.05 * bucket + 3 * latency / 1000
        asked = sum(-(-r["rows"] // 100) or 1 for r in done["resources"].values() if r["requests"])
        rows.append((latency, done["requests"], asked, f"{bucket:.1f}", f"{done['wall']:.2f}", f"{most:.2f}", "yes" if done["wall"] <= most else "no", done["refused"]))
    table(["latency ms", "requests", "pages the rows ask for", "bucket's own s", "wall s", "1.05 of it and three latencies", "kept", "refusals"], rows)


def fleet(binary, _, folder):
    names = [f"t{i:04}" for i in range(1000)]
    sandbox = Sandbox(binary, dict.fromkeys(names, 200))
    try:
        place = world(binary, folder / "fleet", sandbox, names, resources=["opportunities", *LOOKUPS])
        done = [sync(binary, place) for _ in range(2)]
    finally:
        sandbox.end()
    table(["1,000 tenants with 200 opportunities", "wall s", "CPU s", "peak MB", "requests"],
          [(name, f"{d['wall']:.1f}", f"{d['cpu']:.1f}", f"{megabytes(d['peak']):.0f}", f"{d['requests']:,}") for name, d in zip(["first load", "the night after"], done)])


def start(binary, _, folder):
    """A server that takes one connection and notes when."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        sandbox = Sandbox(binary, {"acme": 10})
        place = world(binary, folder / "start", sandbox)
        sandbox.end()
        config = place / "hirelake.toml"
        config.write_text(re.sub(r'api_base = "[^"]*"', f'api_base = "http://127.0.0.1:{server.getsockname()[1]}/v1"', config.read_text()))
        shutil.copytree(place / "state", place / "before")
        times = []
        for _ in range(10):
            began = time.monotonic()
            process = subprocess.Popen([binary, "sync"], cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            connection, _ = server.accept()
            times.append(time.monotonic() - began)
            process.kill()
            process.wait()
            connection.close()
            # A killed run holds the tenant for a while.
            shutil.rmtree(place / "state")
            shutil.copytree(place / "before", place / "state")
    print(f"From the start to the first request: {statistics.median(times) * 1000:.0f} ms. The binary: {pathlib.Path(binary).stat().st_size / 2**20:.0f} MB.\n")


PARTS = {"bare": bare, "growth": growth, "pace": pace, "fleet": fleet, "start": start}


def main(binary, other, folder, wanted):
    unknown = set(wanted) - set(PARTS)
    if unknown:
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted or PARTS:
        print(f"## {name}\n", flush=True)
        try:
            PARTS[name](binary, other, folder)
        except Failed as why:
            raise SystemExit(f"{name}: {why}")


if __name__ == "__main__":
    main(*(str(pathlib.Path(a).resolve()) for a in sys.argv[1:3]), pathlib.Path(sys.argv[3]).resolve(), sys.argv[4:])
