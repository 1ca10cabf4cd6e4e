# Builds an image in which `secateur` runs on the CPU, and on NVIDIA GPUs with `docker run --gpus all`
# (build with --build-arg EXTRAS=gpu,openvino for ONNX Runtime's CUDA provider).
FROM python:3.12-slim

ARG EXTRAS=cpu,openvino
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /opt/secateur
COPY constraints.txt ./
RUN pip install -c constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY secateur ./secateur
COPY recipes ./recipes
RUN pip install -c constraints.txt ".[${EXTRAS}]"

RUN useradd --create-home secateur
USER secateur
WORKDIR /home/secateur
ENTRYPOINT ["secateur"]
CMD ["doctor"]
