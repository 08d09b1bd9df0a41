"""``python -m kdbench`` and the ``kdbench`` command."""

from kdbench.cli.app import main

if __name__ == "__main__":
    main()
