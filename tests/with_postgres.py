"""Run a command beside a private PostgreSQL server, which is gone afterwards; `{url}` stands for an empty database.

    python -m tests.with_postgres autotc bench store --storage {url}

The server waits for the disk as a real one does.
"""

from __future__ import annotations

import subprocess
import sys

from tests.postgres import Missing, Server


def main() -> int:
    """Return the exit code of the command."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        server = Server(durable=True)
    except Missing as error:
        print(f"PostgreSQL: {error}", file=sys.stderr)
        return 1
    try:
        server.start()
        url = server.url(server.create())
        return subprocess.call([word.replace("{url}", url) for word in sys.argv[1:]])
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())
