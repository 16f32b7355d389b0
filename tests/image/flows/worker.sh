# A server, and the command of WorkerService. The worker makes the pool.
export PREFECT_API_URL=http://127.0.0.1:4200/api
setsid prefect server start --host 127.0.0.1 --port 4200 --no-services >/home/prefect/server.log 2>&1 &
until python -c "import urllib.request as r; r.urlopen('$PREFECT_API_URL/health')" 2>/dev/null; do sleep 0.5; done
exec prefect worker start --type ecs --pool etl --with-healthcheck
