/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Empty on purpose: bcc includes it, and what it needs of it is in its own copy of bpf.h. */
