# docker build -t prunopt . && docker run --rm -v "$PWD:/data" prunopt forest --data patients.csv --target diagnosis
FROM python:3.11-slim
COPY requirements/demo.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes --no-deps --only-binary :all: --requirement /tmp/requirements.txt
COPY . /opt/prunopt
RUN pip install --no-cache-dir --no-deps --no-build-isolation /opt/prunopt && useradd --create-home user
USER user
WORKDIR /data
ENTRYPOINT ["prunopt"]
CMD ["--help"]
