# Operator and injector: two static binaries.
FROM scratch
COPY byrnie-operator byrnie-injector /
USER 65532:65532
ENTRYPOINT ["/byrnie-operator"]
