# What holds a pod's namespaces in the test bed.
FROM scratch
COPY . /
ENTRYPOINT ["/bin/busybox", "tail", "-f", "/dev/null"]
