"""``python -m eventbus``: the command line, wherever the console script is not on PATH."""

from eventbus_core.cli import main

if __name__ == "__main__":
    main()
