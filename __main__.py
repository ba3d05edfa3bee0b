"""`python -m yardmaster` and `torchrun -m yardmaster`."""

from .server.cli.main import main

if __name__ == "__main__":
    main()
