# The targets that people and CI call. scripts/bootstrap installs what is missing.
#
#   make build       bin/smolvm, with the guest agents of both architectures inside
#   make quickstart  from nothing to a first launch, with a table of what it took
#   make kernel      SmolVM's own kernel for ARCH=amd64 or arm64: 15 minutes of a processor
#   make images      build kernel and images for ARCH, publish them into dist/images/
#   make dist        what users install, into dist/release/: docs/release.md
#   make release     one STAGE of a release of program and images
#   make pins packages   newer agents, newer packages of the base; WRITE=1 locks them
#   make test        unit, script and VM tests, linters
#   make test-full   all of that and the long tests, on our own kernels; records the result
#   make test-vm     only the tests that boot virtual machines
#   make test-firecracker  a machine on a real Firecracker, where KVM and a kernel are there
#   make lint bench fuzz clean

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := build

GO := scripts/go
export CGO_ENABLED := 0

PACKAGE := github.com/smolvm/smolvm
GUEST := internal/embedded/guest
FUZZTIME ?= 30s
ROUNDS ?= 5
PRESETS ?= claude-code
HOST := $(shell uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
ARCH ?= $(HOST)
OTHER := $(if $(filter amd64,$(HOST)),arm64,amd64)

# Only what the revision says goes into the programs: equal sources, equal bytes.
COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
BUILD_TIME := $(shell git log -1 --format=%ct 2>/dev/null)
LINK = -X $(PACKAGE)/internal/embedded.commit=$(COMMIT) \
       -X $(PACKAGE)/internal/embedded.buildTime=$(BUILD_TIME) \
       -X $(PACKAGE)/internal/embedded.developmentKey=$$($(GO) run ./cmd/smolvm-devkey dist/dev)

.PHONY: build guest quickstart kernel images publish dist release pins packages test test-unit test-script test-vm test-firecracker test-full lint bench picture fuzz clean bootstrap bootstrap-tests

bootstrap:
	@scripts/bootstrap

build: guest
	@$(GO) build -trimpath -buildvcs=false -ldflags "-s -w $(LINK)" -o bin/smolvm ./cmd/smolvm

# The Go tool knows itself whether anything changed; the archive is only replaced
# when the program in it did.
guest: $(GUEST)/smolvm-guest-amd64.gz $(GUEST)/smolvm-guest-arm64.gz

$(GUEST)/smolvm-guest-%.gz: dist/guest/smolvm-guest-%
	@gzip -9 -n -c $< > $@.part
	@mv $@.part $@

dist/guest/smolvm-guest-%: always
	@mkdir -p dist/guest
	@GOOS=linux GOARCH=$* $(GO) build -trimpath -buildvcs=false -ldflags "-s -w" -o $@.new ./cmd/smolvm-guest
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

.PHONY: always
always:
.PRECIOUS: dist/guest/smolvm-guest-%

quickstart:
	@scripts/quickstart

# One that is in the build cache is not built again; kernel/build --source builds anew.
kernel:
	@kernel/build --find $(ARCH) >/dev/null || scripts/bootstrap --kernel $(ARCH) packages
	@scripts/bootstrap go
	@folder=$$(kernel/build $(ARCH)) && \
		$(GO) test -count=1 ./kernel -args -config $(ARCH):$$folder/config >&2 && printf '%s\n' "$$folder"

images: kernel
	@scripts/bootstrap --arch $(ARCH)
	@COMPRESSION=best UNLOCKED= $(MAKE) --no-print-directory publish PRESETS=--all

# What is in the cache is not built again. Without a kernel of our own in it the
# distribution's stands in: `make images` builds ours first, `make publish` does not.
publish: build
	@scripts/publish $(ARCH) $(PRESETS)

dist: guest
	@scripts/dist

# The stages of a release, in this order: docs/release.md.
#   make release STAGE='images|sign-images|tool|sign-tool|publish-images TARGET|publish-tool|check [ADDRESS]'
release:
	@scripts/release $(STAGE)

# Newer agents, newer packages of the base: a table; WRITE=1 changes images/.
pins:
	@scripts/refresh-pins $(if $(WRITE),--write)

packages:
	@scripts/refresh-pins --packages $(if $(WRITE),--write)

test: bootstrap-tests lint test-unit test-script test-vm test-firecracker

bootstrap-tests:
	@scripts/bootstrap --tests

test-unit: guest
	$(GO) test -count=1 ./cmd/... ./internal/... ./images/... ./kernel/... ./test/faulty/... ./test/faultdisk/... ./test/dist/...
	scripts/fuzz --within 150

test-script: build
	$(GO) test -count=1 ./test/script/...

# One row of each architecture is booted: the smallest preset is built for the other
# one, emulated, once.
test-vm: publish
	@$(MAKE) --no-print-directory publish ARCH=$(OTHER) PRESETS=pi
	scripts/test-vm

test-firecracker: guest
	@scripts/test-firecracker --quick

# Our own kernel for both architectures comes first: some cases need it, and the
# images that `make test` publishes take it once it is there.
test-full:
	@$(MAKE) --no-print-directory kernel ARCH=$(HOST)
	@$(MAKE) --no-print-directory kernel ARCH=$(OTHER)
	@$(MAKE) --no-print-directory test
	scripts/test-full

lint:
	scripts/lint

# Half an hour or so. Parts of it, to the terminal: make bench RUN='pull|crowd'
bench: bootstrap-tests publish
	$(GO) run ./test/bench -rounds $(ROUNDS) $(if $(RUN),-run '$(RUN)')

# The README's picture: a first launch on a terminal, from an empty cache.
picture: publish
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && \
		SMOLVM_HOME=$$home SMOLVM_MANIFEST=dist/images/manifest.json $(GO) run ./test/picture \
		-prompt 'smolvm claude start --no-mount --rm -- --version' \
		bin/smolvm claude start --no-mount --rm -- --version > docs/session.svg

fuzz:
	scripts/fuzz $(FUZZTIME)

# The cache of images is not touched, nor the development key: images that were
# published with it stay good.
clean:
	rm -rf bin dist/guest dist/images dist/release dist/state $(GUEST)/*.gz $(GUEST)/*.part
