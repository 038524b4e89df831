# The build has pip and the sources; the environment that it hands on has neither.
FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/tally
WORKDIR /src
# dependencies change less often than the program, so they are a layer of their own
COPY requirements/base.txt requirements/base.txt
# both stores are among them; pip is, too, for a command of sqlite-utils that nothing here runs
RUN pip --python /opt/tally/bin/python install --require-hashes -r requirements/base.txt \
    && pip --python /opt/tally/bin/python uninstall --yes pip
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
RUN pip --python /opt/tally/bin/python install --no-deps .

FROM python:3.12-slim
ENV PATH=/opt/tally/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/tally tally
COPY --from=build /opt/tally /opt/tally
USER 10001
# `sqlite:///tally.db` in the configuration is a file in here
WORKDIR /var/lib/tally
VOLUME /var/lib/tally
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health/readiness', timeout=2)"]
# mount the configuration here; listening beyond loopback needs keys in it
CMD ["tally", "serve", "--config", "/etc/tally/tally.yaml", "--host", "0.0.0.0", "--port", "8080"]
