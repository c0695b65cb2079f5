# The command `supernet` on the CPU:  docker build -t supernet .  &&  docker run -v "$PWD:/data" supernet train --run runs/first
FROM python:3.11-slim AS build
RUN apt-get update -q && apt-get install -y -q --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/supernet
ENV PATH=/opt/supernet/bin:$PATH SUPERNET_CUDA=0
# PyTorch's builds without CUDA are a tenth as large: --build-arg INDEX="--index-url URL" with the URL that PyTorch's
# "get started" page gives for the CPU.
ARG INDEX=""
RUN pip install --no-cache-dir $INDEX torch==2.14.1 torchvision==0.29.1
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir "setuptools>=77" ninja && pip install --no-cache-dir --no-build-isolation ".[onnx]"

FROM python:3.11-slim
RUN apt-get update -q && apt-get install -y -q --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/supernet /opt/supernet
ENV PATH=/opt/supernet/bin:$PATH
WORKDIR /data
RUN supernet doctor
ENTRYPOINT ["supernet"]
