"""dlt, as its documentation shows it: a resource that follows `next`, the filesystem destination, Parquet.

usage: load_dlt.py nested|flat|arrow URL KEY_FILE OUT

nested: its defaults; a list within a record becomes a table of its own.
flat:   max_table_nesting=0; what is nested stays in its column as JSON.
arrow:  every page is made an Arrow table with a schema written down, which spares dlt looking at each value.
"""

import pathlib
import sys

import dlt
from dlt.sources.helpers import requests


def pages(url, key):
    session = requests.Client().session
    session.auth = (key, "")
    params = {"limit": 100}
    while True:
        answer = session.get(f"{url}/opportunities", params=params)
        page = answer.json()
        yield page["data"]
        if not page.get("next"):
            return
        params["offset"] = page["next"]


def main(how, url, key_file, out):
    key = pathlib.Path(key_file).read_text().strip()
    out = pathlib.Path(out).resolve()
    # Beside, so that what is measured is the lake alone.
    work = out.with_name(f"{out.name}-work")

    @dlt.resource(name="opportunities", max_table_nesting=0 if how == "flat" else None)
    def opportunities():
        if how != "arrow":
            yield from pages(url, key)
            return
        import pyarrow as pa
        from columns import OPPORTUNITY

        for page in pages(url, key):
            yield pa.Table.from_pylist(page, OPPORTUNITY)

    pipeline = dlt.pipeline(
        pipeline_name="peers",
        pipelines_dir=str(work),
        destination=dlt.destinations.filesystem(bucket_url=str(out)),
        dataset_name="lever",
    )
    pipeline.run(opportunities(), loader_file_format="parquet").raise_on_failed_jobs()


main(*sys.argv[1:])
