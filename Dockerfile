# `agentdb-mcp serve --http` as an image: only PyPI and the registry of the base image are asked.
# docs/deploying.md says how to run it.

FROM python:3.13.15-slim-trixie AS build
# From PyPI, not by copying from another image: one registry less to reach and to trust.
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore uv==0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/opt/agentdb UV_PYTHON_DOWNLOADS=never
WORKDIR /build
# What it depends on changes seldom and is a layer of its own. `--no-build`: wheels alone, so no compiler is needed.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --extra explorer --no-install-project --no-build
COPY LICENSE README.md ./
COPY policies policies
COPY src src
RUN uv sync --locked --no-dev --extra explorer --no-editable

FROM python:3.13.15-slim-trixie
LABEL org.opencontainers.image.title="agentdb-mcp" org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 agentdb \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/agentdb --no-create-home --shell /usr/sbin/nologin agentdb \
 && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/agentdb
# The environment alone: no uv, no sources, no Postgres (the extra `local`), no tests.
COPY --from=build /opt/agentdb /opt/agentdb
ENV PATH=/opt/agentdb/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# By number, so that a cluster can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/agentdb
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-I", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["agentdb-mcp"]
# On all addresses of the container, so AGENTDB_ALLOWED_HOSTS has to name those that it is reached by.
CMD ["serve", "--http", "--host", "0.0.0.0", "--port", "8000"]
