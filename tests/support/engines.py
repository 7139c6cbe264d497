"""One engine for every test on a kind of database: what it compiled for one test serves the next.

With an engine for each test, a sixth of the suite's time went into compiling the same statements over and over.
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import URL, Engine, event, make_url

from orchestrator.database.engine import _connect_patiently, open_engine


class Engines:
    """Opens engines as `open_engine` does; those of the tests' own databases are kept and pointed at the next one."""

    def __init__(self) -> None:
        self.own: str | None = None
        # As in `engine`: a forked child must not share its parent's connections.
        self.kept: dict[tuple[int, str, int], Engine] = {}

    def serve(self, url: URL) -> None:
        """Let the next engines for `url`, a database like those before it, be the kept one."""
        self.own = url.render_as_string(hide_password=False)

    def open(self, url: str, *, pool_size: int = 5) -> Engine:
        """The engine for `url`: kept from the test before if `url` is that of the present one, else a new one."""
        if url != self.own:
            return open_engine(url, pool_size=pool_size)
        parsed = make_url(url)
        key = (os.getpid(), parsed.get_backend_name(), pool_size)
        if key not in self.kept:
            self.kept[key] = _redirected(open_engine(url, pool_size=pool_size))
        self.kept[key].url = parsed
        return self.kept[key]


def _redirected(opened: Engine) -> Engine:
    """`opened`, from now on connected to whatever database its URL names by then."""

    def redirect(_dialect: Any, _record: Any, cargs: list[Any], cparams: dict[str, Any]) -> None:
        if opened.dialect.name == "sqlite":
            cargs[:] = [opened.url.database]
        else:
            cparams["dbname"] = opened.url.database

    if event.contains(opened, "do_connect", _connect_patiently):
        # The first listener that connects is the last to be asked.
        event.remove(opened, "do_connect", _connect_patiently)
        event.listen(opened, "do_connect", redirect)
        event.listen(opened, "do_connect", _connect_patiently)
    else:
        event.listen(opened, "do_connect", redirect)
    return opened
