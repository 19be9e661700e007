#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs as the last step in the image's root file system: takes out what is for installing and for
# people. docs/image.md says what that is and why the rest stays.
set -eu
export DEBIAN_FRONTEND=noninteractive

# Nothing is installed in an image that runs, nobody logs in, there are no disks. dpkg refuses what
# something that stays depends on; it stays itself, with its list, which scanners of images read.
purged="apt libapt-pkg6.0 gpgv debian-archive-keyring adduser libgnutls30 libhogweed6 libnettle8
libp11-kit0 libtasn1-6 libunistring2 libidn2-0 libxxhash0 libseccomp2
e2fsprogs logsave libext2fs2 libss2 mount
login passwd libpam-runtime libpam-modules libpam-modules-bin libsemanage2 libsemanage-common libsepol2"
installed=$(dpkg-query -W -f '${Package}\n')
# shellcheck disable=SC2086  # names without blanks
present=$(printf '%s\n' $purged | grep -xF "$installed")
# shellcheck disable=SC2086  # names without blanks
dpkg --purge --force-remove-essential --force-remove-protected $present

# Copyright files stay: the licences ask for them.
find /usr/share/doc -mindepth 1 ! -type d ! -name copyright -delete
find /usr/share/doc -mindepth 1 -type d -empty -delete
# gconv: character sets other than UTF-8. sulogin's and cron's files have nobody to run them.
rm -rf /usr/lib/*-linux-gnu/gconv /etc/cron.daily /etc/rc?.d /etc/init.d /usr/lib/systemd
rm -rf /usr/share/locale/* /usr/share/man/* /usr/share/info/* /usr/share/lintian \
    /usr/share/zoneinfo /usr/share/bash-completion /usr/share/bug /usr/share/polkit-1 \
    /var/cache/* /var/log/* /var/lib/apt /etc/apt /tmp/* /var/tmp/* /run/*
ln -s ../../opt/pyproxy/bin/pyproxy /usr/bin/pyproxy
