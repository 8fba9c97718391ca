#!/bin/sh
# A certificate of one's own, where none was given: browsers ask whether it is to be trusted.
set -eu
if [ ! -e /certificates/tls.crt ]; then
  openssl req -x509 -newkey rsa:2048 -nodes -days 825 -subj "/CN=${TLS_NAME:-localhost}" \
    -addext "subjectAltName=DNS:${TLS_NAME:-localhost},IP:127.0.0.1" -keyout /certificates/tls.key -out /certificates/tls.crt 2>/dev/null
  echo "proxy: made a certificate for ${TLS_NAME:-localhost}"
fi
exec nginx -g 'daemon off;'
