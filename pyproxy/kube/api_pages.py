# SPDX-License-Identifier: Apache-2.0
"""A whole list out of its pages, whatever fails on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from pyproxy.kube.api_wire import ListMeta, ListPage
from pyproxy.kube.client import ApiFailure, Cause

# Far beyond any cluster: a server that never ends its list is one that lies.
_MOST_PAGES = 10_000
# So often a page is asked for before the list begins anew: its token may be what is wrong.
_PAGE_TRIES = 3
# After so many lists whose tokens expired there is no telling whether one will ever be whole.
_MOST_EXPIRED = 2


class Pages:
    """Asks for pages by `get` and gives what they hold to `take`.

    `get` takes the query and raises ApiFailure. A page that failed is asked for again, so that a
    server under load is not asked for all pages before it, too. One whose tokens expire faster
    than its pages come is asked for the list in one piece, as by client-go.
    """

    def __init__(
        self,
        get: Callable[[Mapping[str, str]], ListPage],
        take: Callable[[msgspec.Raw], None],
        limit: int,
    ) -> None:
        self._get = get
        self._take = take
        self._limit = limit
        self._token = ""
        self._failed = 0
        self._expired = 0

    @property
    def is_begun(self) -> bool:
        """Whether a list waits for its next page."""
        return bool(self._token)

    @property
    def expires(self) -> bool:
        """Whether lists in pages come to nothing."""
        return self._expired >= _MOST_EXPIRED

    def read(self) -> str:
        """Take in what is missing of the list; return its resourceVersion.

        Raises ApiFailure; called again it goes on where it was.
        """
        for meta in self._metas():
            if not meta.continue_:
                self._token, self._expired = "", 0
                return meta.resource_version or ""
            if meta.continue_ == self._token:
                break
            self._token = meta.continue_
        self._token = ""
        raise ApiFailure(Cause.FAILING, "never ends its list")

    def _metas(self) -> Iterator[ListMeta]:
        for _ in range(_MOST_PAGES):
            page = self._page()
            for document in page.items or []:
                self._take(document)
            yield page.metadata or ListMeta()

    def _page(self) -> ListPage:
        query = {} if self.expires else {"limit": str(self._limit)}
        if self._token:
            query["continue"] = self._token
        try:
            page = self._get(query)
        except ApiFailure as failure:
            self._fail(failure.cause)
            raise
        self._failed = 0
        return page

    def _fail(self, cause: Cause) -> None:
        self._failed += 1
        if cause is Cause.EXPIRED:
            self._expired += bool(self._token)
        elif self._failed < _PAGE_TRIES:
            return
        self._token, self._failed = "", 0
