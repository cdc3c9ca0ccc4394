"""Checks a bill of materials against what cargo links and what its lock file says; takes this machine's paths out of it."""

import json
import pathlib
import re
import sys
import tomllib

sbom_path, crates_path, lock_path = map(pathlib.Path, sys.argv[1:])

text = re.sub(r"path\+file://[^\"]*?#", "pkg:cargo/", sbom_path.read_text())
sbom = json.loads(text)
sbom_path.write_text(json.dumps(sbom, indent=1, ensure_ascii=False) + "\n")

lines = [line.split() for line in crates_path.read_text().splitlines() if line.strip()]
linked = {(words[0], words[1].removeprefix("v")) for words in lines}
itself = (sbom["metadata"]["component"]["name"], sbom["metadata"]["component"]["version"])
named = {(c["name"], c["version"]): c for c in sbom["components"]}
lock = {(p["name"], p["version"]): p for p in tomllib.loads(lock_path.read_text())["package"]}

wrong = [f"{name} {version} is linked and not named" for name, version in sorted(linked - set(named) - {itself})]
wrong += [f"{name} {version} is named and not in the lock file" for name, version in sorted(set(named) - set(lock))]
for crate, component in sorted(named.items()):
    hashes = [h["content"] for h in component.get("hashes", []) if h["alg"] == "SHA-256"]
    if hashes != [lock.get(crate, {}).get("checksum")]:
        wrong.append(f"{crate[0]} {crate[1]} has another checksum than in the lock file")
    if not component.get("licenses"):
        wrong.append(f"{crate[0]} {crate[1]} has no licence")
if "file://" in text.replace("download_url=file://.", ""):
    wrong.append("a path of this machine stands in it")
if len(linked) < 100:
    wrong.append(f"only {len(linked)} crates are linked: cargo tree was read wrongly")
if wrong:
    sys.exit("\n".join(wrong))
print(f"{sbom_path}: {len(named)} crates, all {len(linked)} that are linked among them")
