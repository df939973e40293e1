# `make` alone says what there is to make.

CARGO ?= cargo
# Cargo.lock says which versions were tested; nothing here changes it.
LOCKED := --locked

.DEFAULT_GOAL := help
.PHONY: help demo test interop tcp-proof tls-proof lint build sim bench-balance bench-filters fuzz clean prerequisites

help: ## say what can be made
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1 \2/p' $(MAKEFILE_LIST) | awk '{ printf "  %-14s", $$1; $$1 = ""; print }'

# The development profile: it compiles soonest, as it does not optimize, and `make test` uses what
# it compiled. Fat LTO is for `make build`.
demo: prerequisites ## build in the quick way, and run three backends with a balancer in front
	@$(CARGO) run $(LOCKED) -- demo

test: prerequisites ## run all tests, those in the documentation included
	$(CARGO) test $(LOCKED)

# Clients that others have written. The script installs what it needs of them, or names it.
interop: prerequisites ## curl, h2load, nghttp, openssl and Python clients through the binary, a minute
	$(CARGO) build $(LOCKED)
	tests/interop/run.sh target/debug/pingora-lb

# The long forms of tests that `make test` has in short.
tcp-proof: prerequisites ## 10 GiB through one TCP connection, and 5,000 of them at once, in little memory
	PINGORA_LB_TEST_BIG=1 $(CARGO) test $(LOCKED) --test it -- --nocapture --test-threads 1 streams:: --skip http2

tls-proof: prerequisites ## swap certificates a hundred times under load, with no failed handshake
	SWAPS=100 $(CARGO) test $(LOCKED) --test it -- --nocapture certificates_are_swapped_under_load

# How much of it; see docs/operations.md.
RELOADS ?= 100
HAND_OVERS ?= 20
SLOW_SECONDS ?= 30
upgrade-proof: prerequisites ## reloads and hand-overs under clients of every kind, none of whom notices, some minutes
	RELOADS=$(RELOADS) HAND_OVERS=$(HAND_OVERS) SLOW_SECONDS=$(SLOW_SECONDS) \
	    $(CARGO) test $(LOCKED) --test it -- --nocapture nothing_is_lost
	RELOADS_FOR_MEMORY=1000 RELOADS_OF_MANY=10 $(CARGO) test $(LOCKED) --test it -- --nocapture --test-threads 1 reload_cost::

lint: prerequisites ## check formatting, lints and documentation; a warning is an error
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(LOCKED) --no-deps

build: prerequisites ## build the release, target/release/pingora-lb, which takes its time
	$(CARGO) build $(LOCKED) --release

# The servers that it is measured beside come from Debian; what is missing is installed as root or named.
bench-balance: build ## measure the policies beside nginx and HAProxy, some ten minutes
	@for server in nginx haproxy; do \
	    PATH=$$PATH:/usr/sbin command -v $$server >/dev/null || { \
	        [ "$$(id -u)" = 0 ] || { echo "Missing: $$server. Install it: sudo apt-get install $$server" >&2; exit 1; }; \
	        apt-get install -y -q --no-install-recommends $$server </dev/null || exit 1; }; \
	done
	PATH=$$PATH:/usr/sbin $(CARGO) run $(LOCKED) --release --example compare_balancing

bench-filters: prerequisites ## measure what filters cost a request, some two minutes
	@command -v wrk >/dev/null || { echo "Missing: wrk. Install it: sudo apt-get install wrk" >&2; exit 1; }
	$(CARGO) run $(LOCKED) --release --example filter_cost

# Seconds for each target; the long form is 600.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= config route head chunks proxy_header hello cookie filters
# A toolchain that is not nightly has no sanitizers. What is looked for are panics, and those it finds.
fuzz: prerequisites ## look for input that breaks a promise of the parsers, FUZZ_SECONDS (600) for each target
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install $(LOCKED) cargo-fuzz
	@for target in $(FUZZ_TARGETS); do \
	    mkdir -p target/fuzz-corpus/$$target; \
	    $(CARGO) fuzz run --sanitizer none $$target target/fuzz-corpus/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 || exit 1; \
	done

sim: prerequisites ## simulate every balancing policy; writes the tables and plots of docs/balancing.md
	$(CARGO) run $(LOCKED) --release --example simulate

clean: ## remove what was built
	$(CARGO) clean

# Besides Rust, a build needs a C compiler and cmake, for the C libraries in Pingora (zlib-ng, zstd)
# and the allocator. Where apt-get may be used without a password, what is missing is installed;
# elsewhere it is named.
prerequisites:
	@command -v $(CARGO) >/dev/null || { echo 'Rust is missing. Install it as https://rustup.rs says.' >&2; exit 1; }
	@missing=; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	command -v cmake >/dev/null || missing="$$missing cmake"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	root=none; \
	if [ "$$(id -u)" = 0 ]; then root=; elif sudo -n true 2>/dev/null; then root=sudo; fi; \
	if command -v apt-get >/dev/null && [ "$$root" != none ]; then \
	    echo "Installing$$missing"; \
	    $$root apt-get update -q && \
	    $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing </dev/null; \
	else \
	    echo "Missing:$$missing. Install them first; on Debian and Ubuntu:" >&2; \
	    echo "  sudo apt-get install$$missing" >&2; \
	    exit 1; \
	fi
