"""What a disk can do to a run: it is full, read-only, it fails a single call, or it forgets what was not synced.

Each time the run ends with the code for storage and says what helps, and the next one makes the lake equal to one that was
never disturbed. Needs root (mounts), strace, fuse3, e2fsprogs.
"""

import contextlib
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time

from program import Hirelake, Sandbox, check, equal, local_files, same, section, staged

HERE = pathlib.Path(__file__).resolve().parent
STORAGE, PARTIAL = 7, 3


def sh(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def mounted(place, *how):
    place.mkdir(parents=True, exist_ok=True)
    sh("mount", *how, place)
    try:
        yield place
    finally:
        sh("umount", "-l", place)


@contextlib.contextmanager
def ext4(place, megabytes):
    """A real file system in a file, mounted through a loop device."""
    image = place.with_suffix(".img")
    with image.open("wb") as f:
        f.truncate(megabytes << 20)
    sh("mkfs.ext4", "-q", "-m", "0", image)
    with mounted(place, "-o", "loop", image):
        yield place
    image.unlink()


def fill(place, leave):
    """A file that takes all room but `leave` bytes; removing it gives the room back."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as f:
        # What a file system says is free is not all that it would still give: write until it refuses, by single bytes at last.
        for chunk in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while f.write(b"\0" * chunk):
                    pass
        f.truncate(max(f.tell() - leave, 0))
        os.fsync(f.fileno())
    return ballast


def whole(binary, folder, sandbox):
    """What an undisturbed run makes; the account must not change after it."""
    h = Hirelake(binary, folder, sandbox)
    h.connect("acme")
    h.synced("an undisturbed sync")
    return h


def size(root):
    return sum(p.stat().st_size for p in pathlib.Path(root).rglob("*") if p.is_file())


def full(binary, folder):
    section("full and read-only disks")
    sandbox = Sandbox(binary, {"acme": 80})
    try:
        expected_in = whole(binary, folder / "whole", sandbox)
        expected = local_files(expected_in.lake)
        for part in ("lake", "state", "scratch"):
            disk = folder / f"{part}-disk"
            with ext4(disk, 64):
                h = Hirelake(binary, folder / f"full-{part}", sandbox, **{part: disk / part})
                h.connect("acme")
                # From nothing at all to nearly enough: the first write fails, one in the middle, the last ones.
                needed = size(expected_in.folder / part) if part != "scratch" else 60_000
                for share in (0.0, 0.3, 0.7):
                    ballast = fill(disk, int(share * needed))
                    story = f"a full disk below the {part}, {share:.0%} of its need left"
                    if share == 0.0:
                        done = h.sync("--resource", "users")
                        check(f"{story}, one resource: exit code", done.returncode == STORAGE, (done.returncode, done.stderr))
                        check(f"{story}, one resource: the hint", "the disk is full" in done.stderr, done.stderr)
                    # A resource of which there is nothing to write is done all the same: then the run is partial.
                    done = h.sync()
                    allowed = {STORAGE, PARTIAL} if part != "scratch" or share == 0.0 else {STORAGE, PARTIAL, 0}
                    check(f"{story}: exit code", done.returncode in allowed, (done.returncode, done.stderr[-1500:]))
                    check(f"{story}: the hint", done.returncode == 0 or "the disk is full" in done.stderr, done.stderr[-1500:])
                    ballast.unlink()
                h.synced(f"with room below the {part} again")
                same(f"with room below the {part} again", local_files(h.lake), expected)
                equal(f"with room below the {part} again: staging", staged(h.lake), [])

        # Something to write, and a disk that takes nothing.
        worlds = {}
        for part in ("lake", "state"):
            disk = folder / f"{part}-ro"
            stack = contextlib.ExitStack()
            stack.enter_context(ext4(disk, 64))
            h = worlds[part] = (stack, disk, Hirelake(binary, folder / f"ro-{part}", sandbox, **{part: disk / part}))
            h[2].connect("acme")
            h[2].synced(f"before the {part} turns read-only")
        sandbox.change("acme", 1)
        expected_in.synced("the changes, undisturbed")
        for part, (stack, disk, h) in worlds.items():
            with stack:
                sh("mount", "-o", "remount,ro", disk)
                done = h.sync()
                check(f"a read-only {part}: exit code", done.returncode in (STORAGE, PARTIAL), (done.returncode, done.stderr[-1500:]))
                check(f"a read-only {part}: the hint", "read-only" in done.stderr, done.stderr[-1500:])
                sh("mount", "-o", "remount,rw", disk)
                h.synced(f"the {part} is writable again")
                same(f"the {part} is writable again", local_files(h.lake), local_files(expected_in.lake))
    finally:
        sandbox.end()


# A single call that fails.

# The calls by which files get into place; which of them a run makes, it shows itself.
PLACING = "fsync,fdatasync,rename,renameat,renameat2,link,linkat"


def failing(begin, expected, call, errno, n, rest):
    """Syncs while some thread's n-th call fails, compares, and says how many calls failed."""
    story = f"{call} fails with {errno} at {n}{rest}"
    h = begin(f"{call}-{errno}-{n}{'-on' if rest else ''}")
    trace = h.folder / "trace"
    done = h.sync(wrap=["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={call}", "-e", f"inject={call}:error={errno}:when={n}{rest}"])
    count = trace.read_text().count("(INJECTED)")
    # Notes about the run, such as its report, may be lost without the work being so; then it is done.
    allowed = {STORAGE, PARTIAL, 0} if count else {0}
    check(f"{story}: exit code ({count} injected)", done.returncode in allowed, (done.returncode, done.stderr[-1500:]))
    check(f"{story}: a failure has a hint", done.returncode == 0 or "hint:" in done.stderr, done.stderr[-1500:])
    if done.returncode == 0:
        same(f"{story}, and the run says that it is done", local_files(h.lake), expected)
    h.synced(f"{story}, then the next run")
    same(f"{story}, then the next run", local_files(h.lake), expected)
    equal(f"{story}, then the next run: staging", staged(h.lake), [])
    return count


def injected(binary, folder, seed):
    section(f"calls that fail (strace), seed {seed}")
    dice = random.Random(seed)
    sandbox = Sandbox(binary, {"acme": 30})
    try:
        expected = local_files(whole(binary, folder / "whole", sandbox).lake)
        connected = Hirelake(binary, folder / "connected", sandbox)
        connected.connect("acme")

        def begin(name):
            h = Hirelake(binary, folder / f"{len(os.listdir(folder))}-{name}", sandbox)
            shutil.copytree(connected.state, h.state)
            shutil.copy(connected.folder / "vault.key", h.folder / "vault.key")
            return h

        h = begin("counted")
        trace = h.folder / "trace"
        h.synced("a sync under strace", wrap=["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={PLACING}"])
        counted = {}
        # Counted by thread, as strace counts when it injects.
        for line in trace.read_text().splitlines():
            pid, call = line.split()[0], re.match(r"\d+ +(\w+)\(", line)
            if call:
                counted.setdefault(call[1], {}).setdefault(pid, 0)
                counted[call[1]][pid] += 1
        check("a sync syncs and renames", {"fsync"} < set(counted) and any("rename" in c for c in counted), counted)
        print(f"         calls: { {c: sum(n.values()) for c, n in counted.items()} }")
        faults = {"fsync": ["EIO"], "fdatasync": ["EIO"], "link": ["ENOSPC", "EIO"], "linkat": ["ENOSPC", "EIO"]}
        injections = 0
        for call, by_thread in sorted(counted.items()):
            most = max(by_thread.values())
            positions = sorted({1, 2, most, *(dice.randint(1, most) for _ in range(2))})
            for errno in faults.get(call, ["ENOSPC", "EIO"]):
                # One call; or that one and all after it, as when a disk dies.
                for n, rest in [(n, "") for n in positions] + [(dice.choice(positions), "+")]:
                    # Which thread makes a call is chance, and a thread may make fewer than when they were counted: then an earlier one fails.
                    while not failing(begin, expected, call, errno, n, rest):
                        n //= 2
                        if not check(f"{call} fails with {errno}: a run makes one", n):
                            break
                    injections += n > 0
        print(f"         {injections} faults")
    finally:
        sandbox.end()


# Power that fails.


class Forgetful:
    """The file system of forgetful.py, mounted."""

    def __init__(self, place):
        self.place = place
        place.mkdir(parents=True)
        self.log = place.with_suffix(".log").open("w")
        self.process = subprocess.Popen([sys.executable, HERE / "forgetful.py", place], stdout=self.log, stderr=self.log)
        end = time.monotonic() + 20
        while not place.is_mount():
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the file system was not mounted: {self.log.name}")
            time.sleep(0.05)

    def tell(self, what):
        os.setxattr(self.place, "user.cut", what.encode())

    def count(self):
        return int(os.getxattr(self.place, "user.count"))

    def end(self):
        subprocess.run(["umount", "-l", self.place], capture_output=True)
        self.process.wait(20)


def power(binary, folder, seed, positions=10, rounds=6, kills=4):
    """A power cut after the n-th call that changes or syncs something, for some n; and after a SIGKILL at any moment.

    The provider gives a lost successor again within its leeway, as Lever's does, and every run needs new tokens: so a grant
    dies only if what the disk has falls behind by two generations, that is if a token was used before it was durable.
    """
    section(f"power that fails, seed {seed}")
    dice = random.Random(seed)
    sandbox = Sandbox(binary, {"acme": 30}, "--refresh-leeway-s=3600")
    disk = Forgetful(folder / "disk")
    try:
        undisturbed = whole(binary, folder / "whole", sandbox)
        expected = local_files(undisturbed.lake)

        def begin(name):
            place = disk.place / name
            place.mkdir()
            os.sync()
            for folder in (disk.place, place):
                fd = os.open(folder, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
            h = Hirelake(binary, folder_of / name, sandbox, lake=place / "lake", state=place / "state", scratch=place / "scratch")
            h.connect("acme", grant=True)
            disk.tell("worst")
            return h

        def comes_back(h, story, how):
            """After the cut: the next run heals, and what it did is not taken back by another cut."""
            disk.tell(how)
            sandbox.do("expire_access_tokens", account="acme")
            h.synced(f"{story}, cut ({how}), then the next run")
            disk.tell("worst")
            same(f"{story}, cut ({how}), then the next run and another cut", local_files(h.lake), expected)
            equal(f"{story}: staging", staged(h.lake), [])
            equal(f"{story}: the grant", h.health("acme"), "live")

        folder_of = folder / "worlds"
        h = begin("counted")
        sandbox.do("expire_access_tokens", account="acme")
        before, began = disk.count(), time.monotonic()
        h.synced("a first load on it")
        calls, took = disk.count() - before, time.monotonic() - began
        comes_back(h, "a whole first load", "worst")
        print(f"         a first load makes {calls} calls that change or sync something")
        for i, n in enumerate(sorted({1, calls // 2, *(dice.randrange(calls) for _ in range(positions))})):
            h = begin(f"after-{n}")
            sandbox.do("expire_access_tokens", account="acme")
            disk.tell(f"after {n}")
            done = h.sync()
            check(f"a first load whose disk is gone after {n}: exit code", done.returncode in (STORAGE, PARTIAL, 0), (done.returncode, done.stderr[-1500:]))
            comes_back(h, f"a first load whose disk is gone after {n}", f"mixed {dice.randrange(1 << 30)}" if i % 2 else "worst")
        killed = 0

        def kill(h):
            process = h.start("sync")
            after = dice.uniform(0.02, took)
            time.sleep(after)
            process.kill()
            return f"SIGKILL after {after:.2f} s", process.wait() < 0

        for i in range(kills):
            h = begin(f"killed-{i}")
            sandbox.do("expire_access_tokens", account="acme")
            story, dead = kill(h)
            killed += dead
            comes_back(h, f"first load {i}, {story}", f"mixed {dice.randrange(1 << 30)}" if i % 2 else "worst")
        for i in range(rounds):
            sandbox.change("acme", seed + i)
            undisturbed.synced(f"changes {i}, undisturbed")
            expected = local_files(undisturbed.lake)
            sandbox.do("expire_access_tokens", account="acme")
            if i % 2:
                story, dead = kill(h)
                killed += dead
            else:
                n = dice.randrange(calls // 2)
                story = f"the disk is gone after {n}"
                disk.tell(f"after {n}")
                h.sync()
            comes_back(h, f"changes {i}, {story}", f"mixed {dice.randrange(1 << 30)}" if i % 3 else "worst")
        check("runs were killed", killed > 0, killed)
    finally:
        disk.end()
        sandbox.end()
