#!/bin/sh
# Run once by the PostgreSQL image on an empty data folder: the two roles that Coffer's processes log in as.
# Migrations grant them what they need; neither owns anything.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    --set app="$COFFER_APP_PASSWORD" --set worker="$COFFER_WORKER_PASSWORD" <<'SQL'
CREATE ROLE coffer_app LOGIN PASSWORD :'app';
CREATE ROLE coffer_worker LOGIN PASSWORD :'worker';
SQL
