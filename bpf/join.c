/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stage: a connection is made to the backend that was picked. One program with the picking would
 * be more than verifiers before 6.8 look at.
 */
#include "open.h"

int join(struct __sk_buff *skb)
{
	struct packet packet = {};
	__u32 zero = 0;
	struct pick *picked = picks.lookup(&zero);

	if (!picked || stage_read(skb, &packet) != READ_DONE)
		return TC_DROP;
	return connection_open(skb, &packet, picked, stage_clash(skb));
}
