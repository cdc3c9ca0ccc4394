# `make` alone prints what there is. Everything but the `test-…` targets needs only Rust and make.

CARGO   ?= cargo
PYTHON  ?= python3
ENGINES := target/engines
OAUTH   := target/oauth
BROWSER := target/browser
STORES  := target/stores
PEERS   := target/peers
# With it the binary says itself of which crates it is made.
AUDIT   := $(if $(or $(shell command -v cargo-auditable),$(wildcard $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hirelake-ci/bin/cargo-auditable)),auditable)
DENY    := $(or $(shell command -v cargo-deny),$(wildcard $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hirelake-ci/bin/cargo-deny))

.DEFAULT_GOAL := help
.PHONY: help demo test test-engines test-oauth test-browser test-stores torture scale fuzz fuzz-lock lint deny sbom doc test-counts bench bench-counts bench-whole bench-peers build ci clean

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## see the whole path in a minute: a pretend Lever, two tenants, two syncs (writes hirelake-demo/)
	@$(CARGO) run --quiet -- demo

test: ## run every test that needs only Rust
	$(CARGO) test --lib --bins --test it
	$(CARGO) test --doc

test-engines: $(ENGINES)/venv/ready ## read the lake back with DuckDB and pyarrow (installed into target/)
	$(CARGO) build --quiet
	$(ENGINES)/venv/bin/python tests/engines/run.py target/debug/hirelake $(ENGINES)/run

$(ENGINES)/venv/ready: tests/engines/requirements.txt
	$(PYTHON) -m venv --clear $(ENGINES)/venv
	$(ENGINES)/venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

test-oauth: $(OAUTH)/venv/ready ## grants against a real OAuth server, django-oauth-toolkit (installed into target/)
	$(CARGO) build --quiet
	$(OAUTH)/venv/bin/python tests/oauth/run.py target/debug/hirelake $(OAUTH)/run

$(OAUTH)/venv/ready: tests/oauth/requirements.txt
	$(PYTHON) -m venv --clear $(OAUTH)/venv
	$(OAUTH)/venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

test-browser: $(BROWSER)/node_modules/ready ## walk through the connect page in Chromium (needs node, npm, chromium; screenshots in target/browser/)
	$(CARGO) build --quiet
	node tests/browser/run.mjs target/debug/hirelake $(BROWSER)

$(BROWSER)/node_modules/ready: tests/browser/package.json
	mkdir -p $(BROWSER)
	cp $< $(BROWSER)/package.json
	npm install --prefix $(BROWSER) --no-package-lock --no-audit --no-fund --silent
	@touch $@

test-stores: $(STORES)/ready ## disks, object stores and hosts that fail (root, or what .ci/run installs; needs node, npm; minutes)
	$(CARGO) build --quiet
	$(STORES)/venv/bin/python tests/stores/run.py target/debug/hirelake $(STORES)/run

$(STORES)/ready: tests/stores/requirements.txt tests/stores/requirements-proxy.txt tests/stores/package.json
	mkdir -p $(STORES)
	$(PYTHON) -m venv --clear $(STORES)/venv
	$(STORES)/venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/stores/requirements.txt
	$(PYTHON) -m venv --clear $(STORES)/proxy
	$(STORES)/proxy/bin/python -m pip install --quiet --disable-pip-version-check -r tests/stores/requirements-proxy.txt
	cp tests/stores/package.json $(STORES)/package.json
	npm install --prefix $(STORES) --no-package-lock --no-audit --no-fund --silent
	@touch $@

torture: $(STORES)/ready ## 300 SIGKILLs on an object store whose provider fails one call in twenty (prints its seed; the better part of an hour)
	$(CARGO) build --quiet
	$(STORES)/venv/bin/python tests/stores/torture.py target/debug/hirelake $(STORES)/torture 300

scale: ## a night, and a first load under deadlines, of 50,000 opportunities with eight tables of children (release; minutes)
	$(CARGO) test --release --test it -- --ignored --nocapture --test-threads 1 scale_

fuzz: ## run each fuzz target for FUZZ_SECONDS (30); installs cargo-fuzz into the cache; see docs/fuzzing.md
	tests/fuzz/run

fuzz-lock: ## give the fuzz targets the versions of Cargo.lock again (after a change of the dependencies)
	cp Cargo.lock tests/fuzz/Cargo.lock
	$(CARGO) metadata --manifest-path tests/fuzz/Cargo.toml --format-version 1 >/dev/null

lint: ## check the format, and clippy with every warning an error
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

deny: ## check licences, duplicates and sources of the dependencies (needs cargo-deny)
	@test -n "$(DENY)" || { echo "cargo-deny is missing: cargo install cargo-deny --locked --version 0.20.2" >&2; exit 1; }
	$(DENY) check licenses bans sources

sbom: ## write the release's bill of materials, target/hirelake.cdx.json, and check it (installs cargo-cyclonedx into the cache)
	tests/supply/sbom

doc: ## build the documentation of the library
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items

bench: ## run the benches: decode a page, encode and merge a partition, a whole sync, a fleet
	$(CARGO) bench --bench transform --bench load --bench sync

bench-counts: ## instructions of the hot loops against benches/counts.json; COUNTS=--save writes it anew (needs valgrind)
	$(CARGO) build --profile counts --locked --example counts
	$(PYTHON) benches/counts.py target/counts/examples/counts counts $(COUNTS)

test-counts: ## the same of a build as for tests, in a minute: fails where one has doubled (needs valgrind)
	$(CARGO) build --quiet --locked --example counts
	$(PYTHON) benches/counts.py target/debug/examples/counts dev $(COUNTS)

bench-whole: ## whole runs against the sandbox: beside a bare loop, growing, at several latencies, many tenants (release; minutes)
	$(CARGO) build --release --locked --bin hirelake --example bare
	$(PYTHON) benches/whole.py target/release/hirelake target/release/examples/bare target/bench

bench-peers: $(PEERS)/ready ## the same load beside dlt, tap-lever and a script in Python (installed into target/; minutes)
	$(CARGO) build --release --locked --quiet --bin hirelake --example bare
	$(PYTHON) benches/peers/run.py target/release/hirelake $(PEERS)/run --bare target/release/examples/bare

$(PEERS)/ready: $(addprefix benches/peers/,requirements.txt requirements-dlt.txt requirements-tap.txt)
	$(PYTHON) -m venv --clear $(PEERS)/script
	$(PEERS)/script/bin/python -m pip install --quiet --disable-pip-version-check -r benches/peers/requirements.txt
	$(PYTHON) -m venv --clear $(PEERS)/dlt
	$(PEERS)/dlt/bin/python -m pip install --quiet --disable-pip-version-check -r benches/peers/requirements-dlt.txt
	$(PYTHON) -m venv --clear $(PEERS)/tap
	$(PEERS)/tap/bin/python -m pip install --quiet --disable-pip-version-check -r benches/peers/requirements-tap.txt
	@touch $@

build: ## build the release binary, target/release/hirelake; auditable where cargo-auditable is installed
	PATH="$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hirelake-ci/bin:$$PATH" $(CARGO) $(AUDIT) build --release --locked

ci: ## run what must pass before anything lands
	.ci/run

clean: ## remove what was built, and the demo's folder
	$(CARGO) clean
	rm -rf hirelake-demo
