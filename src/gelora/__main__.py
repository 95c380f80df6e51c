"""Run the command line as ``python -m gelora``."""

from gelora.cli import main

if __name__ == "__main__":
    main()
