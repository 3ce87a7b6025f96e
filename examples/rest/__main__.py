"""Serve the REST API of the atlas: `python -m examples.rest`."""

import argparse

import uvicorn
from rich.console import Console

from examples.atlas.database import Database, database_url
from examples.rest.server import make_app

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m examples.rest", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    Console(stderr=True).print(
        f"Try the endpoints: http://{options.host}:{options.port}/docs", soft_wrap=True
    )
    app = make_app(Database(database_url()))
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
