#!/bin/sh
# Runs nginx, and keeps its upstreams what the stack's DNS says, so that
# `docker compose up --scale gateway=4` needs no edit: every 2 s the addresses
# are looked up, and nginx is reloaded when they have changed. (From nginx
# 1.27.3 on, `server gateway:8080 resolve;` with `zone` and `resolver` does it
# without reloads.)
set -eu

addresses() { # SERVICE
    busybox nslookup "$1" 127.0.0.11 2>/dev/null |
        sed -n '1,/^$/d; s/^Address[^:]*:[[:space:]]*\([0-9][0-9.]*\).*/\1/p' | sort -u
}

upstream() { # SERVICE PORT SERVER-OPTIONS
    echo "upstream $1 {"
    echo "    zone $1 64k;" # the workers count connections together
    # The fewest open connections first: sessions are long, so counting requests
    # would pile them up on whoever was there first.
    # - A larger machine: add weight=3 to its server line.
    # - A client's sessions on one gateway, as far as addresses tell clients
    #   apart: `ip_hash;` instead. Nothing needs it: any gateway resumes anybody.
    echo "    least_conn;"
    servers=$(addresses "$1" | sed "s/.*/    server &:$2 $3;/")
    echo "${servers:-    server 127.0.0.1:9 down; # none is known}"
    echo "    keepalive 16;"
    echo "}"
}

# nginx takes a server that has failed for failed until a request to it has
# ended well, and until then sends it one request in each fail_timeout. A
# WebSocket does not end: of the clients that come back one got in every 2 s. So
# gateways are never taken for failed; one that is away passes its clients on
# (proxy_next_upstream), and is gone from here when the DNS knows.
upstreams() {
    upstream gateway 8080 'max_fails=0'
    upstream ingest 8080 'max_fails=1 fail_timeout=2s'
}

follow() {
    while sleep 2; do
        upstreams >/tmp/upstreams.new
        cmp -s /tmp/upstreams.new /tmp/upstreams.conf && continue
        mv /tmp/upstreams.new /tmp/upstreams.conf
        nginx -c /etc/nginx/nginx.conf -s reload
    done
}

upstreams >/tmp/upstreams.conf
follow </dev/null &
exec nginx -c /etc/nginx/nginx.conf -g 'daemon off;'
