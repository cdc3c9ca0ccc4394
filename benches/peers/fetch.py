"""The server's ceiling as one client sees it: reads every page, keeps none, looks for nothing but the `next` token.

usage: fetch.py URL KEY_FILE OUT, where OUT becomes the number of bytes read
"""

import base64
import http.client
import pathlib
import sys
import urllib.parse


def main(url, key_file, out):
    key = pathlib.Path(key_file).read_text().strip()
    headers = {"authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.netloc, timeout=60)
    first = path = f"{where.path}/opportunities?limit=100"
    total = 0
    while path:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        page = answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}")
        total += len(page)
        # The token stands after the records, so the last one found is it.
        at = page.rfind(b'"next":"', -1000)
        if at < 0:
            break
        token = page[at + 8 : page.index(b'"', at + 8)].decode()
        path = f"{first}&offset={urllib.parse.quote(token, safe='')}"
    pathlib.Path(out).write_text(str(total))


main(*sys.argv[1:])
