# SPDX-License-Identifier: Apache-2.0
"""A small, exact Kubernetes API server for tests: real HTTP, lists, watches, and faults on demand.

    with ApiServer() as server:
        server.put(service(), endpoint_slice(), node())
        agent --kubeconfig server.kubeconfig(tmp_path / "kubeconfig")
        server.fault("answer", "services", "list", status=429, retry_after=1)

`api.py` has all that tests call. It serves Services, EndpointSlices, Nodes and ServiceCIDRs for
reading and takes Events. `python -m tests.apiserver` runs it as a process, controlled by
`ApiServer.at(SOCKET)`.
"""

from tests.apiserver.api import ApiServer
from tests.apiserver.channel import CommandError
from tests.apiserver.settings import Seen, Settings

__all__ = ["ApiServer", "CommandError", "Seen", "Settings"]
