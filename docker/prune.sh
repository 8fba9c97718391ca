#!/bin/sh
# Takes out of an image's root what a running service never opens. The last stage copies the rest, as one layer.
# dpkg's list of packages stays: scanners for known weaknesses read it.
set -eu
dpkg --purge --force-depends --force-remove-essential --force-remove-protected \
  apt libapt-pkg6.0 gpgv debian-archive-keyring adduser debconf perl-base e2fsprogs logsave 2>/dev/null
rm -rf /var/lib/apt /var/cache/apt /var/cache/debconf /var/log/* /etc/apt /etc/pip.conf /tmp/* /root/.cache
rm -rf /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian /usr/share/bash-completion \
  /usr/share/zoneinfo/right /usr/share/zoneinfo/posix /usr/lib/x86_64-linux-gnu/perl-base
find /usr/lib -path '*/gconv/*' -type f ! -name 'UTF*' ! -name 'gconv-modules*' -delete
rm -rf /usr/lib/python3.11/test /usr/lib/python3.11/idlelib /usr/lib/python3.11/lib2to3 /usr/lib/python3.11/ensurepip \
  /usr/lib/python3.11/pydoc_data /usr/lib/python3.11/distutils
