"""Grants against an authorization server that nobody here wrote: the code flow, rotation, expiry, reuse, leeway, revocation.

usage: run.py HIRELAKE FOLDER

Starts django-oauth-toolkit with Lever's addresses (server.py), plays the customer's browser, and runs the real binary. What the
server did is read from its own database and its access log. Exits 1 when anything differs, and says what.
"""

import html.parser
import http.cookiejar
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
from driver import configure, free_port, fresh

# What is registered: the least that the resources need, as the binary itself computes it.
SCOPES = subprocess.run(
    [pathlib.Path(sys.argv[1]).resolve(), "catalog", "--scopes"], capture_output=True, text=True, check=True, cwd=HERE
).stdout.strip()
CLIENT, SECRET = "real-client", "canary-" + secrets.token_hex(16)
LIFE = 4
WAIT_S = 60

passed, failed = 0, []


def check(what, ok, detail=""):
    global passed
    if ok:
        passed += 1
        print(f"ok       {what}", flush=True)
    else:
        failed.append(what)
        print(f"DIFFERS  {what}  {str(detail)[:2000]}", flush=True)


def equal(what, found, expected):
    check(what, found == expected, f"found {found!r}, expected {expected!r}")


class Server:
    """The authorization server as a process of its own."""

    def __init__(self, folder, callback):
        self.folder, self.port, self.process = folder, free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OAUTH_DB": str(folder / "oauth.sqlite3"),
            "OAUTH_SCOPES": SCOPES,
            "OAUTH_LIFE": str(LIFE),
            "OAUTH_CLIENT": CLIENT,
            "OAUTH_SECRET": SECRET,
            "OAUTH_CALLBACK": callback,
        }
        subprocess.run([sys.executable, HERE / "server.py"], env=self.env, check=True)

    def start(self, **settings):
        self.stop()
        self.access = self.folder / "access.log"
        command = [pathlib.Path(sys.executable).parent / "gunicorn", "-b", f"127.0.0.1:{self.port}", "--threads", "4"]
        # The answer's status beside the path: no query, so no code or state.
        command += ["--access-logfile", self.access, "--access-logformat", "%(m)s %(U)s %(s)s", "--log-level", "error"]
        env = {**self.env, **{f"OAUTH_{k.upper()}": str(v) for k, v in settings.items()}}
        self.process = subprocess.Popen([*command, "server:application"], env=env)
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{self.url}/v1/users", timeout=2)
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.1)
        self.posts()

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()
            self.process = None

    def posts(self):
        """Answers of the token endpoint since the last call, as statuses."""
        time.sleep(0.05)
        lines = self.access.read_text().splitlines() if self.access.exists() else []
        new, self.seen = lines[getattr(self, "seen", 0) :], len(lines)
        return [line.split()[-1] for line in new if line.startswith("POST /oauth/token ")]

    def rows(self, query):
        with sqlite3.connect(self.env["OAUTH_DB"], timeout=20) as db:
            return db.execute(query).fetchall()

    def living(self):
        """Refresh tokens that are not revoked."""
        return [t for (t,) in self.rows("select token from oauth2_provider_refreshtoken where revoked is null")]


class LossyProxy(threading.Thread):
    """Passes requests on, and loses the answers of the next `lose` to the token endpoint after the server has acted."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.lose = target, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client:
            data = b""
            while b"\r\n\r\n" not in data:
                part = client.recv(65536)
                if not part:
                    return
                data += part
            head, _, body = data.partition(b"\r\n\r\n")
            lines = [l for l in head.split(b"\r\n") if not l.lower().startswith(b"connection:")]
            length = next((int(l.split(b":")[1]) for l in lines if l.lower().startswith(b"content-length:")), 0)
            while len(body) < length:
                body += client.recv(65536)
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            with server:
                server.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)
                answer = b""
                while part := server.recv(65536):
                    answer += part
            if lines[0].startswith(b"POST /oauth/token") and self.lose > 0:
                self.lose -= 1
                return
            client.sendall(answer)


class Hirelake:
    """The binary with a folder of its own."""

    def __init__(self, binary, folder, token_url, server, callback, **app):
        self.binary, self.folder = binary, folder
        folder.mkdir()
        at_server = {"client_id": CLIENT, "redirect_uris": [callback], "token": f"{token_url}/oauth/token"}
        configure(folder, server.url, secret=SECRET, **at_server, **app)
        self.said = ""

    def command(self, *args):
        return [self.binary, "--config", self.folder / "hirelake.toml", "--log", "trace", *args]

    def run(self, *args):
        done = subprocess.run(self.command(*args), capture_output=True, text=True, timeout=300)
        self.said += done.stdout + done.stderr
        return done

    def sync(self):
        done = self.run("sync")
        return done.returncode, done.stderr

    def health(self):
        status = json.loads(self.run("status", "--json").stdout)
        return status["acme"]["grant"]["health"]

    def connect(self):
        """The whole flow: the link, the customer's browser, the callback. Returns the exit code."""
        process = subprocess.Popen(
            self.command("connect", "acme", "--no-browser"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        said = ""
        while line := process.stderr.readline():
            said += line
            if line.startswith("http"):
                break
        self.link = urllib.parse.urlsplit(line.strip())
        consent(line.strip())
        out, err = process.communicate(timeout=60)
        # The link holds the state, which is used up; the rest is searched for secrets.
        self.said += out + err
        return process.returncode


class Form(html.parser.HTMLParser):
    """The hidden fields of the consent page."""

    def __init__(self, text):
        super().__init__()
        self.fields = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "input" and attrs.get("type") != "submit" and "name" in attrs:
            self.fields[attrs["name"]] = attrs.get("value", "")


def consent(link):
    """A Super Admin signs in, reads and accepts; the browser follows back to the callback."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    page = browser.open(link, timeout=30)
    fields = Form(page.read().decode()).fields
    fields["allow"] = "Authorize"
    browser.open(page.url, urllib.parse.urlencode(fields).encode(), timeout=30).read()


def snapshot(hirelake):
    shutil.copytree(hirelake.folder / "state", hirelake.folder / "before")


def roll_back(hirelake):
    """The state as it was before: our side forgets the rotation that the server remembers."""
    shutil.rmtree(hirelake.folder / "state")
    (hirelake.folder / "before").rename(hirelake.folder / "state")


def expire():
    time.sleep(LIFE + 1)


def main(binary, folder):
    fresh(folder)
    callback = f"http://127.0.0.1:{free_port()}/callback"
    server = Server(folder, callback)
    proxy = LossyProxy(server.port)
    proxy.start()
    everyone = []

    def hirelake(name, token_url=server.url, **app):
        everyone.append(Hirelake(binary, folder / name, token_url, server, callback, **app))
        return everyone[-1]

    try:
        print("-- the code flow")
        server.start(leeway=0)
        a = hirelake("a")
        equal("a Super Admin connects", a.connect(), 0)
        asked = dict(urllib.parse.parse_qsl(a.link.query))
        equal("the scopes are asked for with single spaces", asked["scope"], " ".join(asked["scope"].split()))
        equal("and they are those that the catalogue prints", asked["scope"], SCOPES)
        equal("the audience has its slash", asked["audience"], f"{server.url}/v1/")
        equal("one exchange", server.posts(), ["200"])
        first = server.living()
        equal("one refresh token lives", len(first), 1)
        granted = set(server.rows("select scope from oauth2_provider_accesstoken")[0][0].split())
        check("what was asked for was granted", "opportunities:read:admin" in granted and "offline_access" in granted, granted)

        print("-- rotation and expiry")
        code, said = a.sync()
        equal("a sync with the first token", (code, server.posts()), (0, []))
        for n in range(3):
            expire()
            code, said = a.sync()
            equal(f"an ended token is refreshed once ({n})", (code, server.posts()), (0, ["200"]))
            equal(f"one refresh token lives, another one ({n})", (len(server.living()), server.living() == first), (1, False))
        with sqlite3.connect(server.env["OAUTH_DB"], timeout=20) as db:
            db.execute("update oauth2_provider_accesstoken set expires = '2026-01-01 00:00:00'")
        code, said = a.sync()
        equal("a token that ends early costs one refresh", (code, server.posts()), (0, ["200"]))

        print("-- reuse, without leeway")
        expire()
        snapshot(a)
        equal("a rotation", (a.sync()[0], server.posts()), (0, ["200"]))
        roll_back(a)
        code, said = a.sync()
        equal("a superseded token ends the family: the customer must reconnect", (code, server.posts()), (4, ["400"]))
        check("the way out is said", "hirelake connect acme" in said, said)
        equal("nothing lives at the server", server.living(), [])
        equal("the grant is marked", a.health(), "dead")
        code, said = a.sync()
        equal("nobody hammers a dead grant", (code, server.posts()), (4, []))
        equal("the customer connects again", (a.connect(), server.posts()), (0, ["200"]))
        equal("and all is well", (a.sync()[0], a.health()), (0, "live"))

        print("-- a lost answer, without leeway")
        b = hirelake("b", proxy.url)
        equal("another tenant connects", (b.connect(), server.posts()), (0, ["200"]))
        expire()
        proxy.lose = 1
        code, said = b.sync()
        equal("the provider used up the token: one further request, then the customer must reconnect", (code, server.posts()), (4, ["200", "400"]))
        equal("it is marked", b.health(), "dead")

        print("-- a lost answer, within a leeway")
        server.start(leeway=60)
        equal("the customer connects again", (b.connect(), server.posts()), (0, ["200"]))
        expire()
        proxy.lose = 1
        code, said = b.sync()
        equal("the further request gets the answer again", (code, server.posts()), (0, ["200", "200"]))
        equal("the grant lives", b.health(), "live")
        expire()
        proxy.lose = 9
        code, said = b.sync()
        check("two lost answers fail the run", code not in (0, 4), (code, said))
        equal("at most one further request a run", server.posts(), ["200", "200"])
        equal("uncertain, not dead", b.health(), "uncertain")
        proxy.lose = 0
        code, said = b.sync()
        equal("the next run asks once and it lives", (code, server.posts(), b.health()), (0, ["200"], "live"))

        print("-- an outage, and credentials that are wrong")
        expire()
        server.stop()
        code, said = b.sync()
        check("an outage fails the run", code not in (0, 4), (code, said))
        check("and is not the customer's doing", b.health() != "dead", b.health())
        server.start(leeway=0)
        (b.folder / "client.secret").write_text("mistyped")
        code, said = b.sync()
        equal("a mistyped secret is a mistake of the configuration", (code, server.posts()), (2, ["401"]))
        (b.folder / "client.secret").write_text(SECRET)
        code, said = b.sync()
        equal("after both the grant works", (code, server.posts(), b.health()), (0, ["200"], "live"))

        print("-- revocation")
        with sqlite3.connect(server.env["OAUTH_DB"], timeout=20) as db:
            db.execute("update oauth2_provider_accesstoken set expires = '2026-01-01 00:00:00'")
            db.execute("update oauth2_provider_refreshtoken set revoked = '2026-01-01 00:00:00'")
        code, said = b.sync()
        equal("a customer who removed the app", (code, server.posts(), b.health()), (4, ["400"], "dead"))

        print("-- PKCE, where the server insists on it")
        server.start(pkce=1)
        c = hirelake("c", pkce=True)
        equal("a tenant connects with PKCE", (c.connect(), server.posts()), (0, ["200"]))
        asked = dict(urllib.parse.parse_qsl(c.link.query))
        equal("by S256", asked.get("code_challenge_method"), "S256")
        equal("and syncs", c.sync()[0], 0)

        print("-- keepalive and disconnect")
        done = c.run("keepalive", "--within", "90d")
        equal("keepalive refreshes", (done.returncode, server.posts()), (0, ["200"]))
        before = len(server.living())
        done = c.run("disconnect", "acme", "--yes")
        equal("disconnect", done.returncode, 0)
        equal("revoked at the server", len(server.living()), before - 1)
        done = c.run("sync", "--tenant", "acme")
        check("nothing is left to sync with", done.returncode != 0 and server.posts() == [], done.stderr)

        tokens = {SECRET, *(t for (t,) in server.rows("select token from oauth2_provider_refreshtoken"))}
        tokens |= {t for (t,) in server.rows("select token from oauth2_provider_accesstoken")}
        for h in everyone:
            files = [p for p in h.folder.rglob("*") if p.is_file() and p.name not in ("client.secret", "vault.key")]
            held = [p.name for p in files if any(t.encode() in p.read_bytes() for t in tokens)]
            equal(f"no token lies open in the folder of {h.folder.name}", held, [])
            check(f"none was printed ({h.folder.name})", not any(t in h.said for t in tokens))
        check("tokens were looked for", len(tokens) > 5, len(tokens))
    finally:
        server.stop()
    print(f"oauth: {passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()))
