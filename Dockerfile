# histomix in a container, as any user and without a network:
#   docker build -t histomix .                                   # for CPUs
#   docker build -t histomix:cuda --build-arg TORCH=cu130 .      # for NVIDIA GPUs: docker run --gpus all ...
#   docker run --rm --network none -v "$PWD:/data" -v histomix-cache:/cache histomix predict slides --head head --out maps

# The Python whose pinned versions the whole test suite runs with.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG PYTHON
# Which of PyTorch's own indexes: cpu, cu130, ... Its CPU wheels are 5 GB lighter than those of the Python index.
ARG TORCH=cpu
# Such as "st,zoo".
ARG EXTRAS=
WORKDIR /source
COPY constraints-${PYTHON}.txt pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/histomix \
 && /opt/histomix/bin/pip install --no-cache-dir --constraint "constraints-${PYTHON}.txt" \
      --extra-index-url "https://download.pytorch.org/whl/${TORCH}" ".${EXTRAS:+[${EXTRAS}]}"

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="histomix" \
      org.opencontainers.image.source="https://github.com/histomix/histomix" \
      org.opencontainers.image.licenses="BSD-3-Clause AND Apache-2.0"
COPY --from=build /opt/histomix /opt/histomix
RUN useradd --create-home --uid 1000 histomix \
 && install --directory --owner histomix --mode 700 /cache \
 && install --directory --owner histomix /data
# What is downloaded or derived (weights, remote slides, compiled fonts) stays in one volume.
ENV PATH=/opt/histomix/bin:$PATH \
    HISTOMIX_CACHE=/cache/histomix \
    HF_HOME=/cache/huggingface \
    XDG_CACHE_HOME=/cache \
    MPLCONFIGDIR=/cache/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
VOLUME /cache
WORKDIR /data
ENTRYPOINT ["histomix"]
CMD ["--help"]
