"""Serve the atlas with GraphiQL: `python -m examples.atlas.serve`."""

import argparse

import uvicorn
from rich.console import Console

from examples.atlas.database import Database, database_url
from examples.atlas.server import make_app
from examples.atlas.ways import WAYS

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m examples.atlas.serve", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--way",
        choices=WAYS,
        default="prefetching",
        help="how resolvers load; 'plain' shows the N+1 queries (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    Console(stderr=True).print(
        f"GraphiQL: http://{options.host}:{options.port}/ "
        "(each answer shows its SQL statements under 'extensions')",
        soft_wrap=True,
    )
    app = make_app(Database(database_url()), options.way)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
