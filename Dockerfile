# Two images.
#   build   runs `secateur` on the CPU, and on NVIDIA GPUs with `docker run --gpus all`
#           (--build-arg EXTRAS=gpu,openvino,rtx,mlflow,slim,release,video for ONNX Runtime's CUDA provider,
#           and tensorrt in it for TensorRT, which comes from NVIDIA's own index):
#             docker build --target build -t secateur .
#   serve   runs one deployed engine and nothing else; no torch in it:
#             docker build --target serve -t secateur-serve .
#             docker run -p 8080:8080 -v $PWD/deployed:/engine:ro secateur-serve
#           (--build-arg RUNTIME=openvino, or "onnxruntime-gpu[cuda,cudnn]", for engines of these)
FROM python:3.12-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 10001 secateur
WORKDIR /opt/secateur
COPY constraints.txt ./

FROM base AS serve
ARG RUNTIME=onnxruntime
RUN pip install -c constraints.txt numpy pydantic psutil jaxtyping onnx pillow "${RUNTIME}"
COPY pyproject.toml README.md LICENSE ./
COPY secateur ./secateur
RUN pip install --no-deps .
USER 10001
WORKDIR /home/secateur
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=4)"]
ENTRYPOINT ["python", "-m", "secateur.serving", "/engine", "--host", "0.0.0.0"]

FROM base AS build
ARG EXTRAS=cpu,openvino,rtx,mlflow,slim,release,video
RUN pip install -c constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY secateur ./secateur
COPY recipes ./recipes
RUN pip install -c constraints.txt ".[${EXTRAS}]"
USER 10001
WORKDIR /home/secateur
HEALTHCHECK NONE
ENTRYPOINT ["secateur"]
CMD ["doctor"]
