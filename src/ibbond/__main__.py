"""`python -m ibbond`: the command, for an environment whose `bin` is not in PATH."""

from ibbond.cli.entry import main

if __name__ == "__main__":
    main()
