# Portolan: the two commands are `make demo` and `make test`.
.PHONY: help setup build images hyperkube lint test demo demo-down bench generate clean
SHELL := /bin/bash

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## installs the Debian packages that are missing
	@hack/setup

hyperkube: ## builds Kubernetes for the test bed
	@hack/build-hyperkube

images: setup ## builds the binaries and the images
	@hack/build-images

generate: ## renders crds/yaml from the Rust types
	@cargo run --quiet -p portolan-crds --bin generate-crds

lint: setup ## format, clippy, rustdoc, licences, arrows between crates, generated files
	@hack/lint

test: ## everything: lint, unit, property, namespace and cluster tests
	@hack/test

bench: ## how fast, as ratios; ONLY="name …" for some of it, NODES= and PODS= for a smaller cluster
	@hack/bench $(if $(NODES),--nodes $(NODES)) $(if $(PODS),--pods $(PODS)) $(if $(ONLY),--only $(ONLY))

demo: ## the bank and its load balancer, before and after (KEEP=1 leaves it running)
	@hack/run-demo $(if $(KEEP),--keep)

demo-down: ## removes what `make demo KEEP=1` left
	@cargo run --quiet -p portolan-bed --bin bed -- down

clean: ## removes everything that was built
	@rm -rf target
