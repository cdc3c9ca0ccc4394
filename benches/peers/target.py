"""A small Singer target: one stream from standard input to one Parquet file.

usage: target.py OUT.parquet

The Arrow schema is made from the SCHEMA message: lists and objects as such, what has no type as JSON, times as times but
within an object as text. Records are not validated against it, which the usual targets do, so this one is quick. State is
read and thrown away.
"""

import sys

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 10_000
TEXT, TIME = pa.string(), pa.timestamp("us", tz="UTC")
SIMPLE = {"string": TEXT, "boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64()}


def kind(schema, time=TEXT):
    """The type of a column, with this type for its times; None is JSON."""
    types = schema.get("type", [])
    types = [t for t in ([types] if isinstance(types, str) else types) if t != "null"]
    if types == ["array"]:
        item = kind(schema.get("items", {}))
        return item and pa.list_(item)
    if types == ["object"] and schema.get("properties"):
        return pa.struct([(name, kind(of) or TEXT) for name, of in schema["properties"].items()])
    if types == ["string"] and schema.get("format") == "date-time":
        return time
    return SIMPLE.get(types[0]) if len(types) == 1 else None


def columns(schema, time=TEXT):
    return pa.schema([(name, kind(of, time) or TEXT) for name, of in schema["properties"].items()])


class Writer:
    def __init__(self, out, schema):
        self.json = [name for name, of in schema["properties"].items() if kind(of) is None]
        # Times come as text; Arrow parses a column of them at once.
        self.parsed, self.schema = columns(schema), columns(schema, TIME)
        self.file = pq.ParquetWriter(out, self.schema, compression="zstd")
        self.rows = []

    def add(self, record):
        for name in self.json:
            if record.get(name) is not None:
                record[name] = orjson.dumps(record[name]).decode()
        self.rows.append(record)
        if len(self.rows) >= GROUP_ROWS:
            self.flush()

    def flush(self):
        if self.rows:
            self.file.write_table(pa.Table.from_pylist(self.rows, self.parsed).cast(self.schema))
            self.rows = []


def main(out):
    writer = None
    for line in sys.stdin.buffer:
        message = orjson.loads(line)
        if message["type"] == "RECORD":
            writer.add(message["record"])
        # The tap repeats its schema before every page.
        elif message["type"] == "SCHEMA" and writer is None:
            writer = Writer(out, message["schema"])
        elif message["type"] == "SCHEMA" and columns(message["schema"], TIME) != writer.schema:
            raise SystemExit("the schema changed on the way")
    writer.flush()
    writer.file.close()


main(*sys.argv[1:])
