# The controller and the shared libraries it needs, and nothing else.
FROM scratch
COPY . /
ENTRYPOINT ["/portolan-controller"]
