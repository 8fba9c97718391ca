# The worker: torch and the models. From the project's root:
#   docker build -f docker/worker.Dockerfile -t fast-vc-worker .
# torch's wheels from the package index bring CUDA, about 5 GB. A CPU build leaves it out:
#   --build-arg EXTRA_INDEX=https://download.pytorch.org/whl/cpu --build-arg TORCH=torch==2.11.0+cpu
# or a wheel in docker/wheels/. For a GPU, --build-arg COMPILER="gcc libc6-dev libpython3-dev" lets Triton compile the
# kernels of worker/models/kernels.py at the first start; without it the plain operations are used. BASE: Debian 12 or what derives from it, because its python3 is 3.11.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*

FROM python AS dependencies
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
ARG EXTRA_INDEX=
ARG TORCH=
WORKDIR /src
COPY setup.cfg pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=docker/wheels,target=/wheels \
    --mount=type=bind,source=docker/install.sh,target=/install.sh \
    sh /install.sh worker

FROM python AS runtime
RUN groupadd --gid 10001 fast-vc \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/fast-vc --shell /usr/sbin/nologin fast-vc \
    && install -d -o fast-vc -g fast-vc /var/lib/fast-vc /var/lib/fast-vc/checkpoints /keys
ARG COMPILER=
RUN if [ -n "${COMPILER}" ]; then apt-get update && apt-get install -y --no-install-recommends ${COMPILER}; fi
RUN --mount=type=bind,source=docker/prune.sh,target=/prune.sh sh /prune.sh

FROM python AS code
WORKDIR /code
COPY shared shared
COPY worker worker
COPY config config
COPY tools/__init__.py tools/__init__.py
COPY tools/service tools/service
COPY gateway/__init__.py gateway/__main__.py gateway/
ARG REVISION=
RUN printf '{"commit": "%s", "build_date": "%s"}' "${REVISION}" "$(date -u +%FT%TZ)" > shared/build.json
RUN python3 -m compileall -q --invalidation-mode unchecked-hash .

# A layer for the system, one for the libraries (which also move when torch does), one for our code.
FROM scratch
COPY --from=runtime / /
COPY --from=dependencies /opt/fast-vc /opt/fast-vc
COPY --from=code /code/ /opt/fast-vc/lib/python3.11/site-packages/
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="fast-vc-worker" \
      org.opencontainers.image.description="Fast-VC Pool: a worker of a real-time voice conversion service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# NVIDIA_*: what the NVIDIA container runtime hands in, where there is one.
ENV PATH=/opt/fast-vc/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/lib/fast-vc/checkpoints/.hub \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# State and logs lie below the working folder; the rest of the file system may be read-only.
WORKDIR /var/lib/fast-vc
USER 10001:10001
STOPSIGNAL SIGTERM
# A model that is downloaded first takes as long as it takes: the start period belongs to the largest of them.
HEALTHCHECK --interval=10s --timeout=10s --start-period=600s --retries=3 CMD ["fast-vc", "worker", "--probe"]
ENTRYPOINT ["fast-vc"]
CMD ["worker"]
