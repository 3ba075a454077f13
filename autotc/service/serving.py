"""Running the HTTP service."""

from __future__ import annotations

import ipaddress
import logging
import sys

import uvicorn

from autotc.errors import SpecError
from autotc.service.api import make_app
from autotc.service.roots import Roots
from autotc.store import Store


def run(store: Store, host: str, port: int, hosts: tuple[str, ...], roots: Roots) -> None:
    """Serve until a signal.

    Raises:
        SpecError: it should listen beyond this machine, and there is no token in the database.
        StoreError: the database cannot be used.
    """
    refuse_open_doors(store, host)
    log = logging.getLogger("autotc.service")
    log.addHandler(logging.StreamHandler(sys.stderr))  # one JSON document a line
    log.setLevel(logging.INFO)
    log.propagate = False
    log.info(f'{{"listening": "http://{host}:{port}", "storage": "{store.url_shown}"}}')
    uvicorn.run(
        make_app(store, roots, (*hosts, host)),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=200,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
    )


def refuse_open_doors(store: Store, host: str) -> None:
    """Check that somebody may come in where others could.

    Raises:
        SpecError: the address is not this machine's own, and there is no token.
    """
    if not _is_loopback(host) and not any(token.revoked is None for token in store.tokens()):
        raise SpecError(
            f"--host {host}: others can reach it, and {store.url_shown} holds no token. Make one first: "
            "autotc token create NAME --scope read --scope submit"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
