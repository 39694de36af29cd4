# Two stages: `export` runs goldfold.toml, `use` opens artifacts. docs/ci.md has the commands and the
# sizes. Each RUN line is one of .ci/image, which also runs where there is no builder.
FROM python:3.12-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /goldfold
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY goldfold goldfold
COPY exporter exporter
COPY targets targets
COPY golden golden
COPY .ci/image .ci/image

FROM base AS build
ARG RUNTIME=onnxruntime
RUN .ci/image use /opt/use "$RUNTIME"

FROM base AS export
ARG TORCH_INDEX=
RUN .ci/image export /opt/export
ENV PATH=/opt/export/bin:$PATH
WORKDIR /work
ENTRYPOINT ["goldfold"]
CMD ["ci", "--file", "goldfold.toml"]

FROM python:3.12-slim-bookworm AS use
COPY --from=build /opt/use /opt/use
ENV PATH=/opt/use/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["goldfold"]
CMD ["--help"]
