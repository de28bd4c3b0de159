"""Make `python -m clearway` the same as `clearway`."""

from clearway.cli import main

if __name__ == "__main__":
    main()
