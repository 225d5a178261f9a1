# The agent, the CNI binary it installs on its node, and the shared libraries it needs, and nothing else.
FROM scratch
COPY . /
ENTRYPOINT ["/portolan-agent"]
