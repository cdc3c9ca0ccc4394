"""Reads a lake back with engines that nobody here wrote, and compares it with the pretend provider's own records.

usage: run.py HIRELAKE FOLDER

Starts `hirelake sandbox`, connects two tenants through its consent page, syncs, compares; changes what the accounts hold,
syncs, compares again; and once more with nothing new. Every table is read by DuckDB and by pyarrow over one plain glob:
types are those of the catalogue, each row is turned back into what the provider sends, deleted ones are redacted.
Then, for a tenant that reads children too: two people are erased at the provider, one deleted and one anonymized, and after
one sync pyarrow looks for their names and addresses in every decoded value, footer and statistic of the lake.
Needs duckdb and pyarrow, nothing else. Exits 1 when anything differs, and says what.
"""

import datetime
import html.parser
import json
import pathlib
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))
import driver

CATALOGUE = tomllib.loads((ROOT / "pipelines/lever.toml").read_text())
RESOURCES = {r["name"]: {**CATALOGUE["defaults"], **r} for r in CATALOGUE["resource"]}
# What a tenant reads that names nothing.
ALWAYS = {name: r for name, r in RESOURCES.items() if r.get("default", True) is True}
TENANTS = {"acme": 1200, "globex": 90}
# Everything that hangs on a person.
PERSONAL = ["opportunities", "applications", "contacts", "opportunities_deleted", "feedback", "files", "file_actions",
            "interviews", "notes", "offers", "panels", "referrals", "resumes", "forms"]
SYSTEM = {"_synced_at": "timestamp", "_deleted_at": "timestamp", "_row_hash": "int", "_extra": "text"}

passed, failed = 0, []


def check(what, ok, detail=""):
    global passed
    if ok:
        passed += 1
    else:
        failed.append(what)
        print(f"DIFFERS  {what}  {str(detail)[:2000]}", flush=True)


def equal(what, found, expected):
    check(what, found == expected, f"found {found!r}, expected {expected!r}")


# The catalogue: what a column is called, where it comes from, and what it must look like to an engine.


def source(column):
    first, *rest = column["name"].split("_")
    return column.get("source", first + "".join(word.capitalize() for word in rest))


def plain(ty):
    return ty.removesuffix("(lenient)")


def item(column):
    """The column that stands for an element of a list."""
    return {**column, "type": column["type"].removeprefix("list<").removesuffix(">")}


def duck_type(column):
    ty = plain(column["type"])
    if ty.startswith("list<"):
        return duck_type(item(column)) + "[]"
    if ty == "struct":
        return "STRUCT(" + ", ".join(f"{f['name']} {duck_type(f)}" for f in column["fields"]) + ")"
    names = {"int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN", "timestamp": "TIMESTAMP WITH TIME ZONE"}
    return names.get(ty, "VARCHAR")


def arrow_type(column):
    ty = plain(column["type"])
    if ty.startswith("list<"):
        return pa.list_(pa.field("element", arrow_type(item(column))))
    if ty == "struct":
        return pa.struct([(f["name"], arrow_type(f)) for f in column["fields"]])
    types = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "timestamp": pa.timestamp("us", tz="UTC")}
    return types.get(ty, pa.string())


def columns(resource):
    return [{"name": n, "type": t} for n, t in SYSTEM.items()] + resource["columns"]


# Back to what the provider sends.


def milliseconds(moment):
    return (moment - datetime.datetime.fromtimestamp(0, datetime.UTC)) // datetime.timedelta(milliseconds=1)


def cell(column, value):
    ty = plain(column["type"])
    if value is None:
        return None
    if ty.startswith("list<"):
        return [cell(item(column), v) for v in value]
    if ty == "struct":
        return {source(f): cell(f, value[f["name"]]) for f in column["fields"]}
    return milliseconds(value) if ty == "timestamp" else json.loads(value) if ty == "json" else value


def without_nulls(value):
    """A null says the same as a missing field."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def record(resource, row):
    """A row as the provider sends it: typed cells and `_extra` put together again."""
    rebuilt = {source(c): cell(c, row[c["name"]]) for c in resource["columns"] if c.get("from_parent") != "createdAt"}
    for pointer, value in json.loads(row["_extra"] or "{}").items():
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
        place = rebuilt
        for part in path:
            place = place[int(part) if isinstance(place, list) else part]
        place[int(last) if isinstance(place, list) else last] = value
    return without_nulls(rebuilt)


def sent(resource, row):
    """A record as a lake can hold it: nulls left out, and numbers where the catalogue takes a numeric string for one."""
    row = without_nulls(row)
    for c in resource["columns"]:
        value = row.get(source(c))
        if c["type"].endswith("(lenient)") and isinstance(value, str) and value.isdecimal():
            row[source(c)] = int(value)
    return row


def key(resource, row):
    return "/".join(row[k] for k in resource["key"])


# The pretend provider, and the program.


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


BROWSER = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)


class Hidden(html.parser.HTMLParser):
    """The consent form's hidden fields."""

    def __init__(self):
        super().__init__()
        self.fields = {}

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "input" and attributes.get("type") == "hidden":
            self.fields[attributes["name"]] = attributes["value"]


def browse(address, form=None):
    """Where a redirect leads, else the body."""
    data = urllib.parse.urlencode(form).encode() if form else None
    try:
        return None, BROWSER.open(address, data, timeout=driver.WAIT_S).read().decode()
    except urllib.error.HTTPError as answer:
        if answer.code in (302, 303):
            return answer.headers["location"], ""
        raise


class Sandbox(driver.Sandbox):
    def truth(self, account, name):
        resource = RESOURCES[name]
        if name in ("applications", "contacts"):
            # These are seen inside of expanded opportunities only.
            whole = self.dump(account, "opportunities_expanded")
            rows = [a for o in whole for a in o["applications"]] if name == "applications" else [o["contact"] for o in whole]
        else:
            rows = self.dump(account, name.replace("_deleted", "/deleted"))
        if not resource.get("keep_extra", True):
            declared = {source(c) for c in resource["columns"]}
            rows = [{k: v for k, v in row.items() if k in declared} for row in rows]
        return {key(resource, row): sent(resource, row) for row in rows}


def configure(folder, url, callback, resources=None):
    named = f"resources = {json.dumps(resources)}" if resources else ""
    defaults = f"rate = {{ per_second = 1000.0, burst = 1000 }}\n{named}"
    sync = 'safety_lag = "1s"\noverlap = "10s"'
    return driver.configure(folder, url, defaults, sync=sync, redirect_uris=[callback])


def connect(hirelake, config, url, tenant, by_form):
    command = [hirelake, f"--config={config}", "connect", tenant, "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        link = next((line.strip() for line in process.stderr if line.startswith("http")), None)
        if link is None:
            raise SystemExit(f"`hirelake connect {tenant}` printed no link")
        if by_form:
            page = Hidden()
            page.feed(browse(link)[1])
            answer = {**page.fields, "account": tenant, "decision": "accept"}
            back, _ = browse(f"{url}/authorize/decision", answer)
        else:
            back, _ = browse(f"{link}&auto_accept={tenant}")
        for attempt in range(50):
            try:
                browse(back)
                break
            except urllib.error.URLError:
                # The link is printed a moment before the callback's port is open.
                if attempt == 49:
                    raise
                time.sleep(0.1)
        out, err = process.communicate(timeout=driver.WAIT_S)
        equal(f"connect {tenant}: exit code", (process.returncode, err if process.returncode else ""), (0, ""))
        check(f"connect {tenant}: says so", "is connected" in out, out)
    finally:
        if process.poll() is None:
            process.kill()


def sync(hirelake, config, story):
    command = [hirelake, f"--config={config}", "sync"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    equal(f"{story}: exit code", (done.returncode, done.stderr if done.returncode else ""), (0, ""))
    return json.loads(done.stdout.splitlines()[-1])


# What the engines see.


def glob(lake, name):
    return f"{lake}/lever/{name}/**/*.parquet"


def by_duckdb(lake, name):
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    table = f"read_parquet('{glob(lake, name)}', hive_partitioning = true)"
    types = {r[0]: r[1].replace('"', "") for r in con.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()}
    rows = con.execute(f"SELECT * FROM {table}").to_arrow_table()
    counts = con.execute(f"SELECT tenant, count(*) FROM {table} GROUP BY 1").fetchall()
    return types, rows.to_pylist(), dict(counts)


def by_pyarrow(lake, name):
    folder = f"{lake}/lever/{name}"
    dataset = pyarrow.dataset.dataset(folder, format="parquet", partitioning="hive")
    return dataset.schema, dataset.to_table().to_pylist()


def compare(lake, sandbox, story):
    for name, resource in ALWAYS.items():
        types, duck, counts = by_duckdb(lake, name)
        schema, arrow = by_pyarrow(lake, name)
        differ = len(failed)
        for c in columns(resource):
            equal(f"{story}, {name}.{c['name']}: DuckDB's type", types.get(c["name"]), duck_type(c))
            found = schema.field(c["name"]).type if c["name"] in schema.names else None
            equal(f"{story}, {name}.{c['name']}: pyarrow's type", found, arrow_type(c))
        if len(failed) > differ:
            print(f"         values of {name} are not compared, since its types differ")
            continue
        for tenant in TENANTS:
            truth = sandbox.truth(tenant, name)
            what = f"{story}, {tenant}'s {name}"
            per_engine = {}
            for engine, rows in (("DuckDB", duck), ("pyarrow", arrow)):
                own = [r for r in rows if r["tenant"] == tenant]
                keys = [key(resource, r) for r in own]
                equal(f"{what} by {engine}: one row a key", len(keys), len(set(keys)))
                living = {key(resource, r): record(resource, r) for r in own if r["_deleted_at"] is None}
                equal(f"{what} by {engine}: keys", sorted(living), sorted(truth))
                wrong = next((k for k in truth if k in living and living[k] != truth[k]), None)
                check(f"{what} by {engine}: values", wrong is None, wrong and (living[wrong], truth[wrong]))
                dead = [r for r in own if r["_deleted_at"] is not None]
                hidden = [c["name"] for c in resource["columns"] if c.get("sensitive")] + ["_extra"]
                left = [c for r in dead for c in hidden if r[c] is not None]
                equal(f"{what} by {engine}: deleted rows are redacted", left, [])
                per_engine[engine] = {key(resource, r): [r[c["name"]] for c in columns(resource)] for r in own}
                equal(f"{what} by {engine}: hashes and times are there", [], [
                    k for k, r in zip(keys, own) if r["_row_hash"] is None or r["_synced_at"] is None
                ])
            check(f"{what}: both engines see the same, system columns too", per_engine["DuckDB"] == per_engine["pyarrow"])
            equal(f"{what}: count(*) over the glob", counts.get(tenant, 0), len(per_engine["DuckDB"]))
        cut = next((c for c in ("created_year", "opportunity_year") if c in types), None)
        if cut:
            time_of = {"created_year": "created_at", "opportunity_year": "opportunity_created_at"}[cut]
            wrong = [r for r in duck if r[cut] != r[time_of].year]
            equal(f"{story}, {name}: every row lies in the year of its {time_of}", wrong, [])


def files(lake):
    return {str(p.relative_to(lake)): p.read_bytes() for p in lake.glob("lever/**/*") if p.is_file()}


def footers(lake, story):
    """What readers skip by: statistics, order, bloom filters; and that no glob mixes shapes."""
    con = duckdb.connect()
    for name, resource in ALWAYS.items():
        shapes = set()
        for path in sorted(lake.glob(f"lever/{name}/**/*.parquet")):
            what = f"{story}, {path.relative_to(lake)}"
            footer = pq.ParquetFile(path).metadata
            shapes.add(str(pq.read_schema(path)))
            groups = [footer.row_group(g) for g in range(footer.num_row_groups)]
            leaves = {c["name"]: None for c in columns(resource) if plain(c["type"]) in ("text", "ref", "int", "timestamp")}
            for group in groups:
                chunks = [group.column(i) for i in range(group.num_columns)]
                stats = {c.path_in_schema: c.statistics for c in chunks if c.path_in_schema in leaves}
                check(f"{what}: statistics", all(s is not None and s.has_null_count for s in stats.values()))
                for k in resource["key"]:
                    check(f"{what}: least and greatest {k}", stats[k].has_min_max and stats[k].null_count == 0)
                check(f"{what}: says how it is sorted", len(group.sorting_columns) > 0)
                equal(f"{what}: compression", {c.compression for c in chunks}, {"ZSTD"})
            # The bloom filter of the key: never says no to a row that is there, nearly always to one that is not.
            by = resource["key"][0]
            there = pq.read_table(path, columns=[by]).column(by).to_pylist()
            probe = "SELECT bool_and(bloom_filter_excludes) FROM parquet_bloom_probe(?, ?, ?)"
            excluded = [v for v in there[:5] if con.execute(probe, [str(path), by, v]).fetchone()[0]]
            equal(f"{what}: bloom filter of {by} finds what is there", excluded, [])
            strange = [con.execute(probe, [str(path), by, f"nobody-{i}"]).fetchone()[0] for i in range(20)]
            check(f"{what}: bloom filter of {by} excludes what is not", strange.count(True) >= 16, strange)
        equal(f"{story}, {name}: files of one shape", len(shapes), 1)


def joins(lake, story):
    """A question as an analyst asks it, over globs alone."""
    con = duckdb.connect()
    tables = {n: f"read_parquet('{glob(lake, n)}', hive_partitioning = true)" for n in ALWAYS}
    asked = con.execute(f"""
        SELECT count(*), count(p.id), count(o.id) FROM {tables["applications"]} a
        LEFT JOIN {tables["postings"]} p ON p.tenant = a.tenant AND p.id = a.posting
        LEFT JOIN {tables["opportunities"]} o ON o.tenant = a.tenant AND o.id = a.opportunity_id
        WHERE a._deleted_at IS NULL""").fetchone()
    applications = con.execute(f"SELECT count(*) FROM {tables['applications']} WHERE _deleted_at IS NULL").fetchone()[0]
    equal(f"{story}: joins double nothing and every application has its opportunity", (asked[0], asked[2]), (applications,) * 2)
    check(f"{story}: applications find their postings", asked[1] > 0, asked)


def deleted(lake, story, feeds):
    """Who was deleted at the provider is still there by id, with the time, and without the person."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    for (tenant, name), tombstone in feeds.items():
        row = con.execute(
            f"SELECT epoch_ms(_deleted_at) FROM read_parquet('{glob(lake, name)}') WHERE tenant = ? AND id = ?",
            [tenant, tombstone["id"]],
        ).fetchall()
        equal(f"{story}: {tenant}'s deleted {name} row has the feed's time", row, [(tombstone["deletedAt"],)])


def run(hirelake, folder):
    callback = f"http://127.0.0.1:{driver.free_port()}/callback"
    sandbox = Sandbox(hirelake, TENANTS, f"--redirect-uri={callback}")
    try:
        config = configure(folder, sandbox.url, callback)
        lake = folder / "lake"
        for i, tenant in enumerate(TENANTS):
            connect(hirelake, config, sandbox.url, tenant, by_form=i == 0)

        # What the catalogue does not know, and what does not fit it, is there from the start.
        strange = sandbox.dump("acme", "opportunities")[0]["id"]
        for field, value in (("newField", {"deep": [1.5, None]}), ("headline", 7), ("snoozedUntil", "1719073600001")):
            check(
                f"the sandbox takes {field}",
                sandbox.do("set_field", account="acme", resource="opportunities", id=strange, field=field, value=value),
            )
        time.sleep(3)

        summary = sync(hirelake, config, "first sync")
        equal("first sync: tenants, failures, quarantine", (summary["tenants"], summary["failed"], summary["quarantined"]), (2, [], 0))
        compare(lake, sandbox, "first sync")
        footers(lake, "first sync")
        joins(lake, "first sync")
        print(f"first sync compared: {passed} passed, {len(failed)} failed", flush=True)

        before = files(lake)
        edited = sandbox.do("edit", account="acme", n=25, seed=3)
        sandbox.do("add", account="acme", n=7)
        sandbox.do("archive", account="acme", id=edited[0])
        sandbox.do("anonymize", account="acme", id=edited[1])
        posting = sandbox.dump("acme", "postings")[0]["id"]
        sandbox.do("edit_posting", account="acme", id=posting)
        sandbox.do("remove_user", account="acme", id=sandbox.dump("acme", "users")[-1]["id"])
        gone = sandbox.dump("globex", "opportunities")[2]["id"]
        check("the sandbox deletes an opportunity", sandbox.do("delete_opportunity", account="globex", id=gone))
        check("the sandbox deletes a posting", sandbox.do("delete_posting", account="globex", id=sandbox.dump("globex", "postings")[0]["id"]))
        time.sleep(3)

        second = sync(hirelake, config, "second sync")
        compare(lake, sandbox, "second sync")
        footers(lake, "second sync")
        joins(lake, "second sync")
        feeds = {
            ("globex", name): max(sandbox.dump("globex", f"{name}/deleted"), key=lambda t: t["deletedAt"])
            for name in ("opportunities", "postings")
        }
        equal("the newest tombstone is of the deleted opportunity", feeds["globex", "opportunities"]["id"], gone)
        deleted(lake, "second sync", feeds)
        check("second sync: fewer requests", second["requests"] < summary["requests"], (second["requests"], summary["requests"]))
        touched = {p for p, body in files(lake).items() if before.get(p) != body}
        equal("second sync: as many files replaced as it says", len(touched), second["partitions_rewritten"])

        before = files(lake)
        third = sync(hirelake, config, "third sync")
        equal("third sync: nothing rewritten", third["partitions_rewritten"], 0)
        check("third sync: the lake's bytes are the same", files(lake) == before)
    finally:
        sandbox.end()


# Who was erased is nowhere.


def texts(value):
    """Every text in a value, nested ones and those inside of JSON too."""
    if isinstance(value, dict):
        for k, v in value.items():
            yield from texts(k)
            yield from texts(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from texts(v)
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, str):
        yield value
        if value[:1] in "[{":
            try:
                yield from texts(json.loads(value))
            except ValueError:
                pass


def holds(value, wanted):
    return any(w in t.casefold() for t in texts(value) for w in wanted)


def search(lake, wanted):
    """Where in the lake one of `wanted` stands: (table, column, id, parent's id) of rows, and what footers and statistics say."""
    wanted = [w.casefold() for w in wanted]
    rows, elsewhere, seen = [], [], 0
    for path in sorted(lake.rglob("*.parquet")):
        table = path.relative_to(lake).parts[1]
        file = pq.ParquetFile(path)
        footer = file.metadata
        for entry in [footer.metadata or {}, str(footer.schema), footer.created_by, str(path)]:
            if holds(entry, wanted):
                elsewhere.append((str(path.relative_to(lake)), "footer"))
        for g in range(footer.num_row_groups):
            for c in range(footer.num_columns):
                column = footer.row_group(g).column(c)
                stats = column.statistics
                if stats is not None and stats.has_min_max:
                    seen += 1
                    if holds([stats.min, stats.max], wanted):
                        elsewhere.append((str(path.relative_to(lake)), column.path_in_schema))
        for row in file.read().to_pylist():
            seen += 1
            for name, value in row.items():
                if holds(value, wanted):
                    rows.append((table, name, row.get("id"), row.get("opportunity_id")))
    return rows, elsewhere, seen


def somebody(lake, people, taken):
    """A person of whom nothing stands in rows that are not their own, with rows in many tables."""
    for person in people:
        if person.get("isAnonymized") or not person["emails"] or person["id"] in taken:
            continue
        wanted = [person["name"], *person["emails"]]
        rows, elsewhere, _ = search(lake, wanted)
        own = {person["id"], person["contact"]}
        if all(own & {i, parent} for _, _, i, parent in rows) and len({t for t, *_ in rows}) >= 5:
            return person, wanted, rows
    raise SystemExit("nobody in the sandbox is fit for this")


def erasure(hirelake, folder):
    callback = f"http://127.0.0.1:{driver.free_port()}/callback"
    sandbox = Sandbox(hirelake, {"acme": 80}, f"--redirect-uri={callback}")
    try:
        folder.mkdir()
        config = configure(folder, sandbox.url, callback, PERSONAL)
        lake = folder / "lake"
        connect(hirelake, config, sandbox.url, "acme", by_form=True)
        time.sleep(3)
        sync(hirelake, config, "before an erasure")
        tables = {p.name for p in (lake / "lever").iterdir()}
        equal("before an erasure: every table of a person is there", sorted(set(PERSONAL) - tables), [])

        def verify(story, exit_code, *arguments, stdin=None):
            command = [hirelake, f"--config={config}", "verify", "acme", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=driver.WAIT_S, input=stdin)
            equal(f"{story}: verify {arguments[:1]} exits", (done.returncode, done.stdout if done.returncode != exit_code else ""), (exit_code, ""))
            return done.stdout + done.stderr

        people = sandbox.dump("acme", "opportunities")
        chosen = {}
        for op in ("delete_opportunity", "anonymize"):
            person, wanted, rows = somebody(lake, people, [p["id"] for p, _ in chosen.values()])
            chosen[op] = (person, wanted)
            said = verify(f"before {op}", 3, "--erased", person["id"], "--texts", "-", stdin="\n".join(wanted))
            check(f"before {op}: verify prints no value", not any(w in said for w in wanted))
            check(f"before {op}: pyarrow finds the person", len(rows) >= 5, rows)
        for op, (person, _) in chosen.items():
            check(f"the sandbox does {op}", sandbox.do(op, account="acme", id=person["id"]))
        time.sleep(3)
        sync(hirelake, config, "after an erasure")
        for op, (person, wanted) in chosen.items():
            rows, elsewhere, seen = search(lake, wanted)
            equal(f"after {op}: rows with the person", rows, [])
            equal(f"after {op}: footers and statistics with the person", elsewhere, [])
            check(f"after {op}: something was searched", seen > 500, seen)
            for i in (person["id"], person["contact"]):
                verify(f"after {op}", 0, "--erased", i)
                verify(f"after {op}", 0, "--erased", i, "--texts", "-", stdin="\n".join(wanted))
        verify("after an erasure", 0)
    finally:
        sandbox.end()


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    hirelake, folder = str(pathlib.Path(sys.argv[1]).resolve()), pathlib.Path(sys.argv[2]).resolve()
    if not pathlib.Path(hirelake).is_file():
        raise SystemExit(f"there is no {hirelake}: build it first")
    driver.fresh(folder)
    started = time.monotonic()
    run(hirelake, folder)
    erasure(hirelake, folder / "erasure")
    print(f"DuckDB {duckdb.__version__}, pyarrow {pa.__version__}, {time.monotonic() - started:.0f} s; the lake is in {folder}")
    print(f"engines: {passed} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
