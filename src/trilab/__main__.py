"""`python -m trilab`: the same as the console script."""

from trilab.cli import main

if __name__ == "__main__":
    main()
