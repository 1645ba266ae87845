"""Run one server: ``python -m gateway --port 9001 --server-id server-1 --redis-uri redis://localhost:6379/0``."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

import uvicorn

from eventbus import EventBusError
from gateway.app import create_app


def main() -> None:
    """Serve until told to stop."""
    parser = ArgumentParser("python -m gateway", description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=9001, help="port to listen on")
    parser.add_argument("--server-id", help="name of this server; generated if not given")
    parser.add_argument("--redis-uri", default="memory://", help="broker of all servers; memory:// is for a single one")
    parser.add_argument("--url", help="address at which browsers reach this server; ws://HOST:PORT if not given")
    parser.add_argument("--drain", type=float, default=10.0, help="seconds over which SIGTERM has the browsers leave")
    args = parser.parse_args()
    try:
        app = create_app(args.redis_uri, args.server_id, args.url or f"ws://{args.host}:{args.port}", args.drain)
    except EventBusError as error:
        parser.error(str(error))
    # The pings detect browsers that disappeared without closing their connection.
    uvicorn.run(app, host=args.host, port=args.port, ws_max_size=16_384, ws_ping_interval=5, ws_ping_timeout=5)


if __name__ == "__main__":
    main()
