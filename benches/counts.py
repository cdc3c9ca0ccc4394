"""Instructions of the hot loops: they repeat where seconds do not, so that a regression shows on a noisy machine too.

usage: counts.py PROGRAM PROFILE [--save]

Runs each workload of `benches/counts.rs` with and without its work under valgrind, and compares the difference with what
`benches/counts.json` has for programs built under that profile, which --save writes anew. Ends with 1 when one needs more than
twice as many instructions.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

from measure import environment

BASELINE = pathlib.Path(__file__).with_name("counts.json")
# For each so many rows.
ROWS = 2_000
WORKLOADS = ["decode", "prepare", "encode", "upsert", "unchanged"]
LIMIT = 2.0


def instructions(program, *words):
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", program, *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return int(found[1].replace(",", ""))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("profile")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    known = baseline.get(arguments.profile, {})
    counts, worse = {}, []
    print(f"{'workload':12} {'instructions':>15} {'a row':>9} {'baseline':>15} {'ratio':>6}")
    for name in WORKLOADS:
        with_it, without = (instructions(arguments.program, name, how) for how in ("with", "without"))
        counts[name] = with_it - without
        if counts[name] <= 0:
            raise SystemExit(f"{name}: {with_it} instructions with the work, {without} without it")
        before = known.get(name)
        ratio = counts[name] / before if before else None
        told = f"{before:>15,} {ratio:>6.2f}" if before else f"{'none':>15} {'':>6}"
        print(f"{name:12} {counts[name]:>15,} {counts[name] // ROWS:>9,} {told}", flush=True)
        if not arguments.save and (ratio is None or ratio > LIMIT):
            worse.append(name)
    if arguments.save:
        BASELINE.write_text(json.dumps({**baseline, arguments.profile: counts}, indent=2) + "\n")
    elif worse:
        sys.exit(f"more than {LIMIT:g} times the instructions of {BASELINE.name}, or not in it: {', '.join(worse)}")


if __name__ == "__main__":
    main()
