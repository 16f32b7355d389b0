# A server, a deployment, and its run executed as the worker has it executed. The server is in a session of its own, so
# that SIGTERM, which goes to the process group of the command, does not reach it.
export PREFECT_API_URL=http://127.0.0.1:4200/api
setsid prefect server start --host 127.0.0.1 --port 4200 --no-services >/home/prefect/server.log 2>&1 &
exec prefect flow-run execute "$(python /code/prepare.py)"
