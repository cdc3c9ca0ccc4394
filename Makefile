# `make` alone prints what there is. Everything but the `test-…` targets needs only Rust and make.

CARGO   ?= cargo
PYTHON  ?= python3
ENGINES := target/engines
OAUTH   := target/oauth
BROWSER := target/browser
DENY    := $(or $(shell command -v cargo-deny),$(wildcard $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hirelake-ci/bin/cargo-deny))

.DEFAULT_GOAL := help
.PHONY: help demo test test-engines test-oauth test-browser scale lint deny doc bench build ci clean

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

scale: ## a night, and a first load under deadlines, of 50,000 opportunities with eight tables of children (release; minutes)
	$(CARGO) test --release --test it -- --ignored --nocapture --test-threads 1 scale_

lint: ## check the format, and clippy with every warning an error
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

deny: ## check licences, duplicates and sources of the dependencies (needs cargo-deny)
	@test -n "$(DENY)" || { echo "cargo-deny is missing: cargo install cargo-deny --locked --version 0.20.2" >&2; exit 1; }
	$(DENY) check licenses bans sources

doc: ## build the documentation of the library
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items

bench: ## run the benches: decode a page, merge a partition, a whole sync
	$(CARGO) bench --bench transform --bench load --bench sync

build: ## build the release binary, target/release/hirelake
	$(CARGO) build --release --locked

ci: ## run what must pass before anything lands
	.ci/run

clean: ## remove what was built, and the demo's folder
	$(CARGO) clean
	rm -rf hirelake-demo
