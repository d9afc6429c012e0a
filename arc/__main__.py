"""`python -m arc`: the same as the command `arc`."""

from arc.cli import main

if __name__ == "__main__":
    main()
