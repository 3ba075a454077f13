"""Bearer tokens: made here, shown once, stored as digests."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence

from autotc.errors import SpecError
from autotc.registry import nearest
from autotc.store import Store, TokenRow

SCOPES = ("read", "submit")


def digest(secret: str) -> str:
    """Return what is stored of a secret; it is random and long, so that no salt is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create(store: Store, name: str, scopes: Sequence[str]) -> tuple[TokenRow, str]:
    """Make a token and return it with its secret, which cannot be had again.

    Raises:
        SpecError: an unknown scope, or a name that is taken or cannot be used.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", name):
        raise SpecError("a token's name has 1 to 64 letters, digits, '.', '_', '@' and '-'")
    for scope in scopes:
        if scope not in SCOPES:
            raise SpecError(f"--scope: {scope!r} is not known. {nearest(scope, SCOPES)}")
    secret = f"autotc_{secrets.token_urlsafe(32)}"
    return store.add_token(name, digest(secret), sorted(set(scopes))), secret
