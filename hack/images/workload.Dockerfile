# The test bed's workloads: busybox and the probe.
FROM scratch
COPY . /
ENV PATH=/bin
ENTRYPOINT ["/bin/bed-probe"]
