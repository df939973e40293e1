# `make` alone says what there is to make.

CARGO ?= cargo
# Cargo.lock says which versions were tested; nothing here changes it.
LOCKED := --locked

.DEFAULT_GOAL := help
.PHONY: help demo test dashboard-test interop tcp-proof tls-proof upgrade-proof systemd-proof soak slow-proof clock-proof lint deny build release-pgo sim bench bench-balance bench-filters bench-guard fuzz clean prerequisites

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

# Elsewhere, without the browser, `make test` says that the dashboard was not checked.
dashboard-test: prerequisites ## the dashboard in a browser without a screen; pictures in target/screenshots
	@command -v chromedriver >/dev/null && command -v chromium >/dev/null || { \
	    [ "$$(id -u)" = 0 ] || { echo 'Missing: chromium. Install it: sudo apt-get install chromium chromium-driver' >&2; exit 1; }; \
	    apt-get install -y -q --no-install-recommends chromium chromium-driver </dev/null || exit 1; }
	$(CARGO) test $(LOCKED) --test it -- --nocapture admin::dashboard

# The long forms of tests that `make test` has in short.
tcp-proof: prerequisites ## 10 GiB through one TCP connection, and 5,000 of them at once, in little memory
	PINGORA_LB_TEST_BIG=1 $(CARGO) test $(LOCKED) --test it -- --nocapture --test-threads 1 streams:: --skip http2

tls-proof: prerequisites ## swap certificates a hundred times under load, with no failed handshake
	SWAPS=100 $(CARGO) test $(LOCKED) --test it -- --nocapture certificates_are_swapped_under_load

MINUTES ?= 10
soak: prerequisites ## all kinds of traffic, faults and reloads at once, for MINUTES (10); every request is accounted for
	PINGORA_LB_SOAK_SECONDS=$$(( $(MINUTES) * 60 )) $(CARGO) test $(LOCKED) --test it -- --nocapture soak::

slow-proof: prerequisites ## 5,000 slow clients beside 64 normal ones, and what these notice; needs `ulimit -Hn` of 6,000
	PINGORA_LB_SLOW_CONNECTIONS=5000 $(CARGO) test $(LOCKED) --test it -- --nocapture slow_clients::

# How much of it; see docs/operations.md.
RELOADS ?= 100
HAND_OVERS ?= 20
SLOW_SECONDS ?= 30
upgrade-proof: prerequisites ## reloads and hand-overs under clients of every kind, none of whom notices, some minutes
	RELOADS=$(RELOADS) HAND_OVERS=$(HAND_OVERS) SLOW_SECONDS=$(SLOW_SECONDS) \
	    $(CARGO) test $(LOCKED) --test it -- --nocapture nothing_is_lost
	RELOADS_FOR_MEMORY=1000 RELOADS_OF_MANY=10 $(CARGO) test $(LOCKED) --test it -- --nocapture --test-threads 1 reload_cost::

systemd-proof: prerequisites ## the systemd unit under a systemd, in a container, as root; two minutes
	$(call need,debootstrap:debootstrap systemd-nspawn:systemd-container)
	$(CARGO) build $(LOCKED)
	tests/systemd/run.sh target/debug/pingora-lb

# A file to preload, of Debian's package.
FAKETIME := /usr/lib/$(shell cc -print-multiarch 2>/dev/null)/faketime/libfaketimeMT.so.1
clock-proof: prerequisites ## a wall clock that jumps by years, of one process alone; some seconds
	$(call need,$(FAKETIME):libfaketime)
	PINGORA_LB_FAKETIME=$(FAKETIME) $(CARGO) test $(LOCKED) --test it -- --nocapture clock::

lint: prerequisites ## check formatting, lints and documentation; a warning is an error
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(LOCKED) --no-deps

# No part of `make lint`, nor of what continuous integration runs: what is known to be vulnerable changes
# by the day, and a check that is made only where the tool happens to be is none.
deny: prerequisites ## check licences, sources and known vulnerabilities of all dependencies; needs the network
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install $(LOCKED) cargo-deny
	$(CARGO) deny $(LOCKED) check licenses bans sources
	$(CARGO) deny $(LOCKED) check advisories

build: prerequisites ## build the release, target/release/pingora-lb, which takes its time
	$(CARGO) build $(LOCKED) --release

# $(call need,THING:PACKAGE ...): what is missing, a command or a file, is installed as root or named.
define need
@missing=; for pair in $(1); do \
    thing=$${pair%%:*}; \
    case $$thing in \
        /*) [ -e $$thing ];; \
        *) PATH=$$PATH:/usr/sbin command -v $$thing >/dev/null;; \
    esac || missing="$$missing $${pair#*:}"; \
done; \
[ -z "$$missing" ] || { \
    [ "$$(id -u)" = 0 ] || { echo "Missing:$$missing. Install it: sudo apt-get install$$missing" >&2; exit 1; }; \
    apt-get update -q && apt-get install -y -q --no-install-recommends $$missing </dev/null; }
endef

# The servers that it is measured beside, and what puts load on them, come from Debian.
SERVERS := nginx:nginx haproxy:haproxy
LOADS := wrk:wrk h2load:nghttp2-client /usr/lib/nginx/modules/ngx_stream_module.so:libnginx-mod-stream
# What drives the measuring is compiled sooner than what is measured.
TOOL = PATH=$$PATH:/usr/sbin $(CARGO) run $(LOCKED) --profile tools --example

bench: build ## measure beside nginx and HAProxy, a quarter of an hour; ROWS=small,1m for some of it
	$(call need,$(SERVERS) $(LOADS))
	$(TOOL) bench -- $(if $(ROWS),--rows $(ROWS)) $(BENCH_ARGS)

bench-guard: build ## count the instructions of a request; RENEW=1 writes the baseline anew
	$(call need,nginx:nginx valgrind:valgrind)
	$(TOOL) bench -- guard $(if $(RENEW),--renew)

bench-balance: build ## measure the policies beside nginx and HAProxy, some ten minutes
	$(call need,$(SERVERS))
	$(TOOL) compare_balancing

bench-filters: prerequisites ## measure what filters cost a request, some two minutes
	$(call need,wrk:wrk)
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
# Two builds: one counts what runs under each kind of load, the other is laid out by the counts. Both
# have a folder of their own. The profiles are read by LLVM's tool of the version that the compiler has.
PGO := $(CURDIR)/target/pgo
release-pgo: prerequisites ## build target/pgo/pingora-lb, optimised by a profile; three times a release
	@llvm=$$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p'); \
	$(MAKE) --no-print-directory pgo-with PROFDATA=llvm-profdata-$$llvm \
	    HOST=$$(rustc -vV | sed -n 's/^host: //p') LLVM=llvm-$$llvm

# With a target named, the flags are for the program alone, not for what runs while it is built.
PGO_BUILD = $(CARGO) build $(LOCKED) --release --bin pingora-lb --target $(HOST) --target-dir $(PGO)/build
.PHONY: pgo-with
pgo-with:
	$(call need,$(PROFDATA):$(LLVM) nginx:nginx $(LOADS))
	rm -rf $(PGO)/data
	RUSTFLAGS=-Cprofile-generate=$(PGO)/data $(PGO_BUILD)
	$(TOOL) bench -- train $(PGO)/build/$(HOST)/release/pingora-lb
	$(PROFDATA) merge -o $(PGO)/merged.profdata $(PGO)/data
	RUSTFLAGS=-Cprofile-use=$(PGO)/merged.profdata $(PGO_BUILD)
	cp $(PGO)/build/$(HOST)/release/pingora-lb $(PGO)/pingora-lb

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
