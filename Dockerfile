# Two images: `coffer`, the API, the workers and the scheduler; `chains`, the nodes of a development network.

FROM python:3.13-slim AS coffer
WORKDIR /srv/coffer
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/runtime.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY ledger ledger
COPY chains chains
COPY banking banking
COPY treasury treasury
COPY billing billing
COPY reserves reserves
COPY workers workers
COPY api api
COPY cli cli
COPY contracts/__init__.py contracts/
COPY contracts/artifacts contracts/artifacts
COPY migrations migrations
RUN useradd --system --create-home coffer
# A new volume takes over the owner of the folder that it is mounted on.
RUN install -d -o coffer -g coffer -m 700 /srv/keys /srv/signer
USER coffer
ENTRYPOINT ["python", "-m", "cli.main"]

FROM node:24-slim AS chains
WORKDIR /srv/chains
COPY sandbox/node/package.json sandbox/node/package-lock.json sandbox/node/.npmrc sandbox/node/surfpool.cjs ./
RUN npm ci --ignore-scripts --no-audit --no-fund
USER node
