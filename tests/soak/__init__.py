# SPDX-License-Identifier: Apache-2.0
"""Traffic of every kind on every path for minutes, while endpoints change all the time.

What makes "zero failures for endpoints that stayed" exact:

- Endpoints that come and go do so by their EndpointSlices alone, as ready, terminating or not
  there. Their pods run on and answer, as a terminating pod does that has time to end. So whichever
  endpoint a connection was drawn onto, and whenever that left, it has no reason to fail: every
  failure counts, and none of them can be put down to a backend that was gone.
- Connections that are kept, with data all the time, are drawn once, at the start, and never made
  anew. Many of them are to endpoints that come and go, and they must live through it: TCP stays
  with its backend.
- An endpoint that really dies is in a service of its own. Its process is killed at the very moment
  when it leaves its slices, so that agents hear of it when it is too late. A connection to that
  service may fail from then on until AFTERMATH_S later (see changes.py); this is counted apart.
  Before and after, it may not: the endpoints that stayed answer, and nothing else is an endpoint.
- Datagrams are sent one at a time, each after the answer to the one before, and their server has
  room for those of all clients. No buffer of a socket overflows (which is looked at), so each that
  is lost is lost by what is between. None is sent again.
- A soak that did not soak is no success: see FLOORS of verdict.py.

Both ways of translation take part at once: the first node's agent has `--socket-translation all`,
the second one's `host`, so that its pods go by packets.
"""
