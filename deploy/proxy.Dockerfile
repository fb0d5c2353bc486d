# The sidecar: one static binary, and nft with its libraries for the init container.
# Build context: a folder with byrnie-proxy and the files of `nft` (see tests/tools/images for the same without Docker).
FROM debian:bookworm-slim AS nft
RUN apt-get update && apt-get install -y --no-install-recommends nftables \
 && mkdir -p /out/usr/sbin && cp /usr/sbin/nft /out/usr/sbin/ \
 && ldd /usr/sbin/nft | awk '/\//{print $(NF-1)}' | xargs -I{} cp --parents -L {} /out

FROM scratch
COPY --from=nft /out /
COPY byrnie-proxy /byrnie-proxy
USER 14100:14100
ENTRYPOINT ["/byrnie-proxy"]
