/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bcc's helpers compile against a version number. Ours is only a number that bcc
 * accepts: kernel features are probed before anything is compiled.
 */
#ifndef PYPROXY_LINUX_VERSION_H
#define PYPROXY_LINUX_VERSION_H
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
#endif /* PYPROXY_LINUX_VERSION_H */
