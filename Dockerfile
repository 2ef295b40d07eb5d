# docker build -t prunopt .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" prunopt forest --data patients.csv --target diagnosis --out out
FROM python:3.11-slim AS build
RUN python -m venv /opt/prunopt
COPY requirements/demo.txt /tmp/requirements.txt
RUN /opt/prunopt/bin/pip install --no-cache-dir --require-hashes --no-deps --only-binary :all: \
    --requirement /tmp/requirements.txt
COPY . /src
RUN /opt/prunopt/bin/pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM python:3.11-slim
COPY --from=build /opt/prunopt /opt/prunopt
ENV PATH=/opt/prunopt/bin:$PATH NUMBA_CACHE_DIR=/var/cache/prunopt MPLCONFIGDIR=/tmp/matplotlib
# Compiled here once; whoever runs the image may add kernels that this processor lacks.
RUN mkdir -p "$NUMBA_CACHE_DIR" && prunopt warm-up && chmod -R a+rwX "$NUMBA_CACHE_DIR"
RUN useradd --create-home user
USER user
WORKDIR /data
ENTRYPOINT ["prunopt"]
CMD ["--help"]
