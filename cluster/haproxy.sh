#!/bin/sh
# HAProxy as Serve starts it (RAY_SERVE_HAPROXY_BINARY_PATH): haproxy -db -f FILE ...
#
# Until Serve has told a HAProxy which applications there are, its configuration answers everything with a plain 404,
# which clients do not try again: for a second after each crash. Without that line HAProxy answers as it does where no
# replica is left (cluster/balancer.py).
sed -i '/^ *http-request return status 404 /d' "$3" && exec "$TRIVIUM_HAPROXY" "$@"
