# The gateway: HTTP, WebSocket and codecs, without torch. From the project's root:
#   docker build -f docker/gateway.Dockerfile -t fast-vc-gateway .
# BASE: Debian 12 or what derives from it, because its python3 is 3.11.
# EXTRAS: what the gateway shall bring besides, separated by commas: webrtc.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libopus0 python3 \
    && rm -rf /var/lib/apt/lists/*

FROM python AS dependencies
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
ARG EXTRA_INDEX=
ARG EXTRAS=
WORKDIR /src
COPY setup.cfg pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=docker/wheels,target=/wheels \
    --mount=type=bind,source=docker/install.sh,target=/install.sh \
    sh /install.sh gateway${EXTRAS:+,${EXTRAS}}

FROM python AS runtime
RUN groupadd --gid 10001 fast-vc \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/fast-vc --shell /usr/sbin/nologin fast-vc \
    && install -d -o fast-vc -g fast-vc /var/lib/fast-vc /var/lib/fast-vc/outputs /var/lib/fast-vc/uploads /keys /keys/gateway /keys/worker
COPY --from=dependencies /opt/fast-vc /opt/fast-vc
RUN --mount=type=bind,source=docker/prune.sh,target=/prune.sh sh /prune.sh

FROM python AS code
WORKDIR /code
COPY shared shared
COPY gateway gateway
COPY config config
COPY tools/__init__.py tools/__init__.py
COPY tools/service tools/service
COPY worker/__init__.py worker/__main__.py worker/
ARG REVISION=
RUN printf '{"commit": "%s", "build_date": "%s"}' "${REVISION}" "$(date -u +%FT%TZ)" > shared/build.json
RUN python3 -m compileall -q --invalidation-mode unchecked-hash .

# One layer of what stays, one of our code.
FROM scratch
COPY --from=runtime / /
COPY --from=code /code/ /opt/fast-vc/lib/python3.11/site-packages/
COPY docker/link_keys.py /opt/fast-vc/
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="fast-vc-gateway" \
      org.opencontainers.image.description="Fast-VC Pool: the gateway of a real-time voice conversion service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/fast-vc/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# State, logs and outputs lie below the working folder; the rest of the file system may be read-only.
WORKDIR /var/lib/fast-vc
USER 10001:10001
EXPOSE 8042 5555
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["fast-vc", "gateway", "--probe"]
ENTRYPOINT ["fast-vc"]
CMD ["gateway"]
