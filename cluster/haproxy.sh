#!/bin/sh
# HAProxy as Serve starts it (RAY_SERVE_HAPROXY_BINARY_PATH): haproxy -db -f FILE ...
# What no variable of Serve's reaches in its template is changed in what it has written.
#
# Until Serve has told a HAProxy which applications there are, its configuration answers everything with a plain 404,
# which clients do not try again: for a second after each crash. Without that line HAProxy answers as it does where no
# replica is left (cluster/balancer.py).
#
# `tcp-ut` (TCP_USER_TIMEOUT) counts on a server's own line alone: HAProxy 2.8 takes it on a `default-server` and drops it.
#
# A replica that died may have done what it was asked to. An answer of a model can be asked for once more
# (RAY_SERVE_HAPROXY_RETRY_ON), and so can whatever is only read; an agent's run must not begin twice.
sed -i -e '/^ *http-request return status 404 /d' \
    -e '/^ *server /{/ tcp-ut /!s/ *$/ tcp-ut 11s/}' \
    -e '/^frontend http_frontend/a\    http-request disable-l7-retry if METH_POST !{ path_sub /v1/ }' \
    "$3" && exec "$TRIVIUM_HAPROXY" "$@"
