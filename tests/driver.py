"""What every script has in common that runs the binary: `hirelake sandbox`, a configuration, an environment, secrets.

Needs nothing but Python.
"""

import json
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import urllib.request

SECRET = "sandbox-secret"
WAIT_S = 60
CALLBACK = "http://localhost:8914/callback"
BROWSER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# What no output may hold; whoever makes a secret adds it.
hidden = {SECRET}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def private(path, text):
    """A file that its owner alone may read, from its first moment."""
    path = pathlib.Path(path)
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def clean_env(more=None, without=()):
    """The environment without what speaks to the program or its clients, and without names that begin with one of `without`."""
    prefixes = ("HIRELAKE_", "AWS_", "AZURE_", "GOOGLE_", "AZURITE_", *without)
    env = {k: v for k, v in os.environ.items() if not k.startswith(prefixes) and not k.lower().endswith("_proxy")}
    return {**env, **(more or {})}


class Sandbox:
    """`hirelake sandbox` as a process of its own. No rate limit, unless `more` says so."""

    def __init__(self, binary, accounts, *more, log=None):
        sizes = [f"--account={name}={n}" for name, n in accounts.items()]
        rate = [] if any(str(word).startswith("--rate") for word in more) else ["--rate=0"]
        command = [binary, "sandbox", "--listen=127.0.0.1:0", *rate, *sizes, *more]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=clean_env())
        first = self.process.stdout.readline()
        self.url = next((word.rstrip(";") for word in first.split() if word.startswith("http")), None)
        if not self.url:
            self.end()
            raise SystemExit(f"the sandbox did not start: {first!r}")

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def do(self, op, **arguments):
        body = json.dumps({"op": op, **arguments}).encode()
        request = urllib.request.Request(f"{self.url}/_control", body, {"content-type": "application/json"})
        return json.loads(BROWSER.open(request, timeout=WAIT_S).read())["result"]

    def dump(self, account, resource):
        return json.loads(BROWSER.open(f"{self.url}/_control/dump/{account}/{resource}", timeout=WAIT_S).read())["data"]

    def stats(self):
        return json.loads(BROWSER.open(f"{self.url}/_control/stats", timeout=WAIT_S).read())

    def api_key(self, account):
        key = self.do("api_key", account=account)
        hidden.add(key)
        return key


def configure(folder, url, defaults="", top='lake = "lake"\nstate = "state"', sync="", secret=SECRET, **app):
    """Writes `hirelake.toml` with an app at `url`, a vault key and the client's secret. `app` says more of the app, or otherwise;
    `defaults`, `top` and `sync` are the lines of their sections."""
    key = secrets.token_hex(32)
    hidden.update([key, secret])
    private(folder / "vault.key", key)
    private(folder / "client.secret", secret)
    values = {
        "environment": "sandbox",
        "client_id": "sandbox-client",
        "redirect_uris": [CALLBACK],
        "api_base": f"{url}/v1",
        "authorize": f"{url}/authorize",
        "token": f"{url}/oauth/token",
        "revoke": f"{url}/oauth/revoke",
        "audience": f"{url}/v1/",
        **app,
    }
    # A string or a list of strings is the same in TOML as in JSON.
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    path = folder / "hirelake.toml"
    path.write_text(
        f"""
{top}
[vault]
key = {{ file = "vault.key" }}
[apps.main]
client_secret = {{ file = "client.secret" }}
{lines}
[defaults]
{defaults}
[sync]
{sync}
"""
    )
    return path
