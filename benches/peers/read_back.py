"""Reads Parquet files back. Prints how many rows they hold, and how many distinct ids, as JSON.

usage: read_back.py FILE...
"""

import json
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ids = pa.chunked_array([c for f in sys.argv[1:] for c in pq.ParquetFile(f).read(columns=["id"])["id"].cast(pa.string()).chunks])
print(json.dumps({"rows": len(ids), "distinct": pc.count_distinct(ids).as_py()}))
