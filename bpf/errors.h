/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Errors of the kernel's by number (include/uapi/asm-generic/errno.h). */
#ifndef PYPROXY_ERRORS_H
#define PYPROXY_ERRORS_H

#define EEXIST 17
#define EADDRINUSE 98
#define ECONNREFUSED 111

#endif /* PYPROXY_ERRORS_H */
