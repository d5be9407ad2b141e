# One image for workers, for the Prefect server and for the command line (docs/operating.md).
#   docker build -t video2lora:cpu .
#   docker build -t video2lora:cuda --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
# Nothing private goes into the image: the lake's keys and the server's address are given when it runs.
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# An image of Python has Python; one of CUDA on Ubuntu does not.
RUN command -v python3 && python3 -m venv --help > /dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/video2lora
ENV PATH=/opt/video2lora/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false

# What rarely changes comes first: a new version of the code keeps these layers.
WORKDIR /opt/source
COPY constraints.txt ./
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" \
    "$(grep -m1 '^torch==' constraints.txt | cut -d' ' -f1)"
COPY pyproject.toml README.md LICENSE THIRD_PARTY_NOTICES.md ./
COPY flows ./flows
COPY tasks ./tasks
COPY video2lora_core ./video2lora_core
COPY storage ./storage
COPY configs ./configs
RUN pip install --no-cache-dir --constraint constraints.txt ".[export,metrics]" "prefect-kubernetes<0.8"

# Prefect's process worker writes to the home; a lake on a volume must be writable for this user.
RUN useradd --create-home --uid 10001 video2lora
USER video2lora
WORKDIR /home/video2lora
COPY prefect.yaml ./
CMD ["video2lora", "--help"]
