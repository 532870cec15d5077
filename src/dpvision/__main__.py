"""`python -m dpvision`: the command line, for launchers that start modules."""

from dpvision.cli.main import main

if __name__ == "__main__":
    main()
