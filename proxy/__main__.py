"""`python -m proxy` is the `tally` command."""

from proxy.cli import main

if __name__ == "__main__":
    main()
