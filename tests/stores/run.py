"""The program on disks and stores that nobody here wrote, with all that can go wrong there.

usage: run.py HIRELAKE FOLDER [PART…]

Each part (see PARTS; all of them where none is named) makes an undisturbed lake, disturbs another one in one way, and compares. What a part shows stands in
its module. Exits 1 when anything differs, and says what. Servers listen on loopback only, and end with this program.
"""

import pathlib
import signal
import sys
import threading
import time
import traceback

import buckets
import disks
import gcs
import hosts
import large
import program
import torture

SEED = 20261125

PARTS = {
    "full": lambda b, f, _: disks.full(b, f),
    "injected": lambda b, f, _: disks.injected(b, f, SEED),
    "power": lambda b, f, _: disks.power(b, f, SEED),
    "conformance": buckets.conformance,
    "identities": buckets.identities,
    "imitations": buckets.imitations,
    "gcs": gcs.gcs,
    "storms": lambda b, f, s: buckets.storms(b, f, s, SEED),
    "outage": lambda b, f, s: buckets.outage(b, f, s, SEED),
    "large": large.large,
    "certificate": large.certificate,
    "crowd": lambda b, f, s: hosts.crowd(b, f, s, SEED),
    "hour": hosts.hour_apart,
    "stopped": hosts.stopped,
    "torture": lambda b, f, s: torture.torture(b, f, s, SEED, 30),
    "rust": lambda b, f, s: buckets.rust(b, f, s, every=15),
}
# Only when they are named.
WHOLE = {
    "rust-whole": buckets.rust,
}


# Mostly they wait for a lease to end; beside the others they cost little time of their own.
BESIDE = ["stopped", "large", "outage"]


def run(parts, binary, folder, stage):
    for name in parts:
        began, before = time.monotonic(), len(program.failed)
        try:
            {**PARTS, **WHOLE}[name](binary, program.driver.fresh(folder / name), stage)
        except (Exception, SystemExit) as error:
            # The other parts show what they show all the same.
            program.check(f"{name}: it came to its end", False, repr(error))
            traceback.print_exc()
        print(f"{name}: {time.monotonic() - began:.0f} s, {len(program.failed) - before} differ (with what ran beside it)\n", flush=True)


def main(binary, folder, wanted):
    # Ended from outside, it still ends its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    unknown = set(wanted) - set(PARTS) - set(WHOLE)
    if unknown:
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join([*PARTS, *WHOLE])}")
    wanted = wanted or list(PARTS)
    stage = buckets.Stage(program.driver.fresh(folder / "servers"))
    try:
        # Both lanes use it; it is started once.
        stage.weed
        beside = [threading.Thread(target=run, args=([n], binary, folder, stage), daemon=True) for n in wanted if n in BESIDE]
        for thread in beside:
            thread.start()
        run([n for n in wanted if n not in BESIDE], binary, folder, stage)
        for thread in beside:
            thread.join()
    finally:
        stage.end()
    for what in program.failed:
        print(f"failed: {what}")
    print(f"{program.passed} passed, {len(program.failed)} failed")
    return 1 if program.failed or not program.passed else 0


if __name__ == "__main__":
    sys.exit(main(str(pathlib.Path(sys.argv[1]).resolve()), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:]))
