"""``python -m evomerge``: the same as the ``evomerge`` command."""

from evomerge.cli.app import main

if __name__ == "__main__":
    main()
