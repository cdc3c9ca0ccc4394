"""The program under test, the pretend provider it reads, and two lakes compared.

Whatever the program prints is searched for every secret that it was given.
"""

import hashlib
import io
import json
import pathlib
import secrets
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import driver
from driver import clean_env, hidden, private

# One resource of each kind, so that a run has every sort of write and is over in a second or two.
SOME = ["opportunities", "applications", "contacts", "users", "postings", "opportunities_deleted", "applications_deleted",
        "notes", "resumes"]

passed, failed, began = 0, [], time.monotonic()


def check(what, ok, detail=""):
    global passed
    if ok:
        passed += 1
        print(f"ok {time.monotonic() - began:7.1f} s  {what}", flush=True)
    else:
        failed.append(what)
        print(f"DIFFERS {time.monotonic() - began:7.1f} s  {what}  {str(detail)[:2000]}", flush=True)
    return ok


def equal(what, found, expected):
    return check(what, found == expected, f"found {found!r}, expected {expected!r}")


def section(title):
    print(f"-- {title}", flush=True)


# The provider.

class Sandbox(driver.Sandbox):
    def fault(self, route, kind, times=1, skip=0, **action):
        self.do("fault", fault={"route": route, "skip": skip, "times": times, "action": {"kind": kind, **action}})

    def change(self, account, seed):
        """A day at the customer's: edited, added, archived, deleted, anonymized."""
        edited = self.do("edit", account=account, n=6, seed=seed)
        self.do("add", account=account, n=2)
        self.do("add_child", account=account, resource="notes", n=3, seed=seed)
        self.do("edit_posting", account=account, id=self.dump(account, "postings")[0]["id"])
        self.do("archive", account=account, id=edited[0])
        self.do("anonymize", account=account, id=edited[1])
        self.do("delete_opportunity", account=account, id=edited[2])
        # What was changed just now is left to the next sync (`safety_lag`).
        time.sleep(2.2)


# The program.


class Hirelake:
    """The binary with a folder of its own: configuration, vault key, and (unless told otherwise) lake, state and scratch."""

    def __init__(self, binary, folder, sandbox, lake="lake", state="state", scratch="scratch", env=None, resources=SOME, sync=""):
        self.binary, self.folder, self.sandbox = binary, pathlib.Path(folder), sandbox
        self.env = clean_env({"HIRELAKE_LOG": "info", **(env or {})})
        self.lake, self.state, self.scratch = (self.place(p) for p in (lake, state, scratch))
        self.folder.mkdir(parents=True)
        places = {"lake": self.lake, "state": self.state, "scratch": self.scratch}
        self.config = driver.configure(
            self.folder,
            sandbox.url,
            top="\n".join(f"{name} = {json.dumps(place)}" for name, place in places.items()),
            defaults=f"rate = {{ per_second = 1000.0, burst = 1000 }}\nresources = {json.dumps(resources)}",
            sync=f'safety_lag = "1s"\noverlap = "10s"\n{sync}',
        )

    def place(self, path):
        return str(path) if "://" in str(path) else str(self.folder / path)

    def command(self, *args):
        return [self.binary, "--config", str(self.config), *map(str, args)]

    def start(self, *args, env=None, wrap=(), log=None):
        """A run in the background; its words go to `log` beside the configuration."""
        path = self.folder / (log or f"run-{secrets.token_hex(4)}.log")
        with path.open("wb") as out:
            process = subprocess.Popen(
                [*wrap, *self.command(*args)], env={**self.env, **(env or {})}, cwd=self.folder, stdout=out, stderr=out
            )
        process.log = path
        return process

    def run(self, *args, env=None, wrap=(), timeout=300):
        command = [*wrap, *self.command(*args)]
        done = subprocess.run(
            command, env={**self.env, **(env or {})}, cwd=self.folder, capture_output=True, text=True, timeout=timeout
        )
        self.search(done.stdout + done.stderr)
        return done

    def search(self, text):
        found = [s[:6] for s in hidden if s in text]
        if found:
            check(f"no secret in what {self.folder.name} printed", False, f"those that begin with {found}")

    def sync(self, *args, **how):
        return self.run("sync", *args, **how)

    def synced(self, story, *args, **how):
        """A sync that must end well. Gives its summary."""
        done = self.sync(*args, **how)
        equal(f"{story}: exit code", (done.returncode, done.stderr[-1500:] if done.returncode else ""), (0, ""))
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}

    def connect(self, tenant, account=None, grant=False, force=False):
        """By a refresh token (a grant, which rotates) or an API key."""
        account = account or tenant
        if grant:
            # The least that the resources need, as the binary computes it.
            scopes = self.run("catalog", "--scopes")
            secret = self.sandbox.do("grant", account=account, client_id="sandbox-client", scopes=scopes.stdout.strip())["refresh_token"]
        else:
            secret = self.sandbox.do("api_key", account=account)
        hidden.add(secret)
        path = private(self.folder / f"{tenant}.credential", secret)
        option = "--refresh-token-file" if grant else "--api-key-file"
        done = self.run("connect", tenant, option, path, *(["--force"] if force else []))
        path.unlink()
        if done.returncode != 0:
            raise SystemExit(f"`hirelake connect {tenant}` in {self.folder} failed: {done.stderr}")

    def health(self, tenant):
        return json.loads(self.run("status", "--json").stdout).get(tenant, {}).get("grant", {}).get("health")


# Lakes.


def local_files(root):
    root = pathlib.Path(root)
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.glob("lever/**/*.parquet"))}


def staged(root):
    return [p.name for p in pathlib.Path(root).glob("_staging/*")]


def tables(files):
    """A lake's tables by tenant, in the order of their files, `_synced_at` left out."""
    found = {}
    for path in sorted(files):
        parts = path.split("/")
        table = pq.ParquetFile(io.BytesIO(files[path])).read()
        if "_synced_at" in table.column_names:
            table = table.drop_columns(["_synced_at"])
        found.setdefault(("/".join(parts[1:3])), []).append(table.replace_schema_metadata(None))
    return {name: pa.concat_tables(parts, promote_options="default") for name, parts in found.items()}


def same(what, files, expected):
    """Whether two lakes, as paths and bytes, hold the same files with the same rows but for the time of their writing."""
    lacks, more = sorted(expected.keys() - files.keys()), sorted(files.keys() - expected.keys())
    if lacks or more:
        return check(f"{what}: files", False, f"lacks {lacks}, has besides {more}")
    found, wanted = tables(files), tables(expected)
    for name in wanted:
        if found[name].equals(wanted[name]):
            continue
        a, b = found[name].to_pylist(), wanted[name].to_pylist()
        differing = [(x, y) for x, y in zip(a, b) if x != y][:1]
        return check(f"{what}: rows of {name}", False, f"{len(a)} rows for {len(b)}; {differing}")
    rows = sum(t.num_rows for t in wanted.values())
    return check(f"{what}: {len(wanted)} tables with {rows} rows are equal", rows > 0, "an empty lake shows nothing")


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]
