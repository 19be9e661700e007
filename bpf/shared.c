/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the loader compiles to make the maps of both families. */
#include "shared.h"

/* Never loaded: bcc describes maps in BTF only where there is a program. */
int shared(struct __sk_buff *skb)
{
	__u32 index = 0;

	return !socket_marks.lookup(&index);
}
