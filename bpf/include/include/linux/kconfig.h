/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bcc includes this before everything else; it asks for this one option. */
#ifndef PYPROXY_LINUX_KCONFIG_H
#define PYPROXY_LINUX_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#endif /* PYPROXY_LINUX_KCONFIG_H */
